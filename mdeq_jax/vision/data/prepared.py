"""Data sets that TFDS prepared as ArrayRecord from official archives, read without TensorFlow."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mdeq_jax.images.files import unreadable
from mdeq_jax.vision.data.dataset import Example


class Archives(NamedTuple):
    """The archives that a data set is prepared from.

    Attributes:
      names: names of the files.
      site: address to download them from.
    """

    names: tuple[str, ...]
    site: str

    def into(self, folder: str | Path) -> str:
        """Return the part of a message that asks for the archives in a folder."""
        return f"put {' and '.join(self.names)}, from {self.site}, into {folder}"


ARCHIVES = {
    "cifar10": Archives(
        ("cifar-10-binary.tar.gz",), "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    ),
    "imagenet2012": Archives(
        ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
    ),
    "cityscapes": Archives(
        ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        "https://www.cityscapes-dataset.com/downloads",
    ),
}


@dataclasses.dataclass(frozen=True)
class Prepared(Sequence[Example]):
    """The examples of a split, read on access.

    Attributes:
      source: the data source of TFDS.
      folder: the folder that it reads.
      convert: function from a record of TFDS to an example.
    """

    source: Any
    folder: Path
    convert: Callable[[Example], Example]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.source)

    def __getitem__(self, index: Any) -> Example:
        """Return the example of a record."""
        try:
            record = self.source[index]
        except RuntimeError as error:  # raised whatever is wrong with the file
            name = f"record {index} of {self.source.split} in {self.folder}"
            raise unreadable(name, self.folder, error) from error
        return self.convert(record)


def open_prepared(
    name: str,
    data_dir: str | None,
    split: str,
    *,
    images: Sequence[str],
    convert: Callable[[Example], Example] = dict,
    otherwise: str = "",
) -> Prepared:
    """Return the examples of a split that the stock builder of TFDS prepared.

    Args:
      name: the builder's name, followed by "/" and the name of its config if it has several.
      data_dir: folder of all TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      split: name of the split.
      images: names of features that stay encoded.
      convert: function from a record of TFDS to an example.
      otherwise: another remedy to name if the data set is not prepared.

    Raises:
      ValueError: the data set is not prepared, or not as ArrayRecord, or without this split.
    """
    builder = tfds.builder(name, data_dir=data_dir)
    folder = Path(builder.data_path)
    command = (
        f"`python -m mdeq_jax.commands.prepare --name={builder.name} --source=DIR"
        f" --data-dir={builder.data_dir_root}`"
    )
    if not folder.is_dir():
        raise ValueError(
            f"{folder} does not exist; {ARCHIVES[builder.name].into('a folder DIR')}, and run"
            f" {command} where requirements-prepare.txt is installed. If it is prepared elsewhere,"
            f" set config.data.dir to the folder that has {builder.name}/ in it.{otherwise}"
        )
    if split not in builder.info.splits:
        raise ValueError(
            f"{folder} has no split {split!r}, only {', '.join(builder.info.splits)}; remove it and"
            f" prepare it with all archives by {command}."
        )
    decoders: Any = {image: tfds.decode.SkipDecoding() for image in images}
    try:
        source = tfds.data_source(name, split=split, data_dir=data_dir, decoders=decoders)
    except NotImplementedError as error:  # TFDS raises it for a format without random access
        raise ValueError(
            f"{folder} is in a format that cannot be read without TensorFlow; remove it and prepare"
            f" it by {command}, as ArrayRecord."
        ) from error
    return Prepared(source, folder, convert)
