"""Find the images to predict, and turn their pixels into a model's input."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mdeq_jax.vision.data import Dataset
from mdeq_jax.vision.data.files import IMAGE_SUFFIXES, list_images


def find_images(inputs: Iterable[str], output: Path) -> dict[str, Path]:
    """Return the images by the names of their predictions, each folder sorted by path.

    The name of an image is its stem; in a folder it is the path from there, without suffix.

    Args:
      inputs: images, and folders that are searched with all visible folders below them.
      output: folder that predictions are written to.

    Raises:
      ValueError: an input does not exist, a folder holds no image or contains the output, or two
        images would have predictions of the same name.
    """
    found: dict[str, Path] = {}
    for source in map(Path, inputs):
        for name, path in _images_of(source, output).items():
            if name in found:
                raise ValueError(
                    f"{path} and {found[name]} would have predictions of the same name, {name!r}; "
                    "rename one, or predict them into folders of their own."
                )
            found[name] = path
    return found


def _images_of(source: Path, output: Path) -> dict[str, Path]:
    if source.is_file():
        return {source.stem: source}
    if not source.is_dir():
        raise ValueError(f"{source} does not exist; --input takes images and folders of images.")
    if output.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{output} lies in {source}, whose images are predicted; use another --output."
        )
    paths = [source / name for name in list_images(source, below=True)]
    if not paths:
        raise ValueError(
            f"{source} holds no image ({', '.join(IMAGE_SUFFIXES)}); put images there."
        )
    if len({path.with_suffix("") for path in paths}) < len(paths):
        raise ValueError(
            f"{source} holds images that differ by their suffix alone, whose predictions would "
            "have the same name; rename them."
        )
    return {str(path.relative_to(source).with_suffix("")): path for path in paths}


def model_input(
    image: UInt8[np.ndarray, "H W 3"], task: str, dataset: Dataset
) -> Float[np.ndarray, "height width 3"]:
    """Return an image as input of a model that was trained on a data set.

    A segmentation model takes the image at its own size. A classifier takes it as in evaluation.

    Args:
      image: the image, RGB.
      task: task of the model, "classification" or "segmentation".
      dataset: data set that the model was trained on.
    """
    return dataset.normalise(dataset.fit(image) if task == "classification" else image)
