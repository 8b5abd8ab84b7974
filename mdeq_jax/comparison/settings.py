"""What is compared: one table of settings in groups, each a few changes of the base config.

A setting that depends on the base's widths is a function of the base, so that any config will do.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from mdeq_jax.comparison.sizes import count_parameters, nearest
from mdeq_jax.training.sections import suggestion
from mdeq_jax.vision.config import AdjointConfig, Config, SolverConfig, override
from mdeq_jax.vision.model import ModelConfig, create_model

Changes = Mapping[str, Any]
Kind = Literal["equilibrium", "resnet", "neural_ode", "silenced", "latency"]

# More steps than any training has: the cell is unrolled to the end.
_NEVER_SOLVED = {"train.pretrain_steps": 10**9}
_FIVE_DAMPED = {"adjoint.steps": 5, "adjoint.damping": 0.5}
_FEW_STEPS = {"solver.forward.max_steps": 8}
_PER_BRANCH = ("branch_channels", "blocks_per_branch", "big_kernels", "head_channels")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the table.

    Attributes:
      group: the question that it helps to answer, a key of `GROUPS`.
      name: in the report, unique in its group.
      changes: dotted keys of the config and their values, or a function of the base to them.
      kind: "equilibrium" is the model of the config; "resnet" and "neural_ode" are explicit models
        of as many parameters; "silenced" and "latency" train nothing but examine the base's model.
    """

    group: str
    name: str
    changes: Changes | Callable[[Config], Changes] = dataclasses.field(default_factory=dict)
    kind: Kind = "equilibrium"

    def changes_of(self, base: Config) -> Changes:
        """Return the changes of a base; raises ValueError where none would fit it."""
        return self.changes(base) if callable(self.changes) else self.changes


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is run once, whichever settings amount to it.

    Attributes:
      kind: as of `Setting`.
      config: of the run.
      folder: in the workdir.
    """

    kind: Kind
    config: Config
    folder: str


@dataclasses.dataclass(frozen=True)
class Planned:
    """A setting as it applies to a base.

    Attributes:
      setting: the row of the table.
      cell: what is run for it; None if it does not fit the base.
      changes: of the base's config.
      message: why it does not fit.
    """

    setting: Setting
    cell: Cell | None
    changes: Changes = dataclasses.field(default_factory=dict)
    message: str = ""


def _renamed(section: str, name: str) -> Changes:
    """Another solver or adjoint, without the base's options, which it may not have."""
    options = SolverConfig if section.startswith("solver") else AdjointConfig
    own = [field.name for field in dataclasses.fields(options) if field.default is None]
    return {f"{section}.name": name, **dict.fromkeys(f"{section}.{key}" for key in own)}


def _adjoint(name: str) -> Changes:
    return _renamed("adjoint", name)


# It reuses the whole history of Broyden's method.
_SHINE = {**_adjoint("shine"), **_renamed("solver.forward", "broyden")}


def _solver(name: str) -> Changes:
    forward, backward = (_renamed(f"solver.{which}", name) for which in ("forward", "backward"))
    return {**_adjoint("exact"), **forward, **backward}


def _unrolled(layers: int) -> Changes:
    return {**_NEVER_SOLVED, "train.num_layers": layers}


def _resolutions(branches: int) -> Callable[[Config], Changes]:
    """The base where it has as many branches, else branches of about equal width."""

    def changes(base: Config) -> Changes:
        if branches == base.model.num_branches:
            return {}
        return _of_equal_count(base, (1,) * branches)

    return changes


def _wide_high(base: Config) -> Changes:
    return _of_equal_count(base, tuple(range(base.model.num_branches, 0, -1)))


def _equally_wide(base: Config) -> Changes:
    return _of_equal_count(base, (1,) * base.model.num_branches)


def _wide_low(base: Config) -> Changes:
    return _of_equal_count(base, tuple(range(1, base.model.num_branches + 1)))


def _of_equal_count(base: Config, weights: tuple[int, ...]) -> Changes:
    """Branches with widths about as the weights, and in all as near the base's count as may be."""
    size = base.data.image_size

    def count(k: int) -> int:
        return count_parameters(create_model(_resize(base.model, weights, k)), size)

    target = count_parameters(create_model(base.model), size)
    model = _resize(base.model, weights, nearest(target, count))
    return {f"model.{field}": getattr(model, field) for field in _PER_BRANCH}


def _resize(model: ModelConfig, weights: tuple[int, ...], k: int) -> ModelConfig:
    """Widths of about k · weight / branches times num_groups, rounded up at the high resolutions.

    With k and k + 1 differing in few branches, counts lie closer together than if all grew at once.
    """
    n = len(weights)
    multiples = [max(1, (k * weight + n - 1 - i) // n) for i, weight in enumerate(weights)]
    head = model.head_channels[-n:]
    while len(head) < n:  # the head ends as the base's does, so that the cells are what differs
        head = (max(1, head[0] // 2), *head)
    return dataclasses.replace(
        model,
        branch_channels=tuple(model.num_groups * multiple for multiple in multiples),
        blocks_per_branch=_extend(model.blocks_per_branch, n),
        big_kernels=_extend(model.big_kernels, n),
        head_channels=head,
    )


def _extend(values: tuple[int, ...], n: int) -> tuple[int, ...]:
    return (*values, *values[-1:] * n)[:n]


# The groups, and what each one asks. "base" is part of every comparison.
GROUPS = {
    "base": "The config as it stands, to compare with.",
    "gradients": "Where the gradient of the equilibrium comes from.",
    "solvers": "Which solver finds the equilibrium, and that of the adjoint equation.",
    "steps": "How many steps the forward solver may take, in training and evaluation.",
    "regularisation": "What Jacobian regularisation does for few solver steps.",
    "resolutions": "How many resolutions, at about the same number of parameters.",
    "scales": "Where the parameters are: at the high or at the low resolutions.",
    "stem": "How often the stem halves the image before the equilibrium.",
    "injection": "Which resolutions the image is injected into.",
    "depth": "The weight-tied cell applied a fixed number of times, against its equilibrium.",
    "explicit": "Explicit models at full resolution with about as many parameters.",
    "silenced": "Which scales the base's model uses: one is held at zero, without training anew.",
    "latency": "What fewer steps or a looser tolerance cost the base's model, without training.",
}

TABLE = (
    Setting("base", "base"),
    Setting("gradients", "exact", _adjoint("exact")),
    Setting("gradients", "neumann", {**_adjoint("neumann"), **_FIVE_DAMPED}),
    Setting("gradients", "phantom", {**_adjoint("phantom"), **_FIVE_DAMPED}),
    Setting("gradients", "jacobian-free", _adjoint("jacobian_free")),
    Setting("gradients", "shine", _SHINE),
    Setting("gradients", "shine, refine 5", {**_SHINE, "adjoint.refine": 5}),
    Setting("gradients", "shine, opa 5", {**_SHINE, "adjoint.opa_every": 5}),
    Setting("gradients", "correction, 3 states", {"correction.states": 3}),
    Setting("solvers", "broyden", _solver("broyden")),
    Setting("solvers", "anderson", _solver("anderson")),
    Setting("solvers", "picard", _solver("picard")),
    Setting("steps", "4 steps", {"solver.forward.max_steps": 4}),
    Setting("steps", "8 steps", {"solver.forward.max_steps": 8}),
    Setting("steps", "18 steps", {"solver.forward.max_steps": 18}),
    Setting("steps", "30 steps", {"solver.forward.max_steps": 30}),
    Setting("regularisation", "none, 8 steps", {**_FEW_STEPS, "jacobian.probability": 0.0}),
    Setting(
        "regularisation",
        "0.4 × 1.0, 8 steps",
        {**_FEW_STEPS, "jacobian.probability": 0.4, "jacobian.weight": 1.0},
    ),
    Setting("resolutions", "1 resolution", _resolutions(1)),
    Setting("resolutions", "2 resolutions", _resolutions(2)),
    Setting("resolutions", "3 resolutions", _resolutions(3)),
    Setting("scales", "wide at high", _wide_high),
    Setting("scales", "equal", _equally_wide),
    Setting("scales", "wide at low", _wide_low),
    Setting("stem", "full size", {"model.downsample_times": 0}),
    Setting("stem", "halved", {"model.downsample_times": 1}),
    Setting("injection", "highest", {"model.injection": "highest"}),
    Setting("injection", "all", {"model.injection": "all"}),
    Setting("depth", "5 applications", _unrolled(5)),
    Setting("depth", "10 applications", _unrolled(10)),
    Setting("depth", "18 applications", _unrolled(18)),
    Setting("explicit", "ResNet", kind="resnet"),
    Setting("explicit", "Neural ODE", kind="neural_ode"),
    Setting("silenced", "silenced", kind="silenced"),
    Setting("latency", "latency", kind="latency"),
)


def plan(base: Config, groups: Collection[str], table: Sequence[Setting] = TABLE) -> list[Planned]:
    """Return the settings of some groups, in the order of the table, with what is to be run.

    Settings that come to the same share one cell, in the folder of the first of them.

    Args:
      base: what the settings change.
      groups: names in `GROUPS`; "base" is always among them.
      table: the settings to choose from.

    Raises:
      ValueError: an unknown group.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        near = suggestion(unknown[0], GROUPS)
        raise ValueError(f"there is no group {unknown[0]}; groups are {', '.join(GROUPS)}.{near}")
    cells: dict[tuple[Kind, Config], Cell] = {}
    planned = []
    for setting in table:
        if setting.group not in ("base", *groups):
            continue
        try:
            changes = setting.changes_of(base)
            config = override(base, changes)
        except ValueError as error:
            planned.append(Planned(setting, None, message=str(error)))
            continue
        new = Cell(setting.kind, config, f"{setting.group}/{_folder_name(setting.name)}")
        cell = cells.setdefault((setting.kind, config), new)
        planned.append(Planned(setting, cell, changes))
    return planned


def _folder_name(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", name.lower())
