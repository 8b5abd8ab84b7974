"""Files of users: find the images in a folder, and read a file."""

import os
from collections.abc import Iterable
from pathlib import Path

from mdeq_jax.images.decoding import Pixels, decode
from mdeq_jax.training.reader import BadRecordError

# Formats that OpenCV reads.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp", ".tif", ".tiff")


def visible(names: Iterable[str]) -> list[str]:
    """Return the names of files and folders that a user put there, in order.

    Systems and viewers add other files, such as `.thumbs`, `._photo.jpg` and `__MACOSX`.
    """
    return [name for name in names if not name.startswith(".") and name != "__MACOSX"]


def list_images(folder: Path, *, below: bool = False) -> list[str]:
    """Return the paths of the visible image files relative to a folder, sorted part by part.

    The list is empty if the folder does not exist. Its entries are strings, because a million Paths
    take long.

    Args:
      folder: folder to search.
      below: whether to search the visible folders below it as well.
    """
    found, start = [], len(os.path.join(folder, ""))
    for parent, folders, files in os.walk(folder):
        folders[:] = visible(folders) if below else []
        images = [name for name in visible(files) if name.lower().endswith(IMAGE_SUFFIXES)]
        found += [os.path.join(parent, name)[start:] for name in images]
    return sorted(found, key=lambda path: path.split(os.sep))


def read_file(path: str | Path, length: int = -1) -> bytes:
    """Return the bytes of a file.

    Args:
      path: path of the file.
      length: number of first bytes to return; by default all bytes.

    Raises:
      BadRecordError: the file cannot be read.
      OSError: its folder has vanished.
    """
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError as error:
        raise unreadable(str(path), Path(path).parent, error) from error


def read_image(path: Path) -> Pixels:
    """Return the pixels of an image file, RGB. A rotation in its EXIF data is ignored.

    Raises:
      BadRecordError: the file cannot be read, is not an image that OpenCV reads, or is truncated.
      OSError: its folder has vanished.
    """
    return decode(read_file(path), str(path))


def unreadable(name: str, folder: Path, error: Exception) -> BadRecordError | OSError:
    """Return the error to raise where one example cannot be read.

    Args:
      name: name of the example.
      folder: folder that the example is stored in.
      error: error that reading it raised.

    Returns:
      An `OSError` if the folder with all examples has vanished, otherwise a `BadRecordError`.
    """
    if not folder.is_dir():
        return OSError(f"the data folder {folder} has vanished.")
    return BadRecordError(name, f"cannot be read ({error}).")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark.

    Raises:
      ValueError: the text is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} of {path} is not in UTF-8; save the file as UTF-8, if it is in Latin-1 by"
            f" `iconv -f LATIN1 -t UTF-8 {path} > NEW && mv NEW {path}`."
        ) from error


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
