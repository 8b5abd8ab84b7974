"""What every fixed-point solver shares: its options, its result, per-sample norms.

A state ``z`` is a pytree of floating-point arrays, batch first. Inner products reduce over all axes
but the batch and over all leaves, so every quantity below is one number per sample, shape (B,).
"""

import abc
import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

State = PyTree[Float[Array, "B ..."]]
Memory = Any


class SolverResult(NamedTuple):
    """What a solve returns.

    Attributes:
      z: the iterate of the lowest residual, each sample its own; structure and dtypes of ``z0``.
        It is the start only if the start has converged or no step has a finite residual.
      steps: (B,) int32, steps that the sample took before it stopped, in [0, max_steps].
      residual: (B,) residual of ``z`` in the solver's ``stop_mode``.
      converged: (B,) bool, whether ``residual <= tol``.
      trace: (max_steps, B), entry k is the residual after step k+1; from where the sample
        stopped on, the residual of ``z``.
      states: leaves (n, B, ...), the best iterates after each of the n steps that were asked for;
        None if none was.
      best_step: (B,) int32, steps after which ``z`` was reached, in [0, steps].
    """

    z: State
    steps: Int[Array, " B"]
    residual: Float[Array, " B"]
    converged: Bool[Array, " B"]
    trace: Float[Array, "max_steps B"]
    states: PyTree[Float[Array, "n B ..."]] | None = None
    best_step: Int[Array, " B"] = None  # pyright: ignore[reportAssignmentType]


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
    """Options of every solver, and the protocol that one of your own implements.

    A subclass is a frozen dataclass, decorated with `jax.tree_util.register_static`, that adds its
    own options and the two methods below; the loop around them, with freezing, best iterates and
    the stop rule, is `mdeq_jax.solve`. The state and ``g`` reach both methods in the working dtype:
    float32 for 16-bit leaves, else the leaf's own.

    Attributes:
      max_steps: most steps of one solve, at least 1; static, it sizes the buffers.
      tol: residual at which a sample has converged, at least 0.
      stop_mode: "rel" tests ‖f(z)−z‖ / ‖f(z)‖, "abs" tests ‖f(z)−z‖. A relative residual is at
        most 1e9, its value at f(z) = 0.
      stop_scope: "sample" takes norms and stops per sample. "batch" takes norms over the whole
        batch and stops by the rules of the original code, whose relative residual is
        ‖f(z)−z‖ / (‖f(z)‖ + 1e-9).

    Examples:
      >>> import dataclasses, jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> @jax.tree_util.register_static
      ... @dataclasses.dataclass(frozen=True)
      ... class Halfway(mx.Solver):
      ...     def init(self, z, g):
      ...         return ()  # it remembers nothing
      ...     def propose(self, memory, z, g, k):
      ...         return jax.tree.map(lambda z, g: z + g / 2, z, g), memory
      >>> r = mx.solve(lambda z, _: 2 - z, jnp.zeros((1, 1)), None, Halfway())
      >>> r.z.tolist(), r.steps.tolist()
      ([[1.0]], [1])
    """

    max_steps: int = 30
    tol: float = 1e-3
    stop_mode: Literal["rel", "abs"] = "rel"
    stop_scope: Literal["sample", "batch"] = "sample"

    def __post_init__(self):
        """Check each option; raises ValueError that names the option and its value."""
        require_int(self, "max_steps", minimum=1)
        require_number(self, "tol", lambda x: x >= 0, "of at least 0")
        require(self, "stop_mode", self.stop_mode in ("rel", "abs"), "'rel' or 'abs'")
        require(self, "stop_scope", self.stop_scope in ("sample", "batch"), "'sample' or 'batch'")

    @abc.abstractmethod
    def init(self, z: State, g: State) -> Memory:
        """Return what the method remembers before the first step, a pytree of fixed shapes.

        Args:
          z: the starting point.
          g: its residual f(z) − z.
        """

    @abc.abstractmethod
    def propose(
        self, memory: Memory, z: State, g: State, k: Int[Array, ""]
    ) -> tuple[State, Memory]:
        """Return the next iterate and the new memory.

        Args:
          memory: what `init` or the step before returned.
          z: the current iterate.
          g: its residual f(z) − z.
          k: steps taken so far, a traced scalar.
        """


def require(owner: Any, field: str, holds: bool, allowed: str) -> None:
    """Raise ValueError naming the class, the field, its value and what is allowed."""
    if not holds:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it must be {allowed}.")


def require_int(owner: Any, field: str, minimum: int) -> None:
    """`require` a Python int of at least `minimum`."""
    value = getattr(owner, field)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    require(owner, field, is_int and value >= minimum, f"a whole number of at least {minimum}")


def require_number(owner: Any, field: str, holds: Callable[[Any], bool], allowed: str) -> None:
    """`require` a real number, of which `holds` is true."""
    value = getattr(owner, field)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(owner, field, is_number and holds(value), f"a number {allowed}")


def require_share(owner: Any, field: str) -> None:
    """`require` a number above 0 and at most 1."""
    require_number(owner, field, lambda x: 0 < x <= 1, "in (0, 1]")


def check_solver(solver: Any) -> None:
    """Raise ValueError unless a solver is one, and not its name or its class."""
    if not isinstance(solver, Solver):
        raise ValueError(
            f"solver is {solver!r}; it must be an instance, such as Broyden(max_steps=30)."
        )


def to_working_dtype(tree: State) -> State:
    """Cast 16-bit leaves to float32 and leave wider ones alone."""

    def widen(x: Array) -> Array:
        return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x

    return jax.tree.map(widen, tree)


def total(terms: list[Float[Array, "B ..."]]) -> Float[Array, "B ..."]:
    """Sum of what the leaves of a state contribute, in the widest of their dtypes."""
    return functools.reduce(jnp.add, in_widest_dtype(terms))


def in_widest_dtype(terms: list[Float[Array, "B ..."]]) -> list[Float[Array, "B ..."]]:
    """Cast arrays of mixed dtypes to the widest of them."""
    widest = max((x.dtype for x in terms), key=lambda dtype: jnp.finfo(dtype).bits)
    return [x.astype(widest) for x in terms]


def per_sample(values: Float[Array, " B"], leaf: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Reshape one number per sample so that it broadcasts against a leaf."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def expanded(values: Float[Array, " B"], *shape: int) -> Float[Array, "B ..."]:
    """Repeat one number per sample to the shape (B, *shape)."""
    last = values.reshape(values.shape + (1,) * len(shape))
    return jnp.broadcast_to(last, values.shape + shape)


def scale(values: Float[Array, " B"], tree: State) -> State:
    """Multiply each sample by its own number, which may be out of the range of a 16-bit leaf."""

    def times(x: Array) -> Array:
        wide, factor = in_widest_dtype([to_working_dtype(x), per_sample(values, x)])
        return (factor * wide).astype(x.dtype)

    return jax.tree.map(times, tree)


def select(chosen: Bool[Array, " B"], yes: State, no: State) -> State:
    """Take each sample from `yes` where chosen, else from `no`."""
    return jax.tree.map(lambda a, b: jnp.where(per_sample(chosen, a), a, b), yes, no)


def inner(a: State, b: State) -> Float[Array, " B"]:
    """Inner product ⟨a, b⟩ of each sample, over all leaves, at least in float32."""
    terms = jax.tree.map(
        lambda x, y: jnp.sum(x * y, axis=tuple(range(1, x.ndim))),
        to_working_dtype(a),
        to_working_dtype(b),
    )
    return total(jax.tree.leaves(terms))


def norm(tree: State) -> Float[Array, " B"]:
    """Euclidean norm of each sample, over all leaves, at least in float32.

    Squares neither overflow nor underflow, because the norm is taken in a `unit_of` the sample.
    """
    unit = lax.stop_gradient(unit_of(tree))
    scaled = in_unit(tree, unit)
    return unit * jnp.sqrt(inner(scaled, scaled))


def unit_of(*trees: State) -> Float[Array, " B"]:
    """A power of two within a factor of two of each sample's largest entry in all trees.

    It is 1 where that entry is 0 or not finite. Its reciprocal is finite.
    """
    largest = functools.reduce(jnp.maximum, map(_largest_entry, trees))
    limits = jnp.finfo(largest.dtype)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1))
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, limits.minexp, -limits.minexp))


def in_unit(tree: State, unit: Float[Array, " B"]) -> State:
    """Divide each sample by its unit, in the dtype of the unit."""
    return jax.tree.map(lambda x: x.astype(unit.dtype) * per_sample(1 / unit, x), tree)


def _largest_entry(tree: State) -> Float[Array, " B"]:
    terms = [
        jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), initial=0)
        for x in jax.tree.leaves(to_working_dtype(tree))
    ]
    return functools.reduce(jnp.maximum, in_widest_dtype(terms))


def quotient(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def reciprocal(x: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return 1/x, and 1 where x is 0: the update that would divide by it is left out."""
    return 1 / jnp.where(x == 0, 1, x)


def vary_together(tree: PyTree, like: PyTree) -> PyTree:
    """Inside `shard_map`, mark `tree` as varying over every mesh axis that `like` varies over.

    A `while_loop` needs its initial carry to have the type of what its body returns. A select
    between equals takes on the type of its predicate; the compiler drops it.
    """
    predicate = functools.reduce(
        jnp.logical_or, (jnp.isnan(x).any() for x in jax.tree.leaves(like))
    )
    return jax.tree.map(lambda x: jnp.where(predicate, x, x), tree)


def check_state(z: PyTree) -> None:
    """Raise ValueError unless z is a pytree of floating-point arrays of one batch."""
    leaves = jax.tree.leaves(z)
    if not leaves:
        raise ValueError("The state z0 has no arrays; give at least one, batch first.")
    for x in leaves:
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0:
            raise ValueError(
                "Every leaf of the state must be a floating-point array with the batch as its "
                f"first axis; z0 has one of dtype {x.dtype} and shape {x.shape}."
            )
    if len({x.shape[0] for x in leaves}) > 1:
        shapes = [x.shape for x in leaves]
        raise ValueError(f"The leaves of z0 disagree on the batch, their first axis: {shapes}.")


def check_map(z: State, fz: PyTree, name: str = "f") -> None:
    """Raise ValueError unless f(z) has structure, shapes and dtypes of the state z."""
    described_z, described_fz = jax.tree.map(_describe, (z, fz))
    # Flattened, for a named tuple equals the tuple of its fields.
    if jax.tree.flatten(described_z) != jax.tree.flatten(described_fz):
        raise ValueError(
            f"{name} must map a state to one of the same structure, shapes and dtypes, but z0 is "
            f"{described_z} and {name}(z0) is {described_fz}."
        )


def _describe(x: Any) -> str:
    return f"{jnp.result_type(x)}{list(jnp.shape(x))}"
