"""Good Broyden's method, computed from the history of its steps.

With B₀⁻¹ = −I and full steps s_n = −B_n⁻¹ g_n, the update of the inverse needs no separate pair
(u, v), because u is the next step itself (C. T. Kelley, "Iterative Methods for Linear and Nonlinear
Equations", SIAM 1995, section 7.3):

    −B_n⁻¹ = (I + s_n s_{n−1}ᵀ/‖s_{n−1}‖²) ··· (I + s_1 s_0ᵀ/‖s_0‖²)

Let v_0 = g and v_{j+1} = v_j + c_j s_{j+1} with c_j = s_jᵀ v_j / ‖s_j‖². The new step is
v_{n−1} / (1 − c_{n−1}). The coefficients obey a lower triangular system in the products s_jᵀg and
s_jᵀs_i. The inverse of its matrix, called `coefficients` below, gains one row per step. The new
step is a sum of g and earlier steps. Its products with earlier steps follow from known products, as
long as rounding allows. A step therefore costs one pass over the history for the products with g
and one pass for the sum. The history takes half the memory of the pairs (u, v) of `lib/solvers.py`
(locuslab/deq).

Long histories are taken in blocks of rows, each with its own triangular system: block after block
turns v_{first} into v_{last + 1}. A step works only on blocks that are filled. The memory of the
systems grows with the number of rows, not with its square.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mdeq_jax.checks import require, require_int
from mdeq_jax.solvers.norms import expanded, inner, norm, quotient, reciprocal, scale, vary_together
from mdeq_jax.solvers.pairs import Pairs
from mdeq_jax.solvers.rows import Rows
from mdeq_jax.solvers.solver import Point, Solver, State

# Products that follow from others are recomputed where the bound of their error exceeds this many
# roundings. In float32 an error of a few per cent loses convergence where a step cancels a lot.
_MOST_ROUNDINGS = 1e3

# Rows of a block. A history of up to twice as many rows is one block. Reading part of a history
# copies that part, which costs more than reading some rows that are not filled.
_BLOCK = 64


class History(NamedTuple):
    """The steps of a solve, in blocks of `block` rows.

    Attributes:
      steps: row n is step s_n.
      coefficients: (B, rows, block), row j of a block's lower triangular matrix. It maps the
        products s_iᵀv to c_j, for i in the block of j; v is g after the preceding blocks.
      gram: (B, rows, block), the products s_jᵀs_i, for i in the block of j.
      errors: (B, rows), entry n bounds the error of s_jᵀs_n, j < n, by ε ‖s_j‖ errors_n, where ε is
        the relative error of one inner product; at least ‖s_n‖.
    """

    steps: Rows
    coefficients: Float[Array, "B rows block"]
    gram: Float[Array, "B rows block"]
    errors: Float[Array, "B rows"]

    @classmethod
    def empty(cls, rows: int, g: State) -> "History":
        """Return room for at least `rows` steps of states like g."""
        block = rows if rows <= 2 * _BLOCK else _BLOCK
        rows = -(-rows // block) * block
        square = expanded(jnp.zeros_like(norm(g)), rows, block)
        return cls(Rows.empty(rows, g), square, square, square[..., 0])

    def block(self, i: Int[Array, ""]) -> "History":
        """Return the part of the history that is block i."""
        rows, block = self.gram.shape[1:]
        if rows == block:
            return self
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, i * block, block, axis=1), self)


class Passage(NamedTuple):
    """A vector after one block.

    Attributes:
      v: the vector. The term of the last coefficient is not added yet: it multiplies the first row
        of the next block.
      c: (B, block), the coefficients.
      weights: (B, block), the weight of each row in what was added to the vector.
      products: (B, block), the product of each row with the vector before the block.
    """

    v: State
    c: Float[Array, "B block"]
    weights: Float[Array, "B block"]
    products: Float[Array, "B block"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Broyden(Solver):
    """Good Broyden's method from B₀ = −I with full steps; each sample has its own inverse Jacobian.

    Attributes:
      memory: number of rows of history, at least 1. None keeps every step, in `max_steps` rows.
        Rows beyond `max_steps` stay unused.
      when_full: what happens when all rows are full. "restart" forgets all rows and takes a plain
        step. "overwrite" forgets the oldest row, as the original code does; a row then takes twice
        the memory.
    """

    memory: int | None = None
    when_full: Literal["restart", "overwrite"] = "restart"

    def __post_init__(self):
        """Check the options; raises ValueError."""
        super().__post_init__()
        if self.memory is not None:
            require_int(self, "memory", minimum=1)
        choices = ("restart", "overwrite")
        require(self, "when_full", self.when_full in choices, "'restart' or 'overwrite'")

    def init(self, point: Point) -> History | Pairs:
        """Return an empty history; with ``when_full="overwrite"``, room for pairs."""
        rows = self.memory or self.max_steps
        overwrite = self.when_full == "overwrite" and rows < self.max_steps
        return Pairs.empty(rows, point.g) if overwrite else History.empty(rows, point.g)

    def propose(self, memory: History | Pairs, point: Point) -> tuple[State, History | Pairs]:
        """Return the iterate after a full quasi-Newton step, and the memory with that step."""
        z, g, k, *_ = point
        if isinstance(memory, Pairs):
            step, memory = memory.next_step(g, k)
        else:
            n = k % (self.memory or self.max_steps)
            step, memory = _next_step(memory, g, n)
        return jax.tree.map(jnp.add, z, step), memory


def _next_step(memory: History, g: State, n: Int[Array, ""]) -> tuple[State, History]:
    """Return step n, s = −B⁻¹g, and the history with it."""
    size = memory.gram.shape[-1]
    full, count = n // size, n % size

    def through_full(i: Int[Array, ""], carry: tuple[State, Array]) -> tuple[State, Array]:
        passed = _through(memory.block(i), *carry, count=size)
        return passed.v, passed.c[:, -1]

    carry = g, vary_together(jnp.zeros_like(norm(g)), like=g)
    if size < memory.gram.shape[1]:
        carry = lax.fori_loop(0, full, through_full, carry)
    block = memory.block(full)
    passed = _through(block, *carry, count=count)
    last = lax.dynamic_index_in_dim(passed.c, jnp.maximum(count - 1, 0), 1, keepdims=False)
    length = reciprocal(1 - jnp.where(count > 0, last, carry[1]))
    step = scale(length, passed.v)
    of_rest = passed.products + _matvec(block.gram, passed.weights)
    drift = jnp.abs(length) * jnp.sum(jnp.abs(passed.weights) * block.errors, axis=1)
    return step, _append_step(memory, n, step, length[:, None] * of_rest, drift)


def _through(
    block: History, v: State, carried: Float[Array, " B"], count: Int[Array, ""] | int
) -> Passage:
    """Take v through the first `count` rows of a block.

    Args:
      block: the block.
      v: the vector before the block.
      carried: the coefficient of the row before the block, which multiplies the first row.
      count: number of rows of the block that are filled.
    """
    row = jnp.arange(block.gram.shape[-1], dtype=jnp.result_type(count))
    filled = (row < count)[None]
    products = jnp.where(filled, block.steps.inner_products(v), 0)
    corrected = products + jnp.where(filled, carried[:, None] * block.gram[:, :, 0], 0)
    c = _matvec(block.coefficients, corrected)
    weights = jnp.where(filled, jnp.concatenate([carried[:, None], c[:, :-1]], axis=1), 0)
    v = jax.tree.map(jnp.add, v, block.steps.weighted_sum(weights))
    return Passage(v, c, weights, products)


def _append_step(
    memory: History,
    n: Int[Array, ""],
    step: State,
    with_step: Float[Array, "B block"],
    drift: Float[Array, " B"],
) -> History:
    """Write step n = λ (v + Σ w_i s_i), given its products with the steps before it in its block.

    The error of these products is bounded by the error of s_jᵀv, where
    ‖v‖ ≤ ‖s_n/λ‖ + Σ |w_i| ‖s_i‖, and by the errors of s_jᵀs_i.

    Args:
      memory: the history before the step.
      n: number of the step.
      step: s_n.
      with_step: (B, block), s_jᵀs_n for the steps j < n of its block.
      drift: (B,), |λ| Σ |w_i| errors_i.
    """
    size = memory.gram.shape[-1]
    full, count = n // size, n % size
    row = jnp.arange(size, dtype=n.dtype)[None]
    steps = memory.steps.write(n, step)
    squared = inner(step, step)
    least = jnp.sqrt(squared)
    error = least + 2 * drift
    lost = error > _MOST_ROUNDINGS * least
    with_step = lax.cond(
        lost.any(),
        lambda: jnp.where(
            lost[:, None],
            memory._replace(steps=steps).block(full).steps.inner_products(step),
            with_step,
        ),
        lambda: with_step,
    )
    with_step = jnp.where(row < count, with_step, 0) + jnp.where(row == count, squared[:, None], 0)
    new = _new_row(memory.block(full).coefficients, count, with_step)
    put = lax.dynamic_update_slice_in_dim
    gram = put(memory.gram, with_step[:, None], n, axis=1)
    column = (jnp.zeros_like(n), full * size, count)
    return History(
        steps=steps,
        coefficients=put(memory.coefficients, new[:, None], n, axis=1),
        gram=lax.dynamic_update_slice(gram, with_step[..., None], column),
        errors=put(memory.errors, jnp.where(lost, least, error)[:, None], n, axis=1),
    )


def _matvec(matrix: Float[Array, "B n m"], vector: Float[Array, "B m"]) -> Float[Array, "B n"]:
    return jnp.einsum("bij,bj->bi", matrix, vector, precision=lax.Precision.HIGHEST)


def _new_row(
    coefficients: Float[Array, "B block block"], row: Int[Array, ""], gram: Float[Array, "B block"]
) -> Float[Array, "B block"]:
    """Return row j, c_j = (s_jᵀv + Σ_{i<j} c_i s_jᵀs_{i+1}) / ‖s_j‖², given gram_i = s_jᵀs_i.

    A step of length 0 has a row of zeros (0/0 counts as 0). Rows further down may be left from
    before a restart; gram is 0 there, so they have no effect.
    """
    shifted = jnp.pad(gram[:, 1:], ((0, 0), (0, 1)))
    at_row = (jnp.arange(gram.shape[-1], dtype=row.dtype) == row)[None]
    new = _matvec(coefficients.mT, shifted) + at_row.astype(gram.dtype)
    squared = jnp.where(at_row, gram, 0).sum(axis=1, keepdims=True)
    return quotient(new, squared)
