"""The architecture of a language model, checked when it is created."""

import dataclasses
from typing import Any, Literal, Self, get_args

import jax

from mdeq_jax.checks import require, require_int, require_number, require_one_of

Kind = Literal["post", "pre", "stacked"]
Published = Literal["deq", "deq-preln", "torchdeq"]

_MINIMUM = {
    "width": 2,
    "embedding_width": 1,
    "heads": 1,
    "inner_width": 1,
    "layers": 1,
    "memory": 0,
    "local": 0,
    "div_val": 1,
}
_SWITCHES = ("tie_projections", "weight_norm", "remat")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of a DEQ-Transformer.

    Attributes:
      kind: where the cell normalises. "post" is LayerNorm after each residual sum, "pre" is
        LayerNorm before attention and feed-forward network, both without scale and bias. "stacked"
        is TorchDEQ's cell: several pre-LN layers, with scales and biases.
      width: width D of the state; even.
      embedding_width: width of the vectors of the most frequent words.
      heads: number of attention heads; divides the width.
      inner_width: inner width of the feed-forward network.
      layers: number of layers of a "stacked" cell; the other kinds have one layer.
      memory: number of positions M that are carried to the next segment.
      local: number of positions, its own included, that a position attends to at most; 0 is no
        limit.
      cutoffs: rising word numbers at which the clusters after the first one begin; () is one
        cluster, and the full softmax.
      div_val: the vectors of cluster i have the width embedding_width // div_val**i.
      tie_projections: whether embedding and softmax share the projections of the clusters after
        the first one. Their word vectors are always shared.
      weight_norm: whether the linear maps of the cell are weight-normed.
      dropout: probability in [0, 1) that a channel is zero, for a whole sample and solve.
      attention_dropout: probability in [0, 1) that an attention weight is zero, for a whole solve.
      remat: whether a backward pass through the cell recomputes what is inside it, to save memory
        where several applications are differentiated. For a CPU, XLA drops the barriers that keep
        the second computation late, so that it takes time and saves nothing.

    Examples:
      >>> ModelConfig(width=32).heads
      4
      >>> ModelConfig(width=30)
      Traceback (most recent call last):
      ValueError: ModelConfig.heads is 4; it must be a divisor of width 30.
    """

    kind: Kind = "post"
    width: int = 64
    embedding_width: int = 64
    heads: int = 4
    inner_width: int = 256
    layers: int = 3
    memory: int = 64
    local: int = 0
    cutoffs: tuple[int, ...] = ()
    div_val: int = 1
    tie_projections: bool = True
    weight_norm: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    remat: bool = False

    def __post_init__(self):
        """Check every field; raises ValueError that names the field, its value and the remedy."""
        kinds = " or ".join(map(repr, get_args(Kind)))
        require(self, "kind", self.kind in get_args(Kind), kinds)
        for field, minimum in _MINIMUM.items():
            require_int(self, field, minimum)
        require(self, "width", self.width % 2 == 0, "even, for sines and cosines")
        require(self, "heads", self.width % self.heads == 0, f"a divisor of width {self.width}")
        require(
            self, "cutoffs", _is_rising(self.cutoffs), "a tuple of rising whole numbers above 0"
        )
        narrowest = self.div_val ** len(self.cutoffs)
        fits = narrowest <= self.embedding_width
        most = f"small enough for {len(self.cutoffs) + 1} clusters of {self.embedding_width} // "
        require(self, "div_val", fits, most + "div_val**i, each above 0")
        for field in _SWITCHES:
            require(self, field, isinstance(getattr(self, field), bool), "True or False")
        for field in ("dropout", "attention_dropout"):
            require_number(self, field, lambda x: 0 <= x < 1, "in [0, 1)")

    @classmethod
    def published(cls, name: Published) -> Self:
        """Return the architecture of a published model of WikiText-103.

        The vocabulary has 267,735 words. Dropout and memory belong to the recipe: they are off and
        150 positions.

        Args:
          name: "deq" and "deq-preln" of locuslab/deq, or "torchdeq", the deq-lm of TorchDEQ.

        Raises:
          ValueError: there is no published model of this name.

        Examples:
          >>> ModelConfig.published("torchdeq").inner_width
          14800
        """
        require_one_of("name", name, get_args(Published))
        kinds: dict[Published, Kind] = {"deq": "post", "deq-preln": "pre", "torchdeq": "stacked"}
        return cls(
            kind=kinds[name],
            width=700,
            embedding_width=700,
            heads=10,
            inner_width=14800 if name == "torchdeq" else 48000,
            memory=150,
            local=1000,
            cutoffs=(20000, 40000, 200000),
            div_val=4,
        )

    @property
    def cell_layers(self) -> int:
        """Number of layers of the cell."""
        return self.layers if self.kind == "stacked" else 1

    @property
    def has_projections(self) -> bool:
        """Whether word vectors are projected to the width."""
        return self.div_val > 1 or self.embedding_width != self.width


def _is_rising(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and all(isinstance(x, int) and not isinstance(x, bool) for x in values)
        and all(a < b for a, b in zip((0, *values), values, strict=False))
    )
