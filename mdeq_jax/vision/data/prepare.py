"""Data sets that TFDS prepares in ArrayRecord from their official archives."""

import dataclasses
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from mdeq_jax.vision.data import cityscapes, cityscapes_archives
from mdeq_jax.vision.data.prepared import ARCHIVES

# Number of members in each archive of ImageNet: synsets, and images.
_IMAGENET_COUNTS = (1000, 50_000)


@dataclasses.dataclass(frozen=True)
class Source:
    """How a data set is prepared.

    Attributes:
      builder: the builder of TFDS.
      check: function of the folder and of whether archives may hold a part of the images. It raises
        ValueError if archives are incomplete.
    """

    builder: str
    check: Callable[[Path, bool], Any]


def _check_imagenet(folder: Path, partial: bool) -> None:
    names, site = ARCHIVES["imagenet2012"]
    for name, count in zip(names, _IMAGENET_COUNTS, strict=True):
        try:
            with tarfile.open(folder / name, "r:") as archive:
                found = len(archive.getnames())
        except tarfile.TarError as error:
            raise ValueError(
                f"{folder / name} is not a complete tar file ({error}); copy or download it again"
                f" from {site}."
            ) from error
        if found != count and not partial:
            raise ValueError(
                f"{folder / name} has {found} members, but the official archive has {count};"
                f" download it again from {site} (--partial accepts it as it is)."
            )


def _check_cityscapes(folder: Path, partial: bool) -> None:
    counts = None if partial else cityscapes_archives.COUNTS
    cityscapes_archives.check_archives(folder, counts)


SOURCES = {
    "cifar10": Source(
        builder="cifar10",
        check=lambda folder, partial: None,  # TFDS compares checksums
    ),
    "imagenet2012": Source(
        builder="imagenet2012",
        check=_check_imagenet,
    ),
    "cityscapes": Source(
        builder=cityscapes.BUILDER,
        check=_check_cityscapes,
    ),
}


def prepare(name: str, folder: Path, data_dir: str | None, *, partial: bool = False) -> Path:
    """Prepare a data set through TFDS, and return its folder.

    Args:
      name: a key of `SOURCES`.
      folder: folder with the official archives.
      data_dir: folder of all TFDS data sets, for `data.dir`; None for TFDS's default.
      partial: whether archives may hold a part of the images.

    Raises:
      ValueError: an archive is missing or incomplete, or TensorFlow is not installed.
    """
    source, archives = SOURCES[name], ARCHIVES[name]
    for archive in archives.names:
        if not (folder / archive).is_file():
            raise ValueError(f"{folder / archive} does not exist; {archives.into(folder)}.")
    source.check(folder, partial)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"TFDS needs TensorFlow to prepare {name}; `pip install -r requirements-prepare.txt` in"
            " an environment of its own, and run this command there."
        ) from error
    builder = tfds.builder(source.builder, data_dir=data_dir)
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=folder),
        )
    except NonMatchingChecksumError as error:
        raise ValueError(
            f"an archive in {folder} is not the official one; download it again from"
            f" {archives.site}. {error}"
        ) from error
    return Path(builder.data_path)
