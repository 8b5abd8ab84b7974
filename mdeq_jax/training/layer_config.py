"""The sections of a config that say how equilibria and their gradients are found."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mdeq_jax.checks import require, require_int, require_share
from mdeq_jax.implicit import Adjoint, Exact, JacobianFree, Neumann, Phantom, Shine
from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver

_SOLVERS = {"picard": Picard, "anderson": Anderson, "broyden": Broyden}
_ADJOINTS = {
    "exact": Exact,
    "neumann": Neumann,
    "jacobian_free": JacobianFree,
    "phantom": Phantom,
    "shine": Shine,
}


def _given(section: Any, owner: type) -> dict[str, Any]:
    """Return the options of a class that a section sets."""
    values = {option: getattr(section, option, None) for option in _options(owner)}
    return {option: value for option, value in values.items() if value is not None}


def _options(owner: type) -> list[str]:
    return [field.name for field in dataclasses.fields(owner)]


def _require_own_options(section: Any, key: str, owner: type, *others: type) -> None:
    own = [option for named in (owner, *others) for option in _options(named)]
    own = [option for option in own if hasattr(section, option)]  # an adjoint's solver is not a key
    for option in _options(type(section)):
        value = getattr(section, option)
        if option not in ("name", *own) and value is not None:
            raise ValueError(
                f"{key}.{option} is {value!r}, but {section.name!r} has no such option; it has "
                f"{', '.join(own) or 'none'}. Set it to None, or choose another name."
            )


@dataclasses.dataclass(frozen=True)
class SolverConfig:
    """A solver by name. An option that is None has the named solver's own default.

    Attributes:
      name: "broyden", "anderson" or "picard".
      max_steps: most steps of one solve, at least 1.
      tol: residual at which a sample has converged, at least 0.
      stop_mode: residual that is compared with `tol`: "rel" (relative) or "abs" (absolute).
      stop_scope: "sample" stops each sample by itself; "batch" stops all together, as the original
        code does.
      memory: "broyden": rows of history, at least 1; None keeps all steps.
      when_full: "broyden": what happens when all rows are full: "restart" forgets all rows,
        "overwrite" replaces the oldest one.
      window: "anderson": number of past iterates, at least 1.
      ridge: "anderson": regularisation, at least 0.
      ridge_mode: "anderson": "relative" to the Gram matrix, or "absolute" as in the original code.
      mixing: "anderson": β in (0, 1].
      damping: "picard": damping in (0, 1].
      noise: "picard": standard deviation of the noise that each step adds, at least 0.
    """

    name: Literal["broyden", "anderson", "picard"] = "broyden"
    max_steps: int = Solver.max_steps
    tol: float = Solver.tol
    stop_mode: Literal["rel", "abs"] = Solver.stop_mode
    stop_scope: Literal["sample", "batch"] = Solver.stop_scope
    memory: int | None = None
    when_full: Literal["restart", "overwrite"] | None = None
    window: int | None = None
    ridge: float | None = None
    ridge_mode: Literal["relative", "absolute"] | None = None
    mixing: float | None = None
    damping: float | None = None
    noise: float | None = None

    def __post_init__(self):
        """Check the options by building the solver; raises ValueError."""
        _require_own_options(self, "SolverConfig", _SOLVERS[self.name])
        self.build()

    def build(self) -> Solver:
        """Return the solver."""
        solver = _SOLVERS[self.name]
        return solver(**_given(self, solver))


@dataclasses.dataclass(frozen=True)
class SolversConfig:
    """The solvers of the equilibrium and of its adjoint equation.

    Attributes:
      forward: the solver of the equilibrium.
      backward: the solver of the adjoint equation, which the adjoint "exact" uses.
    """

    forward: SolverConfig = SolverConfig(max_steps=18)
    backward: SolverConfig = SolverConfig(max_steps=20)


@dataclasses.dataclass(frozen=True)
class AdjointConfig:
    """How the gradient of the equilibrium is computed.

    An option that is None has the named adjoint's own default.

    Attributes:
      name: "exact" (solved by `solver.backward`), "neumann", "jacobian_free", "phantom" or "shine".
      steps: k of "neumann", of "phantom", and of the phantom gradient that the sampled states of
        `correction` have; at least 1.
      damping: λ of "neumann", τ of "phantom" and of the sampled states of `correction`; in (0, 1].
      refine: "shine": number of backward steps, at least 0.
      fallback: "shine": the gradient is replaced by "jacobian_free" where ‖u‖ is above this many
        times ‖g‖; inf never replaces it.
      opa_every: "shine": number of forward steps between secant updates in the direction of the
        loss, at least 1; None makes no such updates.
    """

    name: Literal["exact", "neumann", "jacobian_free", "phantom", "shine"] = "exact"
    steps: int | None = None
    damping: float | None = None
    refine: int | None = None
    fallback: float | None = None
    opa_every: int | None = None

    def __post_init__(self):
        """Check the values; raises ValueError."""
        self.phantom()
        Shine(**_given(self, Shine))

    def require_own_options(self, *, with_correction: bool) -> None:
        """Raise ValueError where an option is set that the named adjoint does not have.

        Args:
          with_correction: whether the run has sampled states, which use `steps` and `damping`.
        """
        others = (Phantom,) if with_correction else ()
        _require_own_options(self, "config.adjoint", _ADJOINTS[self.name], *others)

    def build(self, backward: Solver) -> Adjoint:
        """Return the adjoint.

        Args:
          backward: the solver of the adjoint equation, which only "exact" uses.
        """
        adjoint = _ADJOINTS[self.name]
        return Exact(backward) if adjoint is Exact else adjoint(**_given(self, adjoint))

    def phantom(self) -> Phantom:
        """Return the phantom gradient of these steps and this damping."""
        return Phantom(**_given(self, Phantom))


def without_unused_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored config without options that its solvers and its adjoint do not have.

    Older versions stored the options of every solver and adjoint, used or not.

    Args:
      config: nested mapping of a run's keys, which was checked before it was stored.
    """
    result = copy.deepcopy(dict(config))
    corrected = result.get("correction", {}).get("states", 1) > 1
    sections = [(section, _SOLVERS) for section in result.get("solver", {}).values()]
    for section, classes in (*sections, (result.get("adjoint", {}), _ADJOINTS)):
        used = ["name", *(_options(classes[section["name"]]) if "name" in section else section)]
        used += _options(Phantom) if corrected and classes is _ADJOINTS else []
        for option in section.keys() - {*used}:
            section[option] = None
    return result


@dataclasses.dataclass(frozen=True)
class CorrectionConfig:
    """Fixed-point correction: losses on sampled states of the solve as well as on the equilibrium.

    State i of n weighs gamma^(n − 1 − i); all but the last, the equilibrium, have the phantom
    gradient of `adjoint.steps` and `adjoint.damping`. While the cell is unrolled, the states are
    those after some of its applications, with the ordinary gradient: the sequence loss of RAFT
    (Teed, Deng, ECCV 2020). Source: Bai et al., "Deep Equilibrium Optical
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
      probability: probability that a step adds the term, in [0, 1].
      weight: γ when the solver takes over.
      pretrain_weight: γ while the cell is unrolled.
      increment_steps: γ grows by 0.1 each time this many solved steps are over; None keeps it
        constant.
      stop_epoch: the epoch from which on γ is 0; None is never.
      step_jitter: on steps with the term the forward solve's limit is solver.forward.max_steps plus
        a whole number drawn from −step_jitter to 1; 0 always takes max_steps.
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
