"""Print the parts of a config's model, with parameters, multiply-adds and memory.

    python -m mdeq_jax.commands.summary --config configs/imagenet_small.py

Only shapes are computed. With --compile, the training step is compiled for the devices of this
machine, which takes minutes for a large model, and XLA's figures for its memory are added. The last
line on stdout is one JSON object with the totals.
"""

import collections
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from flax import linen as nn
from jaxtyping import PyTree

from mdeq_jax.commands import cli
from mdeq_jax.implicit import Unrolled
from mdeq_jax.layers.modules import Conv
from mdeq_jax.solvers.solver import Point
from mdeq_jax.training.mesh import create_mesh
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import create_state
from mdeq_jax.training.steps import make_train_step
from mdeq_jax.vision.config import Config, finalize
from mdeq_jax.vision.experiment import create_experiment
from mdeq_jax.vision.model import create_model

_SIZES = ("state, per image", "solver's history, per image", "exchanged between devices, per step")
# Parts that are applied once to an image. All other parts belong to the cell.
_ONCE = ("stem", "lower_injections", "head")
# Modules of the cell whose parts have names of their own, by the start of the module's name.
_PARTS = {"fuse_layers": "fusion", "post_fuse_layers": "post-fusion", "extra_heads": "head"}


class Part(NamedTuple):
    """A part of the model.

    Attributes:
      parameters: number of trainable parameters.
      multiply_adds: multiply-adds of its convolutions and linear layers in one application to one
        image.
      passes: number of applications to an image.
    """

    parameters: int
    multiply_adds: int
    passes: int


class Summary(NamedTuple):
    """The parts of a model, and the bytes that it needs.

    Attributes:
      parts: the parts by name: "stem", "branch 0" and so on, "fusion", "post-fusion",
        "lower_injections", "head" (with the extra heads).
      state_bytes: bytes of the state of one image.
      history_bytes: bytes that the forward solver stores beside the state, for one image.
      exchanged_bytes: bytes that each device adds to sums over all devices in one training step: 4
        (parameters + 2 k statistics) with k = train.accumulate_steps. BatchNorm's statistics are
        summed forward, and their cotangents backward. Loss, metrics and the extra passes of
        fixed-point correction are left out.
    """

    parts: dict[str, Part]
    state_bytes: int
    history_bytes: int
    exchanged_bytes: int

    def totals(self) -> dict[str, int]:
        """Return the totals, with multiply-adds, state and history for one image."""
        cell = [part for name, part in self.parts.items() if name not in _ONCE]
        return {
            "parameters": sum(part.parameters for part in self.parts.values()),
            "multiply_adds_per_application": sum(part.multiply_adds for part in cell),
            "multiply_adds_per_image": sum(p.multiply_adds * p.passes for p in self.parts.values()),
            "state_bytes": self.state_bytes,
            "history_bytes": self.history_bytes,
            "exchanged_bytes": self.exchanged_bytes,
        }


def summarize(config: Config) -> Summary:
    """Return the summary for one image of `config.data.image_size`, float32.

    The cell is counted max_steps + 1 times: a solve of N steps also evaluates it at its start.

    Raises:
      ValueError: the image size does not fit the model.
    """
    model, solver = create_model(config.model), config.solver.forward.build()
    image = jax.ShapeDtypeStruct((1, *config.data.image_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    calls = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv | nn.Dense) and context.method_name == "__call__":
            window = math.prod(context.module.sides) if isinstance(context.module, Conv) else 1
            # Set, not added, because Flax also traces the cell's initialiser before the cell.
            calls[context.module.path] = y.size * window * args[0].shape[-1]
        return y

    with nn.intercept_methods(record):
        apply = functools.partial(model.apply, adjoint=Unrolled(1))
        _, info = jax.eval_shape(apply, variables, image)
    parameters, multiply_adds = collections.Counter(), collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        parameters[_part(tuple(key.key for key in path))] += leaf.size
    for path, number in calls.items():
        multiply_adds[_part(path)] += number

    def remembered(z: Any) -> Any:
        return solver.init(Point(z, z, jnp.zeros((), int), lambda z: z))

    names = sorted(parameters, key=lambda name: (name == "head", name != "stem", name))
    statistics = 2 * config.train.accumulate_steps * tree_bytes(variables["batch_stats"])
    passes = {name: 1 if name in _ONCE else solver.max_steps + 1 for name in names}
    return Summary(
        {name: Part(parameters[name], multiply_adds[name], passes[name]) for name in names},
        state_bytes=tree_bytes(info.z),
        history_bytes=tree_bytes(jax.eval_shape(remembered, info.z)),
        exchanged_bytes=tree_bytes(variables["params"]) + statistics,
    )


def tree_bytes(tree: PyTree) -> int:
    """Return the bytes of all arrays in a tree, which may be abstract."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def compiled_memory(config: Config) -> dict[str, int]:
    """Return XLA's figures for a compiled training step: bytes on one device, by kind."""
    experiment, size = create_experiment(config), config.data.image_size
    optimizer = create_optimizer(config.optim, 1, 1)
    state = jax.eval_shape(lambda: create_state(experiment, optimizer))
    step = make_train_step(experiment, optimizer, create_mesh(), unrolled=None, steps_per_epoch=1)
    n, pixels = config.data.batch_size, size if config.model.task == "segmentation" else ()
    shapes = {"image": (n, *size, 3), "label": (n, *pixels), "image_label": (n,)}
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32 if name == "image" else jnp.int32)
        for name, shape in shapes.items()
    }
    found = step.lower(state, batch).compile().memory_analysis()
    kinds = ("argument", "temp")
    return {f"step_{kind}_bytes": getattr(found, f"{kind}_size_in_bytes") for kind in kinds}


def _part(path: tuple[str, ...]) -> str:
    """Return the part that a module or a parameter belongs to."""
    name = path[1] if path[0] == "cell" else path[0]
    if name.startswith("branches"):
        return f"branch {name.split('_')[1]}"
    return next((part for start, part in _PARTS.items() if name.startswith(start)), name)


def render(summary: Summary) -> str:
    """Return the table as text."""
    totals, row = summary.totals(), "{:16}  {:>12,}  {:>23,}  {:>6}  {:>19,}"
    cell, image = (totals[f"multiply_adds_per_{per}"] for per in ("application", "image"))
    passes = max(part.passes for part in summary.parts.values())
    return "\n".join(
        [
            row.replace(",", "").format(
                "part", "parameters", "multiply-adds, one pass", "passes", "per image"
            ),
            *(row.format(n, *p, p.multiply_adds * p.passes) for n, p in summary.parts.items()),
            f"{'the cell':16}  {'':12}  {cell:>23,}  {passes:>6}",
            f"{'total':16}  {totals['parameters']:>12,}  {'':23}  {'':6}  {image:>19,}",
            *(
                f"{kind}: {size / 2**20:.2f} MiB"
                for kind, size in zip(_SIZES, summary[1:], strict=True)
            ),
        ]
    )


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(finalize)
    compile_step = flags.DEFINE_bool(
        "compile", False, "Add XLA's figures of a training step's memory."
    )

    def command() -> dict[str, int]:
        summary = summarize(config.value)
        print(render(summary))
        memory = compiled_memory(config.value) if compile_step.value else {}
        for kind, size in memory.items():
            print(f"{kind.replace('_', ' ')} {size / 2**20:.2f} MiB per device")
        return summary.totals() | memory

    cli.run(__doc__, command)


if __name__ == "__main__":
    run()
