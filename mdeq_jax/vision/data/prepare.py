"""Data sets that TFDS prepares in ArrayRecord from their official archives."""

import tarfile
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from mdeq_jax.vision.data import cityscapes, cityscapes_archives
from mdeq_jax.vision.data.prepared import ARCHIVES

# Number of members in each archive of ImageNet: synsets, and images.
_IMAGENET_COUNTS = (1000, 50_000)


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


# Checks that archives are complete; for CIFAR-10, TFDS compares checksums.
_CHECKS = {"imagenet2012": _check_imagenet, "cityscapes": _check_cityscapes}
_BUILDERS = {"cityscapes": cityscapes.BUILDER}


def prepare(name: str, folder: Path, data_dir: str | None, *, partial: bool = False) -> Path:
    """Prepare a data set through TFDS, and return its folder.

    Args:
      name: a key of `ARCHIVES`.
      folder: folder with the official archives.
      data_dir: folder of all TFDS data sets, for `data.dir`; None for TFDS's default.
      partial: whether archives may hold a part of the images.

    Raises:
      ValueError: an archive is missing or incomplete, or TensorFlow is not installed.
    """
    archives = ARCHIVES[name]
    for archive in archives.names:
        if not (folder / archive).is_file():
            raise ValueError(f"{folder / archive} does not exist; {archives.into(folder)}.")
    if name in _CHECKS:
        _CHECKS[name](folder, partial)
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"TFDS needs TensorFlow to prepare {name}; `pip install -r requirements-prepare.txt` in"
            " an environment of its own, and run this command there."
        ) from error
    builder = tfds.builder(_BUILDERS.get(name, name), data_dir=data_dir)
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
