"""The settings that are compared: a table in groups, each entry a few changes of the base.

Changes that depend on the base's widths are a function of the base, so that any config will do.
"""

import bisect
import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict

from mdeq_jax.applications import finalize
from mdeq_jax.comparison import baselines
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.layer_config import SolverConfig
from mdeq_jax.training.sections import suggestion, with_values
from mdeq_jax.vision.config import Config
from mdeq_jax.vision.model import ModelConfig, create_model

# Dotted keys of the config, and their values. The value of a section is a mapping; keys that it
# lacks have their defaults.
Changes = Mapping[str, Any]
ChangesOf = Callable[[Config], Changes]
Table = Mapping[str, Mapping[str, Changes | ChangesOf]]

# Groups that train nothing but examine the base's model.
EXAMINATIONS = ("silenced", "latency")


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained configuration, or an examination of the base's model, whichever settings need it.

    Attributes:
      config: the config that is trained; for an examination, the config of the base.
      folder: the folder in the workdir.
      examination: one of `EXAMINATIONS`; "" trains.
    """

    config: RunConfig
    folder: str
    examination: str = ""


@dataclasses.dataclass(frozen=True)
class Setting:
    """An entry of the table as it applies to a base.

    Attributes:
      group: the setting's group, a key of `GROUPS`.
      name: the setting's name in the report, unique in its group.
      run: the run that the setting needs; None if the setting does not fit the base.
      changes: the values that differ from the base's config, by dotted key.
      message: why the setting does not fit the base.
    """

    group: str
    name: str
    run: Run | None
    changes: Changes = dataclasses.field(default_factory=dict)
    message: str = ""


def plan(base: Config, groups: Collection[str], table: Table | None = None) -> list[Setting]:
    """Return the settings of some groups, in the order of the table, each with its run.

    Settings that amount to the same share one run, in the folder of the first of them.

    Args:
      base: the config that the settings change.
      groups: names in `GROUPS`; "base" is always among them.
      table: changes by group and name; None is `TABLE`.

    Raises:
      ValueError: an unknown group.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        near = suggestion(unknown[0], GROUPS)
        raise ValueError(f"there is no group {unknown[0]}; groups are {', '.join(GROUPS)}.{near}")
    runs, settings, own = {}, [], dataclasses.asdict(base)
    for group, entries in (table or TABLE).items():
        for name, entry in entries.items() if group in ("base", *groups) else ():
            try:
                changes = entry(base) if callable(entry) else entry
                config = finalize(with_values(own, changes))
            except ValueError as error:
                settings.append(Setting(group, name, None, message=str(error)))
                continue
            examination = group if group in EXAMINATIONS else ""
            # An examination belongs to the base's model, so its folder is in the base's folder.
            place = "base/base" if examination else group
            folder = f"{place}/{re.sub(r'[^a-z0-9.]+', '_', name.lower())}"
            run = runs.setdefault((config, examination), Run(config, folder, examination))
            new, old = (flatten_dict(c, sep=".") for c in (dataclasses.asdict(config), own))
            changed = {key: value for key, value in new.items() if old.get(key, ...) != value}
            settings.append(Setting(group, name, run, changed))
    return settings


def count_parameters(model: nn.Module, image_size: tuple[int, ...]) -> int:
    """Return the number of trainable parameters. Only shapes are computed.

    Args:
      model: a model whose `init` takes images (B, H, W, 3).
      image_size: (H, W).

    Raises:
      ValueError: the image size does not fit the model.
    """
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def nearest(target: int, count: Callable[[int], int]) -> int:
    """Return the k ≥ 1 whose count(k), which rises with k without bound, is nearest to target."""
    count = functools.cache(count)
    upper = 1
    while count(upper) < target:
        upper *= 2
    first = bisect.bisect_left(range(upper + 1), target, lo=1, key=count)
    return min((max(first - 1, 1), first), key=lambda k: abs(count(k) - target))


def _as_large(base: Config, model: Callable[[int], nn.Module]) -> Any:
    """Return the config of the model(k) that has about as many parameters as the base's model."""
    size = base.data.image_size
    target = count_parameters(create_model(base.model), size)
    k = nearest(target, lambda k: count_parameters(model(k), size))
    return dataclasses.asdict(model(k).config)  # pyright: ignore[reportAttributeAccessIssue]


def _widths(weights: Callable[[int], Sequence[int]]) -> ChangesOf:
    """Return branches of relative widths weights(n), n being the base's number of branches."""

    def changes(base: Config) -> Changes:
        own = weights(base.model.num_branches)
        return {"model": _as_large(base, lambda k: create_model(_resize(base.model, own, k)))}

    return changes


def _resolutions(branches: int) -> ChangesOf:
    """Return the base if it has as many branches, otherwise that many of about equal width."""
    equal = _widths(lambda _: [1] * branches)
    return lambda base: {} if branches == base.model.num_branches else equal(base)


def _resize(model: ModelConfig, weights: Sequence[int], k: int) -> ModelConfig:
    """Return widths of about k · weight / branches times num_groups, the first ones rounded up.

    From k to k + 1 only a few widths grow, so that the counts of parameters lie close together.
    """
    n = len(weights)
    head = model.head_channels[-n:]
    while len(head) < n:  # the head ends like the base's, so that only the cells differ
        head = (max(1, head[0] // 2), *head)
    extend = lambda values: (*values, *values[-1:] * n)[:n]  # noqa: E731
    multiples = [max(1, (k * weight + n - 1 - i) // n) for i, weight in enumerate(weights)]
    return dataclasses.replace(
        model,
        branch_channels=tuple(model.num_groups * multiple for multiple in multiples),
        blocks_per_branch=extend(model.blocks_per_branch),
        big_kernels=extend(model.big_kernels),
        head_channels=head,
    )


def _explicit(kind: Literal["resnet", "neural_ode"], depth: int) -> ChangesOf:
    """Return an explicit model in place of the base's, without a warm-up: it has no cell."""

    def changes(base: Config) -> Changes:
        def model(k: int) -> nn.Module:
            width, classes = baselines.GROUPS * k, base.model.num_classes
            config = baselines.ModelConfig(kind, width, depth, classes)
            return baselines.ExplicitModel(config)

        start = {"init_from": None, "train.pretrain_steps": 0}
        return {"app": "baseline", "model": _as_large(base, model), **start}

    return changes


def _adjoint(name: str, **options: Any) -> Changes:
    return {"adjoint": {"name": name, **options}}


def _solver(section: str, name: str) -> Changes:
    """Return another solver, without the base's own options, which it may not have."""
    own = [field.name for field in dataclasses.fields(SolverConfig) if field.default is None]
    return {f"{section}.name": name} | {f"{section}.{option}": None for option in own}


def _solvers(name: str) -> Changes:
    backward = _solver("solver.backward", name)
    return {**_adjoint("exact"), **_solver("solver.forward", name), **backward}


def _shine(**options: Any) -> Changes:
    # SHINE reuses the whole history of Broyden's method.
    return {**_adjoint("shine", **options), **_solver("solver.forward", "broyden")}


def _unrolled(layers: int) -> Changes:
    # More steps than any training has: the cell is unrolled to the end.
    return {"train.pretrain_steps": 10**9, "train.num_layers": layers}


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

TABLE: Table = {
    "base": {"base": {}},
    "gradients": {
        "exact": _adjoint("exact"),
        "neumann": _adjoint("neumann", steps=5, damping=0.5),
        "phantom": _adjoint("phantom", steps=5, damping=0.5),
        "jacobian-free": _adjoint("jacobian_free"),
        "shine": _shine(),
        "shine, refine 5": _shine(refine=5),
        "shine, opa 5": _shine(opa_every=5),
        "correction, 3 states": {"correction.states": 3},
    },
    "solvers": {name: _solvers(name) for name in ("broyden", "anderson", "picard")},
    "steps": {f"{n} steps": {"solver.forward.max_steps": n} for n in (4, 8, 18, 30)},
    "regularisation": {
        "none, 8 steps": {"solver.forward.max_steps": 8, "jacobian.probability": 0.0},
        "0.4 × 1.0, 8 steps": {
            "solver.forward.max_steps": 8,
            "jacobian.probability": 0.4,
            "jacobian.weight": 1.0,
        },
    },
    "resolutions": {f"{n} resolution{'s' * (n > 1)}": _resolutions(n) for n in (1, 2, 3)},
    "scales": {
        "wide at high": _widths(lambda n: range(n, 0, -1)),
        "equal": _widths(lambda n: [1] * n),
        "wide at low": _widths(lambda n: range(1, n + 1)),
    },
    "stem": {"full size": {"model.downsample_times": 0}, "halved": {"model.downsample_times": 1}},
    "injection": {where: {"model.injection": where} for where in ("highest", "all")},
    "depth": {f"{k} applications": _unrolled(k) for k in (5, 10, 18)},
    # The Runge-Kutta steps of the neural ODE evaluate its block 16 times.
    "explicit": {"ResNet": _explicit("resnet", 8), "Neural ODE": _explicit("neural_ode", 4)},
    "silenced": {"silenced": {}},
    "latency": {"latency": {}},
}
