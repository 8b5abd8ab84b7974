"""The models of the configs on random input, which needs no data set."""

import dataclasses
from typing import Any, NamedTuple

import jax

from mdeq_jax.implicit import FixedPointProblem
from mdeq_jax.vision.config import Config, finalize, load_config
from mdeq_jax.vision.model import MDEQ, create_model


class Setting(NamedTuple):
    """A model with random weights and a batch of random images.

    Attributes:
      config: config of the model and its solvers.
      model: the model.
      variables: variables of the model.
      images: (B, H, W, 3) float32.
      labels: (B,) int32, or (B, H, W) for segmentation.
    """

    config: Config
    model: MDEQ
    variables: Any
    images: jax.Array
    labels: jax.Array

    def problem(self) -> FixedPointProblem:
        """Return the fixed-point problem of the images."""
        problem: Any = self.model.apply(self.variables, self.images, method="problem")
        return problem


def setting(name: str, batch: int) -> Setting:
    """Return the setting of configs/NAME.py; with its tol of 0, every solve takes all its steps."""
    config = finalize(load_config(name))
    solver = config.solver
    config = dataclasses.replace(
        config,
        solver=dataclasses.replace(
            solver,
            forward=dataclasses.replace(solver.forward, tol=0.0),
            backward=dataclasses.replace(solver.backward, tol=0.0),
        ),
    )
    model = create_model(config.model, dtype=config.compute_dtype)
    key = jax.random.key(0)
    images = jax.random.normal(key, (batch, *config.data.image_size, 3))
    pixels = config.data.image_size if config.model.task == "segmentation" else ()
    labels = jax.random.randint(key, (batch, *pixels), 0, config.model.num_classes)
    variables = jax.jit(model.init)(key, images[:1])
    return Setting(config, model, variables, images, labels)


def with_solver(bench: Setting, name: str, steps: int) -> Setting:
    """Return the setting with another solver, forward and backward.

    Args:
      bench: the setting.
      name: "picard", "anderson" or "broyden".
      steps: most steps of each of the two solves.
    """
    solver = bench.config.solver
    changed = [
        dataclasses.replace(s, name=name, max_steps=steps)
        for s in (solver.forward, solver.backward)
    ]
    return bench._replace(config=dataclasses.replace(bench.config, solver=type(solver)(*changed)))
