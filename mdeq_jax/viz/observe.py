"""What pictures show of a trained model, from a solve of some images."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from mdeq_jax.solvers import solve
from mdeq_jax.solvers.stopping import relative_residual
from mdeq_jax.stability import spectral_radius
from mdeq_jax.vision.config import IGNORE, Config, DataConfig
from mdeq_jax.vision.data import eval_batches, find_dataset
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.model.resize import resize_bilinear
from mdeq_jax.viz.formation import Formation
from mdeq_jax.viz.images import ImageStatistics

Batch = dict[str, np.ndarray]


def first_images(data: DataConfig, count: int) -> Iterator[Batch]:
    """Yield the first images of the evaluation split, at most `count` of them, normalised."""
    normalise = find_dataset(data).normalise
    for batch in eval_batches(data):
        kept = np.flatnonzero(batch["mask"])[:count]
        rows = {name: rows[kept] for name, rows in batch.items()}
        yield {**rows, "image": normalise(rows["image"])}
        count -= len(kept)
        if count == 0:
            return


def observe_formation(
    config: Config, variables: PyTree, image: Float[np.ndarray, "H W 3"]
) -> Formation:
    """Return how the equilibrium of an image forms, up to the step at which its solve stops.

    Args:
      config: for model and forward solver.
      variables: of the model.
      image: as the model sees it, normalised.
    """
    model = create_model(config.model, dtype=config.compute_dtype)
    solver = config.solver.forward.build()

    @jax.jit
    def run(variables: PyTree, images: Array) -> tuple[PyTree, Array, Array]:
        problem: Any = model.apply(variables, images, method="problem")
        f, z0, args = problem
        result = solve(f, z0, args, solver, sample_at=tuple(range(1, solver.max_steps + 1)))
        states = jax.tree.map(lambda z, rows: jnp.concatenate([z[None], rows]), z0, result.states)

        def residuals(z: PyTree) -> Array:
            # By resolution: how far f still moves each of them.
            pairs = zip(f(z, args), z, strict=True)
            return jnp.stack([relative_residual(fz - z, z)[0] for fz, z in pairs])

        return states, jax.lax.map(residuals, states), result.steps[0]

    states, residuals, steps = jax.device_get(run(variables, image[None]))
    low, high = image.min(), image.max()
    return Formation(
        image=(image - low) / (high - low if high > low else 1),
        states=[rows[: steps + 1, 0] for rows in states],
        residuals=residuals[: steps + 1].T,
    )


def observe_images(
    config: Config, variables: PyTree, batches: Iterator[Batch], radius_iterations: int
) -> ImageStatistics:
    """Return what the solves of some images came to.

    Args:
      config: for model and forward solver.
      variables: of the model.
      batches: as `first_images` yields them.
      radius_iterations: products with the Jacobian for the spectral radius; 0 leaves it 0.
    """
    model = create_model(config.model, dtype=config.compute_dtype)
    solver = config.solver.forward.build()

    @jax.jit
    def run(variables: PyTree, batch: dict[str, Array]) -> tuple[Array, ...]:
        output: Any = model.apply(variables, batch["image"], solver=solver)
        logits, info = output
        if isinstance(logits, dict):
            logits = logits[config.model.task]
        confidence, right = agreement(logits, batch["label"])
        radius = jnp.zeros_like(confidence)
        if radius_iterations:
            key = jax.random.key(0)
            found = info.solution
            radius = spectral_radius(found.f, found.z, found.args, key, radius_iterations)
        return info.solver.steps, confidence, right, radius

    parts = [jax.device_get(run(variables, batch)) for batch in batches]
    return ImageStatistics(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def agreement(
    logits: Float[Array, "B *hw num_classes"], labels: Int[Array, "B *HW"]
) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
    """Return each image's confidence and whether it is right, as `ImageStatistics` says."""
    if labels.ndim > 1:
        logits = resize_bilinear(logits, labels.shape[1:])
    counts = labels != IGNORE
    pixels = tuple(range(1, labels.ndim))
    confidence = jax.nn.softmax(logits).max(-1).mean(pixels, where=counts)
    return confidence, (logits.argmax(-1) == labels).mean(pixels, where=counts) > 0.5
