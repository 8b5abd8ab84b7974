"""Your own folder of images and label PNGs.

ROOT/classes.txt                 the names of the classes 0, 1, ..., one a line
ROOT/{train,val}/images/NAME.*   .jpg, .jpeg, .png, .webp, .bmp, .ppm, .tif or .tiff
ROOT/{train,val}/labels/NAME.png one 8-bit channel: the class of each pixel, 255 to ignore it
"""

from pathlib import Path

from mdeq_jax.images.files import IMAGE_SUFFIXES, list_images, read_text
from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data.dataset import Dataset, require_root
from mdeq_jax.vision.data.segmentation import (
    UNKNOWN,
    Pairs,
    class_table,
    largest_size,
    pixel_labelled,
    require_pairs_exist,
)

_LAYOUT = "ROOT/classes.txt, ROOT/{train,val}/images and ROOT/{train,val}/labels"


def seg_folder(data: DataConfig) -> Dataset:
    """Return the data set that lies in `data.root`.

    Args:
      data: the data section of the config.

    Raises:
      ValueError: `data.root` is not set, or is not a folder with classes. When the data set is
        opened: the folder has another layout.
    """
    root = require_root(data, _LAYOUT)
    names = read_class_names(root / "classes.txt")
    classes = class_table(range(len(names)), range(len(names)))
    return pixel_labelled(
        data,
        names,
        open_train=lambda: Pairs(find_pairs(root / "train"), classes),
        open_eval=lambda: Pairs(find_pairs(root / "val"), classes),
        own_size=lambda: largest_size(image for image, _ in find_pairs(root / "val")),
    )


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file, one for each class.

    Args:
      path: path of the file.

    Raises:
      ValueError: there is no such file, it is not in UTF-8, it has no line, an empty line or more
        than 254 lines, or two lines are the same.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; write the names of the classes 0, 1, ... there, one a line."
            f" config.data.root must hold {_LAYOUT}."
        )
    names = tuple(line.strip() for line in read_text(path).rstrip().split("\n"))
    if not all(names) or len(names) > UNKNOWN:
        raise ValueError(
            f"{path} has {len(names)} lines, {names.count('')} of them empty; it must have 1 to"
            f" {UNKNOWN}, each the name of a class."
        )
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(
            f"{path} has the class {repeated[0]!r} more than once; give each class a name of its"
            " own."
        )
    return names


def find_pairs(split: Path) -> tuple[tuple[Path, Path], ...]:
    """Return the images of a split with their label files, sorted by name.

    Args:
      split: folder that holds `images` and `labels`.

    Raises:
      ValueError: a folder is missing or empty, an image has no label file, or two have the same.
    """
    folder, labels = split / "images", split / "labels"
    for needed in (folder, labels):
        if not needed.is_dir():
            raise ValueError(f"{needed} does not exist; config.data.root must hold {_LAYOUT}.")
    images = [folder / name for name in list_images(folder)]
    if not images:
        raise ValueError(
            f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}); put images there."
        )
    stems = {}
    for image in images:
        if image.stem in stems:
            raise ValueError(
                f"{image} and {stems[image.stem]} would have the same label file; rename one."
            )
        stems[image.stem] = image
    return require_pairs_exist((image, labels / f"{image.stem}.png") for image in images)
