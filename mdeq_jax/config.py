"""The configuration of a run: frozen dataclasses, and `finalize`, which checks what a user wrote.

A config file returns a `ml_collections.ConfigDict` that starts from `default_config()` and states
what differs; the command line overrides it; `finalize` turns the outcome into a `Config`.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict, config_dict

from mdeq_jax.implicit import Adjoint, Exact, JacobianFree, Phantom
from mdeq_jax.models.config import ModelConfig
from mdeq_jax.solvers import Anderson, Broyden, Picard, Solver
from mdeq_jax.solvers.common import require, require_int

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

    Attributes:
      name: "exact" (solved by `solver.backward`), "jacobian_free" or "phantom".
      steps: of the phantom gradient, at least 1.
      damping: of the phantom gradient, in (0, 1].
    """

    name: Literal["exact", "jacobian_free", "phantom"] = "exact"
    steps: int = 5
    damping: float = 0.5

    def __post_init__(self):
        """Check the options; raises ValueError."""
        Phantom(self.steps, self.damping)

    def build(self, backward: Solver) -> Adjoint | Phantom:
        """Return the adjoint; `backward` solves the exact one."""
        if self.name == "exact":
            return Exact(backward)
        return JacobianFree() if self.name == "jacobian_free" else Phantom(self.steps, self.damping)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set and how it is fed.

    Attributes:
      name: of the data set.
      dir: folder of TFDS data sets; None for TFDS's default (TFDS_DATA_DIR).
      batch_size: training images of one step, over all devices and processes.
      eval_batch_size: likewise in evaluation.
      augment: whether training images are augmented.
    """

    name: str = "digits"
    dir: str | None = None
    batch_size: int = 64
    eval_batch_size: int = 120
    augment: bool = True

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "batch_size", minimum=1)
        require_int(self, "eval_batch_size", minimum=1)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning rate.

    Attributes:
      name: "adam" or "sgd".
      learning_rate: at the start.
      schedule: "cosine" from there to `learning_rate_floor` at the last step, or "constant".
      learning_rate_floor: where the cosine ends.
      weight_decay: L2 penalty on every parameter, added to the gradient before the optimizer's
        scaling, as PyTorch's Adam and SGD do.
      momentum: of SGD, in [0, 1).
      nesterov: whether SGD's momentum is Nesterov's.
      clip_norm: bound on the gradient's global norm; None is unbounded.
    """

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    learning_rate_floor: float = 1e-6
    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    clip_norm: float | None = None

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require(self, "learning_rate", self.learning_rate > 0, "above 0")
        floor = 0 <= self.learning_rate_floor <= self.learning_rate
        require(self, "learning_rate_floor", floor, "between 0 and learning_rate")
        require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        require(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        require(self, "clip_norm", self.clip_norm is None or self.clip_norm > 0, "above 0, or None")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The course of training.

    Attributes:
      epochs: passes over the training set.
      steps: number of steps; if not None it takes the place of `epochs`.
      pretrain_steps: first steps in which the cell is unrolled instead of solved.
      num_layers: applications of the cell in those steps.
      log_every: steps between lines of metrics.
      eval_every: steps between evaluations.
      checkpoint_seconds: most seconds of training between checkpoints.
    """

    epochs: int = 50
    steps: int | None = None
    pretrain_steps: int = 0
    num_layers: int = 10
    log_every: int = 20
    eval_every: int = 200
    checkpoint_seconds: float = 15.0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        for field in ("epochs", "num_layers", "log_every", "eval_every"):
            require_int(self, field, minimum=1)
        if self.steps is not None:
            require_int(self, "steps", minimum=1)
        require_int(self, "pretrain_steps", minimum=0)
        require(self, "checkpoint_seconds", self.checkpoint_seconds >= 0, "at least 0")

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of steps."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def unrolled_at(self, step: int) -> int | None:
        """Return how often the cell is applied after `step` steps, or None where it is solved."""
        return self.num_layers if step < self.pretrain_steps else None


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run.

    Attributes:
      model: the architecture.
      solver: the forward and the backward solver.
      adjoint: where the gradient comes from.
      data: the data set.
      optim: the optimizer.
      train: the course of training.
      init_from: checkpoint whose weights a fresh run starts from, as far as they fit; None starts
        from random ones.
      seed: of initialisation, shuffling, augmentation and dropout, in [0, 2³²).
    """

    model: ModelConfig = ModelConfig()
    solver: SolversConfig = SolversConfig()
    adjoint: AdjointConfig = AdjointConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    init_from: str | None = None
    seed: int = 0

    def __post_init__(self):
        """Check the options; raises ValueError."""
        require_int(self, "seed", minimum=0)
        require(self, "seed", self.seed < 2**32, "below 2**32")


# Keys that change nothing of what is computed, and so may differ when a run is resumed.
PRESENTATION_KEYS = (
    "data.dir",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_seconds",
)


def default_config() -> ConfigDict:
    """Return every key with its default, for a config file to start from."""
    return _as_config_dict(Config())


def _as_config_dict(section: Any) -> ConfigDict:
    """Return a section as a ConfigDict in which what is None still has a type to be set to."""
    hints = typing.get_type_hints(type(section))
    result = ConfigDict()
    for name, hint in hints.items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            value = _as_config_dict(value)
        elif value is None:
            value = config_dict.placeholder(typing.get_args(hint)[0])
        result[name] = value
    return result


def finalize(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Check a config and freeze it.

    Args:
      config: nested mapping with the keys of `Config`, any of them left out.

    Raises:
      ValueError: an unknown key, a value of the wrong type, or one out of range; by its full name.
    """
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    return _build(Config(), nested, "config")


def _build(default: Any, values: Any, path: str) -> Any:
    """Return the dataclass `default` with the mapping `values`, which stands at `path`, in it."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} is {values!r}; it must be a section with keys of its own.")
    hints = typing.get_type_hints(type(default))
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(hints)}."
            raise ValueError(f"{path}.{key} is not a config key; {remedy}")
    changes = {
        key: _build(getattr(default, key), value, f"{path}.{key}")
        if dataclasses.is_dataclass(hints[key])
        else _convert(value, hints[key], f"{path}.{key}")
        for key, value in values.items()
    }
    try:
        return dataclasses.replace(default, **changes)
    except ValueError as error:
        raise ValueError(error if path == "config" else f"{path}: {error}") from None


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Return the value as the type that the hint names."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        fits, converted = _fit(value, option)
        if fits:
            return converted
    names = " or ".join(_describe(option) for option in options)
    raise ValueError(f"{path} is {value!r} ({type(value).__name__}); it must be {names}.")


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether a value is of a type without alternatives, and the value as that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments, value
    if origin is tuple:
        fits = isinstance(value, list | tuple) and all(_fit(v, arguments[0])[0] for v in value)
        return fits, tuple(value) if fits else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return type(value) is hint, value


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list of {typing.get_args(hint)[0].__name__}"
    return "None" if hint is type(None) else hint.__name__
