"""What a config's model is made of, and what it costs.

    python -m mdeq_jax.commands.summary --config configs/imagenet_small.py

Nothing is computed but shapes. The last line on stdout is one JSON object with the totals.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mdeq_jax.commands import cli
from mdeq_jax.implicit import Unrolled
from mdeq_jax.training.memory import tree_bytes
from mdeq_jax.vision.config import Config, finalize
from mdeq_jax.vision.model import MDEQ, create_model
from mdeq_jax.vision.model.layers import Conv

# Applied to an image once; all else is of the cell.
_ONCE = ("stem", "lower_injections", "head")


class Part(NamedTuple):
    """A row of the table.

    Attributes:
      name: "stem", "branch 0" and so on, "fusion", "post-fusion", "lower_injections" or "head", to
        which extra heads are added.
      parameters: number of trainable parameters.
      multiply_adds: of its convolutions and linear layers in one pass over one image.
      passes: times that it is applied to an image.
    """

    name: str
    parameters: int
    multiply_adds: int
    passes: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """A model's parts, what a solve holds in memory, and what a training step exchanges.

    Attributes:
      parts: in the order of the data.
      state_bytes: the state of one image.
      history_bytes: what the forward solver remembers beside it, for one image.
      exchanged_bytes: what each of several devices hands into sums over all in one training step:
        4 (parameters + 2 k statistics), k = train.accumulate_steps. The statistics are those of
        BatchNorm, whose sums are two: forward, and backward of their cotangents. A few numbers of
        loss and metrics are left out, and so are the extra passes of fixed-point correction.
    """

    parts: tuple[Part, ...]
    state_bytes: int
    history_bytes: int
    exchanged_bytes: int

    def totals(self) -> dict[str, int]:
        """Return the totals; multiply-adds and bytes are per image, but those exchanged."""
        in_cell = [part for part in self.parts if part.name not in _ONCE]
        return {
            "parameters": sum(part.parameters for part in self.parts),
            "multiply_adds_per_application": sum(part.multiply_adds for part in in_cell),
            "multiply_adds_per_image": sum(part.multiply_adds * part.passes for part in self.parts),
            "state_bytes": self.state_bytes,
            "history_bytes": self.history_bytes,
            "exchanged_bytes": self.exchanged_bytes,
        }


def summarize(config: Config) -> Summary:
    """Return the summary for one image of `config.data.image_size`, float32.

    The cell is counted max_steps + 1 times: a solve of N steps evaluates it at its start as well.

    Args:
      config: for model, image size, forward solver and microbatches.

    Raises:
      ValueError: the image size does not fit the model.
    """
    model, solver = create_model(config.model), config.solver.forward.build()
    image = jax.ShapeDtypeStruct((1, *config.data.image_size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    parameters = collections.Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        parameters[_part(tuple(key.key for key in path))] += leaf.size
    multiply_adds, z = _trace(model, variables, image)
    names = sorted(parameters, key=lambda name: (name == "head", name != "stem", name))
    return Summary(
        parts=tuple(
            Part(
                name,
                parameters[name],
                multiply_adds[name],
                1 if name in _ONCE else solver.max_steps + 1,
            )
            for name in names
        ),
        state_bytes=tree_bytes(z),
        history_bytes=tree_bytes(jax.eval_shape(solver.init, z, z)),
        exchanged_bytes=tree_bytes(variables["params"])
        + 2 * config.train.accumulate_steps * tree_bytes(variables["batch_stats"]),
    )


def _trace(model: MDEQ, variables: Any, image: jax.ShapeDtypeStruct) -> tuple[dict[str, int], Any]:
    """Return the multiply-adds of each part in one pass, and the state's shapes."""
    by_module = {}

    def count(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        if isinstance(context.module, Conv | nn.Dense) and context.method_name == "__call__":
            window = context.module.size**2 if isinstance(context.module, Conv) else 1
            # Set and not added: Flax also traces the cell's initialiser, before the cell itself.
            by_module[context.module.path] = y.size * window * args[0].shape[-1]
        return y

    with nn.intercept_methods(count):
        _, info = jax.eval_shape(
            functools.partial(model.apply, adjoint=Unrolled(1)), variables, image
        )
    multiply_adds = collections.Counter()
    for path, number in by_module.items():
        multiply_adds[_part(path)] += number
    return multiply_adds, info.z


def _part(path: tuple[str, ...]) -> str:
    """Return the part that a module or a parameter belongs to; modules of the cell start there."""
    name = path[1] if path[0] == "cell" else path[0]
    if name.startswith("branches"):
        return f"branch {name.split('_')[1]}"
    if name.startswith("fuse_layers"):
        return "fusion"
    if name.startswith("extra_heads"):
        return "head"
    return "post-fusion" if name.startswith("post_fuse_layers") else name


def render(summary: Summary) -> str:
    """Return the table as text."""
    totals = summary.totals()
    rows = [("part", "parameters", "multiply-adds, one pass", "passes", "per image")]
    for part in summary.parts:
        once, all_passes = part.multiply_adds, part.multiply_adds * part.passes
        rows.append(
            (part.name, f"{part.parameters:,}", f"{once:,}", f"{part.passes}", f"{all_passes:,}")
        )
    cell, image = totals["multiply_adds_per_application"], totals["multiply_adds_per_image"]
    passes = f"{max(part.passes for part in summary.parts)}"
    rows.append(("the cell", "", f"{cell:,}", passes, ""))
    rows.append(("total", f"{totals['parameters']:,}", "", "", f"{image:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    sizes = (summary.state_bytes, summary.history_bytes, summary.exchanged_bytes)
    state, history, exchanged = (f"{size / 2**20:.2f} MiB" for size in sizes)
    lines.append(f"state {state} per image, solver's history {history} per image")
    lines.append(f"exchanged between devices {exchanged} per training step")
    return "\n".join(lines)


def main(config: Config) -> dict[str, int]:
    """Print the table and return the totals."""
    summary = summarize(config)
    print(render(summary))
    return summary.totals()


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(finalize)
    cli.run(__doc__, lambda: main(config.value))


if __name__ == "__main__":
    run()
