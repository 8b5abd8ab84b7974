"""What every fixed-point solver shares: its options, its protocol and its result.

A state ``z`` is a pytree of floating-point arrays, batch first.
"""

import abc
import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from mdeq_jax.checks import require, require_int, require_number

State = PyTree[Float[Array, "B ..."]]
Memory = Any


class Status(enum.IntEnum):
    """Why a sample stopped: the values of `SolverResult.status`.

    Attributes:
      CONVERGED: 0, the residual is at most the tolerance.
      STEP_LIMIT: 1, the sample took all steps that it was allowed.
      STALLED: 2, the residual is within reach of the tolerance and no longer falls.
      DIVERGED: 3, the residual grew far beyond the scale of the problem.
      NOT_FINITE: 4, the norm of the residual overflowed or is NaN.

    Examples:
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> r = mx.solve(lambda z, _: 2 * z + 1, jnp.zeros((1, 1)), None, mx.Picard(max_steps=9))
      >>> status = mx.Status(int(r.status[0]))
      >>> print(f"{status.name}: {status.explanation}")
      STEP_LIMIT: the sample took all steps that it was allowed
    """

    explanation: str

    CONVERGED = 0, "the residual is at most the tolerance"
    STEP_LIMIT = 1, "the sample took all steps that it was allowed"
    STALLED = 2, "the residual is within reach of the tolerance and no longer falls"
    DIVERGED = 3, "the residual grew far beyond the scale of the problem"
    NOT_FINITE = 4, "the norm of the residual overflowed or is NaN"

    def __new__(cls, value: int, explanation: str) -> "Status":
        """Return the member of this value, with its explanation."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.explanation = explanation
        return member


class SolverResult(NamedTuple):
    """What a solve returns.

    Attributes:
      z: the iterate of the lowest residual, chosen for each sample; structure and dtypes of ``z0``.
        It is the start only if the start has converged or no step has a finite residual.
      steps: (B,) int32, steps that the sample took before it stopped, in [0, max_steps].
      residual: (B,) residual of ``z`` in the solver's ``stop_mode``.
      converged: (B,) bool, whether ``residual <= tol``; equal to ``status == Status.CONVERGED``.
      trace: (max_steps, B), entry k is the residual after step k+1. After the sample's last step it
        is the residual of ``z``.
      states: leaves (n, B, ...), the best iterates after each of the n steps in ``sample_at``;
        None if ``sample_at`` is empty.
      best_step: (B,) int32, number of steps after which ``z`` was reached, in [0, steps].
      status: (B,) int32, why the sample stopped, a value of `Status`.
    """

    z: State
    steps: Int[Array, " B"]
    residual: Float[Array, " B"]
    converged: Bool[Array, " B"]
    trace: Float[Array, "max_steps B"]
    states: PyTree[Float[Array, "n B ..."]] | None = None
    best_step: Int[Array, " B"] = None  # pyright: ignore[reportAssignmentType]
    status: Int[Array, " B"] = None  # pyright: ignore[reportAssignmentType]


class Point(NamedTuple):
    """Where a solve stands between two steps: what a `Solver` makes its next iterate from.

    States are in the working dtype: float32 for 16-bit leaves, otherwise the leaf's own dtype.

    Attributes:
      z: the current iterate, leaves (B, ...).
      g: its residual f(z) − z, already evaluated.
      k: number of steps taken so far, a traced scalar.
      f: the map z ↦ f(z, args) of a state in the working dtype. Each call is one more evaluation.
      keys: one key for each sample, other ones in each step, for a solver that draws random
        numbers; None if the solve has no key. In `Solver.init` they are those of the first step.
    """

    z: State
    g: State
    k: Int[Array, ""]
    f: Callable[[State], State]
    keys: Key[Array, " B"] | None = None

    @property
    def pullback(self) -> Callable[[State], State]:
        """The function u ↦ u J with J = ∂f/∂z at z.

        Reading it evaluates f once more and keeps what f computed. Read it once and outside of
        loops. It costs nothing unless it is read.
        """
        _, pull = jax.vjp(self.f, self.z)
        return lambda u: pull(u)[0]


@dataclasses.dataclass(frozen=True)
class Solver(abc.ABC):
    """Options that all solvers have, and the protocol for a solver of your own.

    A subclass is a frozen dataclass, decorated with `jax.tree_util.register_static`. It adds its
    own options and implements `propose`, and `init` if it has a memory. The loop around the two
    methods is `mdeq_jax.solve`. The loop freezes samples that have stopped, remembers the best
    iterates and applies the stop rule. In each step it evaluates f at the iterate that `propose`
    returns.

    Attributes:
      max_steps: largest number of steps of one solve, at least 1; static, it sizes the buffers.
      tol: residual at which a sample has converged, at least 0.
      stop_mode: "rel" tests ‖f(z)−z‖ / ‖f(z)‖, "abs" tests ‖f(z)−z‖. A relative residual is at
        most 1e9, its value at f(z) = 0.
      stop_scope: "sample" takes norms and stops per sample. "batch" takes norms over the whole
        batch and stops by the rules of the original code, whose relative residual is
        ‖f(z)−z‖ / (‖f(z)‖ + 1e-9).

    Examples:
      A solver that takes half a step and has no memory:

      >>> import dataclasses, jax
      >>> import jax.numpy as jnp
      >>> import mdeq_jax as mx
      >>> @jax.tree_util.register_static
      ... @dataclasses.dataclass(frozen=True)
      ... class Halfway(mx.Solver):
      ...     def propose(self, memory, point):
      ...         return jax.tree.map(lambda z, g: z + g / 2, point.z, point.g), memory
      >>> r = mx.solve(lambda z, _: 2 - z, jnp.zeros((1, 1)), None, Halfway())
      >>> r.z.tolist(), r.steps.tolist()
      ([[1.0]], [1])

      Newton's method solves (I − J) s = g for its step s, here by one GMRES for the whole batch. It
      needs products with J only, which `jax.linearize` gives. Plain iteration does not converge,
      because the map expands:

      >>> from jax.scipy.sparse.linalg import gmres
      >>> @jax.tree_util.register_static
      ... @dataclasses.dataclass(frozen=True)
      ... class NewtonKrylov(mx.Solver):
      ...     def propose(self, memory, point):
      ...         _, jacobian = jax.linearize(point.f, point.z)
      ...         step, _ = gmres(lambda s: s - jacobian(s), point.g)
      ...         return point.z + step, memory
      >>> f, z0 = lambda z, _: 2 - z**3, jnp.array([[0.5], [1.2]])
      >>> mx.solve(f, z0, None, mx.Picard()).converged.tolist()
      [False, False]
      >>> mx.solve(f, z0, None, NewtonKrylov()).z.round(3).tolist()
      [[1.0], [1.0]]
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

    def init(self, point: Point) -> Memory:
        """Return what the solver remembers before the first step, a pytree of fixed shapes.

        By default it remembers nothing and returns ().

        Args:
          point: the start, with k = 0.
        """
        return ()

    @abc.abstractmethod
    def propose(self, memory: Memory, point: Point) -> tuple[State, Memory]:
        """Return the next iterate, in the working dtype, and the new memory.

        Args:
          memory: what `init` returned, or the previous call of `propose`.
          point: the current iterate, its residual, the number of steps taken, the map, and keys.
        """

    def without_noise(self) -> "Solver":
        """Return the solver without what it draws at random, for the adjoint equation.

        By default it is the solver itself. A solver that uses `Point.keys` overrides this method.
        """
        return self


def check_solver(solver: Any) -> None:
    """Raise ValueError unless `solver` is an instance of `Solver`, not a name or a class."""
    if not isinstance(solver, Solver):
        raise ValueError(
            f"solver is {solver!r}; it must be an instance, such as Broyden(max_steps=30)."
        )


def as_state(z: PyTree, name: str = "z0") -> State:
    """Return z with its leaves as arrays.

    Args:
      z: a pytree of numbers or arrays.
      name: what a message calls z.

    Raises:
      ValueError: z has no leaves, or they are not floating-point arrays that agree on the batch.
    """
    z = jax.tree.map(jnp.asarray, z)
    leaves = jax.tree.leaves(z)
    if not leaves:
        raise ValueError(f"The state {name} has no arrays; give at least one, batch first.")
    for x in leaves:
        if not jnp.issubdtype(x.dtype, jnp.floating) or x.ndim == 0:
            raise ValueError(
                "Every leaf of the state must be a floating-point array with the batch as its "
                f"first axis; {name} has one of dtype {x.dtype} and shape {x.shape}."
            )
    if len({x.shape[0] for x in leaves}) > 1:
        shapes = [x.shape for x in leaves]
        raise ValueError(f"The leaves of {name} disagree on the batch, their first axis: {shapes}.")
    return z


def check_map(z: State, fz: PyTree, name: str = "f") -> None:
    """Raise ValueError unless f(z) has the structure, shapes and dtypes of the state z.

    Args:
      z: the state.
      fz: f(z).
      name: what the message calls f.
    """
    described_z, described_fz = jax.tree.map(_describe, (z, fz))
    # They are compared flattened, because a named tuple equals the tuple of its fields.
    if jax.tree.flatten(described_z) != jax.tree.flatten(described_fz):
        raise ValueError(
            f"{name} must map a state to one of the same structure, shapes and dtypes, but z0 is "
            f"{described_z} and {name}(z0) is {described_fz}."
        )


def check_per_sample(name: str, values: PyTree, z: State) -> None:
    """Raise ValueError unless `values` is one floating-point number for each sample of z.

    Args:
      name: the function that returned them, for the message.
      values: what it returned, or the shapes and dtypes of that.
      z: a state.
    """
    batch = jax.tree.leaves(z)[0].shape[:1]
    found = [(x.shape, jnp.issubdtype(x.dtype, jnp.floating)) for x in jax.tree.leaves(values)]
    if found != [(batch, True)]:
        raise ValueError(
            f"{name} returns {jax.tree.map(_describe, values)}; it must return one floating-point "
            f"number for each sample, of the shape {batch}. Reduce over all axes but the first."
        )


def _describe(x: Any) -> str:
    return f"{jnp.result_type(x)}{list(jnp.shape(x))}"
