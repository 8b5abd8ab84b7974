"""The official Cityscapes archives: check and extract them, and write the originals' lists."""

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mdeq_jax.images.files import list_images, read_text, visible
from mdeq_jax.vision.data.cityscapes import list_path
from mdeq_jax.vision.data.prepared import ARCHIVES
from mdeq_jax.vision.data.segmentation import require_pairs_exist

(IMAGES, LABELS), SITE = ARCHIVES["cityscapes"]
COUNTS = {"train": 2975, "val": 500, "test": 1525}

_IMAGE_END, _LABEL_END = "_leftImg8bit.png", "_gtFine_labelIds.png"


def check_archives(folder: Path, counts: Mapping[str, int] | None = COUNTS) -> dict[str, int]:
    """Return the number of images of each split, after a check that the archives are complete.

    Args:
      folder: folder with both archives.
      counts: number of images that each split must have; None allows any number.

    Raises:
      ValueError: an archive is missing, broken off, or incomplete, or an image has no label file.
    """
    images = _stems(folder / IMAGES, "leftImg8bit", _IMAGE_END)
    labels = _stems(folder / LABELS, "gtFine", _LABEL_END)
    found = {split: sum(stem.parts[0] == split for stem in images) for split in COUNTS}
    if counts is not None and found != dict(counts):
        raise ValueError(
            f"{folder / IMAGES} holds {found} images, but the official archive holds"
            f" {dict(counts)}; download it again from {SITE} (--partial accepts it as it is)."
        )
    without = sorted(images - labels)
    if without:
        raise ValueError(
            f"{folder / LABELS} has no label file for {len(without)} images, the first"
            f" gtFine/{without[0]}{_LABEL_END}; download it again from {SITE}."
        )
    return found


def extract(folder: Path, root: Path) -> None:
    """Extract images and label files below ROOT/cityscapes.

    Args:
      folder: folder with both archives.
      root: folder to extract into, for `data.root`.

    Raises:
      ValueError: a file in an archive is damaged.
    """
    for archive, end in ((IMAGES, _IMAGE_END), (LABELS, _LABEL_END)):
        with zipfile.ZipFile(folder / archive) as contents:
            for name in _members(contents, end):
                try:
                    contents.extract(name, root / "cityscapes")
                except zipfile.BadZipFile as error:
                    raise ValueError(
                        f"{name} in {folder / archive} is damaged ({error}); download the archive"
                        f" again from {SITE}."
                    ) from error


def write_lists(root: Path) -> list[str]:
    """Write the originals' lists, train.lst and val.lst, unless they exist.

    Args:
      root: folder with the extracted archives, for `data.root`.

    Returns:
      A message for each list that existed and lacks images.

    Raises:
      ValueError: there are no images, or one has no label file.
    """
    folder, notes = root / "cityscapes", []
    for split in ("train", "val"):
        source = folder / "leftImg8bit" / split
        names = [name for name in list_images(source, below=True) if name.endswith(_IMAGE_END)]
        if not names:
            raise ValueError(
                f"{source} holds no CITY/*{_IMAGE_END}; extract the archives by"
                f" --archives=DIR --root={root}."
            )
        labels = folder / "gtFine" / split
        pairs = require_pairs_exist(
            (source / name, labels / name.replace(_IMAGE_END, _LABEL_END)) for name in names
        )
        relative = [[file.relative_to(folder).as_posix() for file in pair] for pair in pairs]
        path = list_path(root, split)
        if path.exists():
            listed = {*read_text(path).split()}
            count = sum(image in listed for image, _ in relative)
            if count < len(relative):
                notes.append(
                    f"kept {path}, which lists {count} of {len(relative)} images; delete it to have"
                    " it written anew."
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{image}\t{label}\n" for image, label in relative), "utf-8")
    return notes


def _members(contents: zipfile.ZipFile, end: str) -> list[str]:
    """Return the names in an archive that have this end, without hidden files."""
    names = [name for name in contents.namelist() if name.endswith(end)]
    return [name for name in names if visible(name.split("/")) == name.split("/")]


def _stems(archive: Path, top: str, end: str) -> set[PurePosixPath]:
    """Return SPLIT/CITY/STEM for each name TOP/SPLIT/CITY/STEM + end in an archive."""
    if not archive.is_file():
        raise ValueError(f"{archive} does not exist; download it from {SITE} and put it there.")
    try:
        with zipfile.ZipFile(archive) as contents:
            names = _members(contents, end)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{archive} is not a complete zip file ({error}); copy or download it again from"
            f" {SITE}."
        ) from error
    paths = [PurePosixPath(name.removesuffix(end)) for name in names]
    return {path.relative_to(top) for path in paths if path.parts[0] == top}
