"""A text as streams: cut into rows of equal length, each of which is read piece by piece.

    row r of the batch t: tokens t·L to t·L + L − 1 of row r; the targets are the tokens after them

A carry, such as a memory, therefore passes from each piece of a row to the next.

Source: the ordered iterator of Transformer-XL (Dai et al., ACL 2019), which locuslab/deq uses.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from mdeq_jax.language.config import DataConfig
from mdeq_jax.training.batches import BatchIterator
from mdeq_jax.training.loaders import eval_batches, ordered_batches
from mdeq_jax.training.reader import Example


@dataclasses.dataclass(frozen=True)
class Streams:
    """The rows of a text.

    Attributes:
      tokens: the text. The len(tokens) % rows last tokens are left out.
      rows: number of rows, at least 1.
      length: L, number of tokens of a piece, at least 1.
      aligned: arrays of the length of the text that are cut like the targets.
    """

    tokens: Int[np.ndarray, " n"]
    rows: int
    length: int
    aligned: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> int:
        """Number of tokens of a row."""
        return len(self.tokens) // self.rows

    @property
    def pieces(self) -> int:
        """Number of whole pieces of a row."""
        return (self.columns - 1) // self.length

    def piece(self, row: int, step: int) -> Example:
        """Return a piece of a row.

        Args:
          row: number of the row, in [0, rows).
          step: number of the piece, from 0. The last one may end with the row.

        Returns:
          "tokens" and "targets", int32 (L,); the arrays of `aligned`, (L,); and "counted", bool
          (L,), which is False behind the end of the row, where the arrays are 0.
        """
        start, end = row * self.columns + step * self.length, (row + 1) * self.columns - 1
        stop = min(start + self.length, end)
        arrays = {"tokens": self.tokens[start:stop], "targets": self.tokens[start + 1 : stop + 1]}
        arrays |= {name: array[start + 1 : stop + 1] for name, array in self.aligned.items()}
        arrays["counted"] = np.ones(stop - start, bool)
        missing = self.length - (stop - start)
        return {name: np.pad(array, (0, missing)) for name, array in arrays.items()}

    def require_a_piece(self, split: str, *, whole: bool) -> None:
        """Raise ValueError if the text is too small.

        Args:
          split: name of the text, for the message.
          whole: whether a row must have a whole piece.
        """
        needed = self.rows * (1 + (self.length if whole else 1))
        if len(self.tokens) < needed:
            raise ValueError(
                f"the text {split!r} has {len(self.tokens)} tokens, too few for {self.rows} rows "
                f"of {needed // self.rows} or more: lower the batch size or config.data.length, or "
                "use a longer text."
            )


def train_streams(tokens: Int[np.ndarray, " n"], options: DataConfig) -> BatchIterator:
    """Return endless training batches of whole pieces; the streams begin anew in every epoch.

    Args:
      tokens: the text.
      options: the section ``data`` of the config: batch_size rows of pieces of `length` tokens.

    Raises:
      ValueError: the text is too small.
    """
    streams = Streams(tokens, options.batch_size, options.length)
    streams.require_a_piece("train", whole=True)

    def example(record: int) -> Example:
        return streams.piece(*divmod(record, streams.pieces))

    return ordered_batches(range(streams.rows * streams.pieces), example, options)


def eval_streams(
    tokens: Int[np.ndarray, " n"],
    options: DataConfig,
    aligned: Mapping[str, np.ndarray],
    constants: Mapping[str, Any],
) -> BatchIterator:
    """Return one pass over all pieces of a text, the last ones of the rows included.

    Args:
      tokens: the text.
      options: the section ``data`` of the config: eval_batch_size rows of pieces of `length`
        tokens.
      aligned: arrays of the length of the text that are cut like the targets.
      constants: numbers that every row has.

    Raises:
      ValueError: the text is too small.
    """
    streams = Streams(tokens, options.eval_batch_size, options.length, aligned)
    streams.require_a_piece(options.eval_split, whole=False)
    pieces = -(-(streams.columns - 1) // streams.length)

    def example(record: int) -> Example:
        step, row = divmod(record, streams.rows)
        return {**streams.piece(row, step), **constants}

    return eval_batches(range(streams.rows * pieces), example, options)
