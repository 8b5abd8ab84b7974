"""What every fixed-point solver shares: its options, its protocol and its result.

A state ``z`` is a pytree of floating-point arrays, batch first.
"""

import abc
import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from mdeq_jax.checks import require, require_int, require_number

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


def check_solver(solver: Any) -> None:
    """Raise ValueError unless a solver is one, and not its name or its class."""
    if not isinstance(solver, Solver):
        raise ValueError(
            f"solver is {solver!r}; it must be an instance, such as Broyden(max_steps=30)."
        )


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
