"""The architecture of a reasoning model, checked when it is created."""

import dataclasses
from typing import Literal, get_args

import jax

from mdeq_jax.checks import require, require_int, require_number

Kind = Literal["recurrent", "transformer"]
Norm = Literal["none", "group", "position"]
Start = Literal["zeros", "projection"]
Mixing = Literal["attention", "mlp"]
Positions = Literal["none", "learned", "axes"]

_MINIMUM = {"width": 1, "groups": 1, "blocks": 1, "heads": 1, "layers": 1}
_WORDS = {"kind": Kind, "norm": Norm, "start": Start, "mixing": Mixing, "positions": Positions}


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of the cell and of what surrounds it.

    Attributes:
      kind: "recurrent" is a convolutional cell, which works at any size. "transformer" is a cell of
        transformer blocks for one size.
      width: number of channels of the state.
      start: initial state. "zeros", or "projection": the convolved input of a recurrent model, the
        embedded input of a transformer.
      halting: whether there is a halting head: a logit per sample that the answer is right.
      norm: normalisation inside the blocks of a recurrent cell, without scale and bias. "group" is
        GroupNorm over positions and channels, whose statistics depend on the size. "position" is
        GroupNorm over the channels of each position by itself, which does not depend on the size.
        It needs at least 3 channels per group.
      groups: number of groups of the normalisation; divides the width.
      recall: whether a recurrent cell sees the input at every application.
      blocks: number of residual blocks of a recurrent cell.
      layers: number of transformer blocks of one application.
      mixing: how positions of a transformer exchange information. "attention", or "mlp": a gated
        linear unit over the positions, as EqR and TRM have it for Sudoku.
      heads: number of attention heads; divides the width.
      expansion: inner width of a transformer's gated linear units, as a multiple of 2/3 of its
        outer width; above 0.
      positions: what a transformer adds to its input. "learned" is one vector per position. "axes"
        is a vector per row, per column, and per box if the grid is divided into boxes as in Sudoku.

    Examples:
      >>> ModelConfig(width=32).norm
      'position'
      >>> ModelConfig(width=30)
      Traceback (most recent call last):
      ValueError: ModelConfig.groups is 4; it must be a divisor of width 30.
    """

    kind: Kind = "recurrent"
    width: int = 32
    start: Start = "zeros"
    halting: bool = False
    norm: Norm = "position"
    groups: int = 4
    recall: bool = True
    blocks: int = 2
    layers: int = 2
    mixing: Mixing = "attention"
    heads: int = 4
    expansion: float = 4.0
    positions: Positions = "axes"

    def __post_init__(self):
        """Check every field; raises ValueError that names the field, its value and the remedy."""
        for field, literal in _WORDS.items():
            words = get_args(literal)
            require(self, field, getattr(self, field) in words, " or ".join(map(repr, words)))
        for field, minimum in _MINIMUM.items():
            require_int(self, field, minimum)
        for field in ("halting", "recall"):
            require(self, field, isinstance(getattr(self, field), bool), "True or False")
        require_number(self, "expansion", lambda x: x > 0, "above 0")
        if self.kind == "recurrent":
            self._check_recurrent()
        else:
            self._check_transformer()

    def _check_recurrent(self) -> None:
        divides = self.norm == "none" or self.width % self.groups == 0
        require(self, "groups", divides, f"a divisor of width {self.width}")
        # Two numbers, normalised, are always 1 and −1.
        most = self.width // 3
        fits = self.norm != "position" or self.groups <= most
        require(self, "groups", fits, f"at most {most}, for 3 channels per group of a position")
        sees_input = self.recall or self.start == "projection"
        require(self, "start", sees_input, "'projection' where recall is False")

    def _check_transformer(self) -> None:
        divides = self.mixing == "mlp" or self.width % self.heads == 0
        require(self, "heads", divides, f"a divisor of width {self.width}")
        knows_place = self.mixing == "mlp" or self.positions != "none"
        require(self, "positions", knows_place, "'learned' or 'axes' where mixing is 'attention'")
