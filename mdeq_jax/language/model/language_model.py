"""The language model: words, the equilibrium over them and their past, and the next words.

Sources: Bai, Kolter and Koltun, "Deep Equilibrium Models", NeurIPS 2019, arXiv 1909.01377; Bai,
Koltun and Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021, arXiv
2106.14342; DEQ-Sequence/models of locuslab/deq.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from mdeq_jax.implicit import Solution
from mdeq_jax.language.model.attention import position_vectors
from mdeq_jax.language.model.cell import Cell, CellArgs, Context, cell_function
from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.dropout import Masks, draw_masks, masked
from mdeq_jax.language.model.vocabulary import Vocabulary
from mdeq_jax.layers import weight_norm
from mdeq_jax.layers.modules import normal_init
from mdeq_jax.solvers.keys import sample_keys
from mdeq_jax.solvers.norms import to_working_dtype

Variables = Mapping[str, PyTree]
# A `DEQ`, or a layer of a training step.
Layer = Callable[[Callable[[Array, CellArgs], Array], Array, CellArgs], Solution]


class Memory(NamedTuple):
    """What one segment passes on to the next, for each sample.

    Attributes:
      z: equilibria of the last M positions.
      u: injections of the last M positions.
      filled: how many of the last of these positions hold something.
    """

    z: Float[Array, "B M D"]
    u: Float[Array, "B M 3*D"]
    filled: Int[Array, " B"]


class Output(NamedTuple):
    """What a pass returns.

    Attributes:
      z: the equilibrium.
      hidden: what the softmax sees: the equilibrium, in training with dropout.
      memory: the memory for the next segment, without gradient.
      solution: what the equilibrium layer returned.
    """

    z: Float[Array, "B L D"]
    hidden: Float[Array, "B L D"]
    memory: Memory
    solution: Solution


class Network(nn.Module):
    """The parameters of a language model, with plain kernels.

    Attributes:
      config: the architecture.
      vocabulary_size: number of words.
      dtype: dtype in which the linear maps compute; None is the dtype of inputs and parameters.
    """

    config: ModelConfig
    vocabulary_size: int
    dtype: str | None = None

    def setup(self):
        """Declare the parameters."""
        self.vocabulary = Vocabulary(self.config, self.vocabulary_size, self.dtype)
        self.injection = nn.Dense(3 * self.config.width, dtype=self.dtype, kernel_init=normal_init)
        self.cell = Cell(self.config, self.dtype)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Return the state after one application without a memory; `init` uses every parameter."""
        memory = empty_memory(self.config, len(tokens), 0)
        context = self.context(tokens, memory, Masks())
        return self.cell(jnp.zeros_like(context.u[..., : self.config.width]), context)

    def context(self, tokens: Int[Array, "B L"], memory: Memory, masks: Masks) -> Context:
        """Return what the cell sees beside the state.

        Args:
          tokens: word numbers.
          memory: what the segment before passed on.
          masks: masks of dropout.
        """
        u = to_working_dtype(self.injection(masked(self.vocabulary.embed(tokens), masks.words)))
        count = memory.z.shape[1] + tokens.shape[1]
        positions = jnp.asarray(position_vectors(count, self.config.width), u.dtype)
        past = self.cell.past(memory.z, memory.u, masked(positions[None], masks.positions))
        return Context(u, past, memory.filled, masks.layers)


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A DEQ-Transformer: the equilibrium z = cell(z, words, memory), and a softmax over words.

    Attributes:
      config: the architecture.
      vocabulary: number of words V.
      dtype: dtype in which the linear maps compute, "bfloat16" or None. None is the dtype of the
        parameters. State, memory and log probabilities have at least 32 bits.
    """

    config: ModelConfig
    vocabulary: int
    dtype: str | None = None

    def init(self, key: Key[Array, ""], tokens: Int[Array, "B L"]) -> dict[str, PyTree]:
        """Return random variables, float32; weight-normed kernels as direction and length.

        Args:
          key: the random key.
          tokens: word numbers; only their shape is used.
        """
        like = jax.ShapeDtypeStruct(tokens.shape, jnp.int32)
        variables = dict(self._network.lazy_init(key, like))
        if self.config.weight_norm:
            variables["params"] = weight_norm.split(
                variables["params"], lambda name: name == "cell"
            )
        return variables

    def init_memory(self, batch_size: int, length: int | None = None) -> Memory:
        """Return an empty memory.

        Args:
          batch_size: number of samples B.
          length: number of positions M; None is config.memory.
        """
        return empty_memory(
            self.config, batch_size, self.config.memory if length is None else length
        )

    def apply(
        self,
        variables: Variables,
        tokens: Int[Array, "B L"],
        memory: Memory | None = None,
        *,
        deq: Layer,
        z0: Float[Array, "B L D"] | None = None,
        train: bool = False,
        key: Key[Array, "..."] | None = None,
    ) -> Output:
        """Return the equilibrium over the words and the memory.

        Args:
          variables: variables as `init` returns them.
          tokens: word numbers in [0, V).
          memory: what the segment before passed on, of any number of positions; None is nothing.
          deq: the equilibrium layer: a `DEQ`, or a layer of a training step.
          z0: where the solve starts; zeros by default.
          train: whether dropout is on, which needs a key.
          key: one random key; or an array of keys (B,), one for each sample, as `sample_keys`
            returns them.

        Raises:
          ValueError: tokens, memory or z0 do not fit, or the key is missing; at trace time.
        """
        memory = self.init_memory(len(tokens), 0) if memory is None else memory
        self._check(tokens, memory, z0)
        params = weight_norm.merge(variables["params"])
        masks = self._masks(tokens, memory, key) if train else Masks()
        network = self._network.bind({"params": params})
        context = network.context(tokens, memory, masks)
        start = jnp.zeros_like(context.u[..., : self.config.width]) if z0 is None else z0
        f = cell_function(self.config, self.dtype)
        solution = deq(f, start, CellArgs(params["cell"], context))
        carried = _carry(memory, solution.z, context.u)
        return Output(solution.z, masked(solution.z, masks.output), carried, solution)

    def nll(
        self, variables: Variables, z: Float[Array, "B L D"], targets: Int[Array, "B L"]
    ) -> Float[Array, "B L"]:
        """Return −log p of each position's next word, in nats.

        Args:
          variables: variables as `init` returns them.
          z: equilibria, in training `Output.hidden`.
          targets: word numbers in [0, V).
        """
        return self._vocabulary(variables).nll(z, targets)

    def log_probabilities(
        self, variables: Variables, z: Float[Array, "B L D"]
    ) -> Float[Array, "B L V"]:
        """Return log p of every word as the next one of each position, in nats.

        Args:
          variables: variables as `init` returns them.
          z: equilibria.
        """
        return self._vocabulary(variables).log_probabilities(z)

    @property
    def _network(self) -> Network:
        return Network(self.config, self.vocabulary, self.dtype)

    def _vocabulary(self, variables: Variables) -> Vocabulary:
        params = variables["params"]["vocabulary"]
        return Vocabulary(self.config, self.vocabulary, self.dtype).bind({"params": params})

    def _masks(
        self, tokens: Int[Array, "B L"], memory: Memory, key: Key[Array, "..."] | None
    ) -> Masks:
        if not (self.config.dropout or self.config.attention_dropout):
            return Masks()
        keys = sample_keys(key, tokens)
        if keys is None:
            raise ValueError(
                "key is None; dropout in training needs one, such as jax.random.key(0)."
            )
        return draw_masks(self.config, keys, tokens.shape[1], memory.z.shape[1])

    def _check(self, tokens: Array, memory: Memory, z0: Array | None) -> None:
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"tokens are {tokens.dtype}{list(tokens.shape)}; give integers (batch, length)."
            )
        (batch, length), width = tokens.shape, self.config.width
        positions = memory.z.shape[1]
        shapes = [memory.z.shape, memory.u.shape, memory.filled.shape]
        fitting = [(batch, positions, width), (batch, positions, 3 * width), (batch,)]
        if shapes != fitting:
            raise ValueError(
                f"memory has arrays of the shapes {shapes}; they must be {fitting}. Make it by "
                "init_memory."
            )
        if z0 is not None and z0.shape != (batch, length, width):
            raise ValueError(f"z0 has the shape {z0.shape}; it must be {(batch, length, width)}.")


def empty_memory(config: ModelConfig, batch_size: int, length: int) -> Memory:
    """Return a memory that holds nothing.

    Args:
      config: the architecture.
      batch_size: number of samples B.
      length: number of positions M.
    """
    return Memory(
        jnp.zeros((batch_size, length, config.width)),
        jnp.zeros((batch_size, length, 3 * config.width)),
        jnp.zeros((batch_size,), jnp.int32),
    )


def _carry(memory: Memory, z: Float[Array, "B L D"], u: Float[Array, "B L 3*D"]) -> Memory:
    """Return the memory of the last M positions."""
    positions, length = memory.z.shape[1], z.shape[1]

    def last(old: Array, new: Array) -> Array:
        return lax.stop_gradient(jnp.concatenate([old, new], axis=1)[:, length:])

    filled = jnp.minimum(memory.filled + length, positions)
    return Memory(last(memory.z, z), last(memory.u, u), filled)
