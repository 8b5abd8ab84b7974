"""What TFDS prepared as ArrayRecord, read without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mdeq_jax.vision.data.dataset import Example
from mdeq_jax.vision.data.files import unreadable
from mdeq_jax.vision.data.official import ARCHIVES


@dataclasses.dataclass(frozen=True)
class Prepared(Sequence[Example]):
    """The examples of a split, read on access.

    Attributes:
      source: of TFDS.
      folder: that it reads.
    """

    source: Any
    folder: Path

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.source)

    def __getitem__(self, index: Any) -> Example:
        """Return an example as TFDS has it, images encoded."""
        try:
            return self.source[index]
        except RuntimeError as error:  # whatever is wrong with the file
            name = f"record {index} of {self.source.split} in {self.folder}"
            raise unreadable(name, self.folder, error) from error


def open_prepared(
    name: str, data_dir: str | None, split: str, *, images: Sequence[str], otherwise: str = ""
) -> Prepared:
    """Return the examples of a split that the stock builder of TFDS prepared.

    Args:
      name: of the builder, with that of its config, if it has several.
      data_dir: folder of all TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      split: name of the split.
      images: features to leave encoded.
      otherwise: what else to say where it is not prepared.

    Raises:
      ValueError: it is not prepared, or not as ArrayRecord, or without this split.
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
    except NotImplementedError as error:  # TFDS's word for a format without random access
        raise ValueError(
            f"{folder} is in a format that cannot be read without TensorFlow; remove it and prepare"
            f" it by {command}, as ArrayRecord."
        ) from error
    return Prepared(source, folder)
