"""Temporary memory of compiled segmentation at full resolution, by solver and its steps.

No program is run. The compiler tells the memory of inference on an image and of a training step on
a crop, beside parameters, optimizer state and images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.problems import setting, with_solver
from benchmarks.timing import report
from benchmarks.training import training_step
from mdeq_jax.vision.tasks import make_task

_MIB = 2**20
_IMAGE_SIZE = (1024, 2048)  # size of Cityscapes' images
_SOLVERS = (("picard", 27), ("anderson", 27), ("broyden", 10), ("broyden", 27), ("broyden", 54))


def main(config: str = "cityscapes_xl", batch: int = 1) -> None:
    """Print the memory of inference and of a training step.

    Args:
      config: name of a file in configs, for segmentation.
      batch: number of images.
    """
    bench = setting(config, batch)
    height, width = bench.config.data.image_size
    rows = []
    for name, steps in _SOLVERS:
        changed = with_solver(bench, name, steps)
        step, state, images = training_step(changed, None)
        rows.append(
            {
                "solver": name,
                "steps": steps,
                "inference_mib": _temporary_mib(*_inference(changed, batch)),
                "training_mib": _temporary_mib(step, state, images),
            }
        )
    report(
        "segmentation_memory",
        rows,
        config=config,
        batch=batch,
        image=f"{_IMAGE_SIZE[1]}x{_IMAGE_SIZE[0]}",
        crop=f"{width}x{height}",
    )


def _inference(bench: Any, batch: int) -> tuple[Any, ...]:
    """Return the prediction of every pixel's class, and its arguments."""
    solver, task = bench.config.solver.forward.build(), make_task(bench.config)

    @jax.jit
    def infer(variables: Any, images: jax.Array) -> jax.Array:
        def forward(images: jax.Array) -> Any:
            logits, info = bench.model.apply(variables, images, solver=solver)
            return logits, {"steps": info.solver.steps}

        logits: Any = task.predict(forward, images)[0]
        return task.output(logits)

    return infer, bench.variables, jax.ShapeDtypeStruct((batch, *_IMAGE_SIZE, 3), jnp.float32)


def _temporary_mib(function: Callable[..., Any], *arguments: Any) -> float:
    compiled = function.lower(*arguments).compile()  # pyright: ignore[reportFunctionMemberAccess]
    return compiled.memory_analysis().temp_size_in_bytes / _MIB
