"""The sections of a config that say how equilibria and their gradients are found."""

import dataclasses
from typing import Literal

from mdeq_jax.checks import require, require_int, require_share
from mdeq_jax.implicit import Adjoint, Exact, JacobianFree, Neumann, Phantom, Shine
from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver

_SOLVERS = {"picard": Picard, "anderson": Anderson, "broyden": Broyden}


@dataclasses.dataclass(frozen=True)
class SolverConfig:
    """A solver by name. A field that the named solver does not have is not used.

    Attributes:
      name: "broyden", "anderson" or "picard".
      max_steps: most steps of one solve, at least 1.
      tol: residual at which a sample has converged, at least 0.
      stop_mode: "rel" or "abs" residual.
      stop_scope: "sample", or "batch" as the originals stop.
      memory: Broyden's rows of history; None keeps all steps.
      when_full: what Broyden does when its rows are full: "restart" forgets them all, "overwrite"
        the oldest one.
      window: Anderson's window, at least 1.
      ridge: Anderson's regularisation, at least 0.
      ridge_mode: "relative" to the Gram matrix, or "absolute" as in the originals.
      mixing: Anderson's β in (0, 1].
      damping: Picard's damping in (0, 1].
    """

    name: Literal["broyden", "anderson", "picard"] = "broyden"
    max_steps: int = 30
    tol: float = 1e-3
    stop_mode: Literal["rel", "abs"] = "rel"
    stop_scope: Literal["sample", "batch"] = "sample"
    memory: int | None = None
    when_full: Literal["restart", "overwrite"] = "restart"
    window: int = 6
    ridge: float = 1e-4
    ridge_mode: Literal["relative", "absolute"] = "relative"
    mixing: float = 1.0
    damping: float = 1.0

    def __post_init__(self):
        """Check the options by building the solver; raises ValueError."""
        self.build()

    def build(self) -> Solver:
        """Return the solver."""
        solver = _SOLVERS[self.name]
        names = [field.name for field in dataclasses.fields(solver)]
        return solver(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class SolversConfig:
    """The solver of the equilibrium and that of its adjoint equation."""

    forward: SolverConfig = SolverConfig(max_steps=18)
    backward: SolverConfig = SolverConfig(max_steps=20)


@dataclasses.dataclass(frozen=True)
class AdjointConfig:
    """Where the gradient of the equilibrium comes from.

    An adjoint does not use fields that it does not have; `refine` and `opa_every`, which are off by
    default, are an error with any but "shine".

    Attributes:
      name: "exact" (solved by `solver.backward`), "neumann", "jacobian_free", "phantom" or "shine".
      steps: k of "neumann", "phantom" and the sampled states of `correction`, at least 1.
      damping: τ or λ of the same, in (0, 1].
      refine: backward steps of "shine", at least 0.
      fallback: "shine" gives way to "jacobian_free" where ‖u‖ is above this many times ‖g‖; None
        never does.
      opa_every: forward steps between secant updates of "shine" in the direction of the loss, at
        least 1; None has none.
    """

    name: Literal["exact", "neumann", "jacobian_free", "phantom", "shine"] = "exact"
    steps: int = 5
    damping: float = 0.5
    refine: int = 0
    fallback: float | None = 1.8
    opa_every: int | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        self.phantom()
        shine = self._shine()
        if self.name != "shine" and (shine.refine, shine.opa_every) != (0, None):
            raise ValueError(
                f"refine is {self.refine} and opa_every {self.opa_every}, which belong to the "
                f"adjoint 'shine', but name is {self.name!r}; set it to 'shine' or leave them out."
            )

    def build(self, backward: Solver) -> Adjoint | Phantom:
        """Return the adjoint; `backward` solves the exact one."""
        return {
            "exact": Exact(backward),
            "neumann": Neumann(self.steps, self.damping),
            "jacobian_free": JacobianFree(),
            "phantom": self.phantom(),
            "shine": self._shine(),
        }[self.name]

    def phantom(self) -> Phantom:
        """Return the phantom gradient of these steps and this damping."""
        return Phantom(self.steps, self.damping)

    def _shine(self) -> Shine:
        return Shine(self.refine, self.fallback, self.opa_every)


@dataclasses.dataclass(frozen=True)
class CorrectionConfig:
    """Fixed-point correction: losses on states of the solve as well as on where it ends.

    State i of n weighs gamma^(n − 1 − i); all but the last, the equilibrium, have the phantom
    gradient of `adjoint.steps` and `adjoint.damping`. Source: Bai et al., "Deep Equilibrium Optical
    Flow Estimation", CVPR 2022; `fp_correction` and `n_states`, locuslab/torchdeq.

    Attributes:
      states: n, at least 1; with 1 there is no correction.
      gamma: weight of a state relative to the next one, in (0, 1].
      mode: "index" samples the states of one solve; "slice" starts a new solve from each sampled
        state, as `DEQ.sampling` says.
    """

    states: int = 1
    gamma: float = 0.8
    mode: Literal["index", "slice"] = "index"

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "states", minimum=1)
        require_share(self, "gamma")
        require(self, "mode", self.mode in ("index", "slice"), "'index' or 'slice'")

    def sample_at(self, max_steps: int) -> tuple[int, ...]:
        """Return the steps of all states but the last: evenly spaced, ending at max_steps."""
        between = max_steps // self.states
        return tuple(max_steps - k * between for k in range(self.states - 1, 0, -1))


@dataclasses.dataclass(frozen=True)
class JacobianConfig:
    """Jacobian regularisation (Bai, Koltun, Kolter, ICML 2021): γ·`jacobian_loss` on some steps.

    Attributes:
      probability: that a step adds the term, in [0, 1].
      weight: γ when the solver takes over.
      pretrain_weight: γ while the cell is unrolled.
      increment_steps: γ grows by 0.1 each time this many solved steps are over; None leaves it.
      stop_epoch: the epoch from which on γ is 0; None is never.
      step_jitter: on steps with the term the forward solve's limit is solver.forward.max_steps plus
        a whole number drawn from −step_jitter to 1; 0 leaves it.
    """

    probability: float = 0.0
    weight: float = 0.0
    pretrain_weight: float = 0.0
    increment_steps: int | None = None
    stop_epoch: int | None = None
    step_jitter: int = 2

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "probability", 0 <= self.probability <= 1, "in [0, 1]")
        for field in ("weight", "pretrain_weight"):
            require(self, field, getattr(self, field) >= 0, "at least 0")
        if self.increment_steps is not None:
            require_int(self, "increment_steps", minimum=1)
        if self.stop_epoch is not None:
            require_int(self, "stop_epoch", minimum=0)
        require_int(self, "step_jitter", minimum=0)
        weightless = (self.weight, self.pretrain_weight, self.increment_steps) == (0, 0, None)
        if self.probability > 0 and weightless:
            raise ValueError(
                f"JacobianConfig.probability is {self.probability}, but the term has no weight; "
                "give weight, pretrain_weight or increment_steps."
            )
