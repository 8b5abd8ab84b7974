"""Text from a language model, token by token.

    memory, z ← the prompt;   token ~ p(· | z);   z, memory ← solve(token, memory) from z;   ...

The memory holds the equilibria of the text so far, so each token costs one solve of one position.
The solve starts from the equilibrium of the position before.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mdeq_jax.checks import require, require_int
from mdeq_jax.implicit import DEQ
from mdeq_jax.language.model.language_model import LanguageModel, Memory, Variables


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: τ of p^(1/τ), at least 0; 0 takes the most probable token.
      top_k: number of the most probable tokens that are chosen from, at least 1; None is all.
    """

    temperature: float = 1.0
    top_k: int | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "temperature", self.temperature >= 0, "at least 0")
        if self.top_k is not None:
            require_int(self, "top_k", minimum=1)

    def __call__(self, key: PRNGKeyArray, log_p: Float[Array, "B V"]) -> Int[Array, " B"]:
        """Return a token for each row of log probabilities."""
        if self.temperature == 0:
            return log_p.argmax(axis=-1)
        if self.top_k is not None and self.top_k < log_p.shape[-1]:
            least = jax.lax.top_k(log_p, self.top_k)[0][:, -1:]
            log_p = jnp.where(log_p >= least, log_p, -jnp.inf)
        return jax.random.categorical(key, log_p / self.temperature)


class Position(NamedTuple):
    """What is known of a text at its last position.

    Attributes:
      z: equilibrium of the last position.
      memory: the memory of the text, the last position included.
      solver_steps: number of steps of each solve that led here since the position before.
    """

    z: Float[Array, "1 1 D"]
    memory: Memory
    solver_steps: Int[Array, " n"]


class Token(NamedTuple):
    """A token of the generated text.

    Attributes:
      number: its number in the vocabulary.
      solver_steps: number of solver steps of the solve that it was drawn after.
    """

    number: int
    solver_steps: int


class Generator:
    """Continues texts with a trained model.

    Attributes:
      positions: number of positions of the memory.
    """

    def __init__(
        self,
        model: LanguageModel,
        variables: Variables,
        deq: DEQ,
        *,
        positions: int,
        piece: int = 64,
        warm_start: bool = True,
    ):
        """Prepare the model.

        Args:
          model: the model.
          variables: its variables.
          deq: finds the equilibria.
          positions: number of positions of the memory, at least 1.
          piece: number of tokens of a prompt that are solved together, at least 1.
          warm_start: whether the solve of a token starts from the equilibrium of the position
            before it, instead of zeros.
        """
        self.positions, self._piece, self._warm_start = positions, piece, warm_start
        self._empty, self._width = model.init_memory(1, positions), model.config.width
        self._advance = functools.partial(_advance, model, deq, variables)
        self._draw = functools.partial(_draw, model, variables)

    def read(self, prompt: Int[np.ndarray, " n"]) -> Position:
        """Return the last position of a prompt.

        The prompt is solved in pieces, each with the memory of those before, and its last tokens,
        at least one, are solved one by one. Only the last `positions` tokens of a longer prompt
        stay in the memory.

        Args:
          prompt: numbers of at least one token.

        Raises:
          ValueError: the prompt is empty.
        """
        if len(prompt) == 0:
            raise ValueError("the prompt has no token; give at least one word or character.")
        tokens = jnp.asarray(prompt[None], jnp.int32)
        whole = (len(prompt) - 1) // self._piece * self._piece
        starts = [*range(0, whole, self._piece), *range(whole, len(prompt))]
        z, memory, steps = self._zeros(1), self._empty, []
        for start, stop in itertools.pairwise([*starts, len(prompt)]):
            z0 = self._start(z) if stop - start == 1 else self._zeros(stop - start)
            z, memory, taken = self._advance(tokens[:, start:stop], memory, z0)
            steps.append(taken)
        return Position(z, memory, jnp.concatenate(steps))

    def generate(
        self, position: Position, length: int, key: PRNGKeyArray, sampling: Sampling
    ) -> Iterator[Token]:
        """Yield the tokens that continue a text.

        Args:
          position: the last position of the text, as `read` returns it.
          length: number of tokens.
          key: key of the draws.
          sampling: how tokens are chosen.
        """
        z, memory, steps = position
        for number in range(length):
            token = self._draw(jax.random.fold_in(key, number), z, sampling=sampling)
            yield Token(int(token[0]), int(steps[-1]))
            if number + 1 < length:
                z, memory, steps = self._advance(token[None], memory, self._start(z))

    def _zeros(self, length: int) -> Float[Array, "1 L D"]:
        return jnp.zeros((1, length, self._width))

    def _start(self, z: Float[Array, "1 1 D"]) -> Float[Array, "1 1 D"]:
        """Return where the solve after a position starts."""
        return z if self._warm_start else self._zeros(1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _advance(
    model: LanguageModel,
    deq: DEQ,
    variables: Variables,
    tokens: Int[Array, "1 L"],
    memory: Memory,
    z0: Float[Array, "1 L D"],
) -> Position:
    """Return the position after some tokens."""
    out = model.apply(variables, tokens, memory, deq=deq, z0=z0)
    return Position(out.z[:, -1:], out.memory, out.solution.result.steps)


@functools.partial(jax.jit, static_argnums=0, static_argnames="sampling")
def _draw(
    model: LanguageModel,
    variables: Variables,
    key: PRNGKeyArray,
    z: Float[Array, "1 1 D"],
    *,
    sampling: Sampling,
) -> Int[Array, " 1"]:
    """Return the token after a position."""
    return sampling(key, model.log_probabilities(variables, z)[:, -1])
