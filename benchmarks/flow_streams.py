"""A trained DEQ-Flow on films, with cold and warm starts, and on a real pair of stereo images."""

import itertools
from collections.abc import Iterator, Sequence

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from benchmarks.results import Row
from mdeq_jax.checks import needs_extra
from mdeq_jax.flow.config import Config
from mdeq_jax.flow.data import shapes
from mdeq_jax.flow.experiment import create_experiment
from mdeq_jax.flow.metrics import flow_errors, summarize_errors
from mdeq_jax.flow.stream import FlowStream
from mdeq_jax.training.config import override
from mdeq_jax.training.weights import Trained

StereoPair = tuple[
    UInt8[np.ndarray, "H W 3"],
    UInt8[np.ndarray, "H W 3"],
    Float[np.ndarray, "H W 2"],
    Bool[np.ndarray, "H W"],
]


def steps_of_films(
    trained: Trained[Config],
    tolerances: Sequence[float],
    *,
    films: int,
    frames: int,
    max_steps: int,
) -> Iterator[Row]:
    """Yield the mean number of solver steps from cold and from warm starts at each tolerance.

    The films are generated scenes of the test split, of the size of the evaluation. The first
    pair of a film is left out, because it always starts cold. A solve that does not converge counts
    with all its steps.

    Args:
      trained: the trained model.
      tolerances: residuals at which both solves stop.
      films: number of films.
      frames: number of frames of a film, at least 3.
      max_steps: largest number of solver steps.

    Yields:
      For both starts, steps, converged (the share of pairs) and epe; and fewer_steps, the share of
      pairs that take fewer steps from a warm start.
    """
    data = trained.config.data
    size, motion = data.eval_size or data.crop, data.max_motion
    clips = [
        shapes.film(np.random.default_rng(seed), size, frames, motion, data.objects, "test")
        for seed in range(films)
    ]
    for tol in tolerances:
        experiment = create_experiment(override(trained.config, {"solver.forward.tol": tol}))
        row: Row = {"tol": tol, "pairs": films * (frames - 2)}
        steps = {}
        for start in ("cold", "warm"):
            stream = FlowStream(trained, experiment, warm_start=start == "warm", steps=max_steps)
            solved = np.array([pair for clip in clips for pair in _solve(stream, clip)])
            steps[start] = solved[:, 0]
            for name, values in zip(("steps", "converged", "epe"), solved.T, strict=True):
                row[f"{start}_{name}"] = values.mean()
        yield {**row, "fewer_steps": (steps["warm"] < steps["cold"]).mean()}


def _solve(stream: FlowStream, clip: Row) -> list[tuple[int, bool, float]]:
    """Return steps, convergence and mean error of all pairs of a film but the first."""
    found = [
        stream(first, second, new_scene=k == 0)
        for k, (first, second) in enumerate(itertools.pairwise(clip["frames"]))
    ]
    errors = [
        np.linalg.norm(pair.flow - flow, axis=-1)[valid].mean()
        for pair, flow, valid in zip(found, clip["flow"], clip["valid"], strict=True)
    ]
    return [(x.solver_steps, x.converged, e) for x, e in zip(found, errors, strict=True)][1:]


def errors_of_stereo(
    trained: Trained[Config], widths: Sequence[int], max_steps: int
) -> Iterator[Row]:
    """Yield the errors on scikit-image's stereo pair in several sizes.

    Args:
      trained: the trained model.
      widths: widths of the images, see `stereo_pair`.
      max_steps: largest number of solver steps.

    Yields:
      epe, epe_zero (of zero flow), epe_mean (of the mean of the true flow at every pixel) and 1px,
      over the pixels with a known disparity; longest, the longest true flow in pixels.
    """
    stream = FlowStream(trained, create_experiment(trained.config), steps=max_steps)
    for width in widths:
        left, right, flow, valid = stereo_pair(width)
        found = stream(left, right, new_scene=True)
        guesses = {"": found.flow, "_zero": 0 * flow, "_mean": 0 * flow + flow[valid].mean(axis=0)}
        errors = {
            name: summarize_errors(_sums(guess, flow, valid)) for name, guess in guesses.items()
        }
        yield {
            "width": width,
            "height": len(left),
            "longest": float(np.linalg.norm(flow, axis=-1).max()),
            **{f"epe{name}": each["epe"] for name, each in errors.items()},
            "1px": errors[""]["1px"],
            "solver_steps": found.solver_steps,
            "residual": found.residual,
        }


def stereo_pair(width: int) -> StereoPair:
    """Return scikit-image's stereo pair of a motorcycle: left, right, flow and valid.

    A point of the left image is in the same row of the right image, to the left by its disparity d:
    the flow is (−d, 0). Images are averaged over areas; the disparity is the one of the nearest
    pixel, because a mean across the edge of an object is the disparity of no point.

    Args:
      width: width in pixels, a multiple of 8. The height keeps the proportions of 741×500, up to
        rounding to a multiple of 8.

    Raises:
      ImportError: scikit-image is not installed.
    """
    with needs_extra("dev"):
        from skimage.data import stereo_motorcycle  # only this measurement needs it
    left, right, disparity = stereo_motorcycle()
    height, original = disparity.shape
    size = width, 8 * round(height * width / original / 8)
    left, right = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (left, right))
    disparity = cv2.resize(disparity, size, interpolation=cv2.INTER_NEAREST_EXACT)
    valid = np.isfinite(disparity)
    u = np.where(valid, -disparity * (width / original), 0)
    flow = np.stack([u, np.zeros_like(u)], axis=-1).astype(np.float32)
    return np.asarray(left), np.asarray(right), flow, valid


def _sums(
    guess: Float[np.ndarray, "H W 2"],
    flow: Float[np.ndarray, "H W 2"],
    valid: Bool[np.ndarray, "H W"],
) -> Row:
    errors = flow_errors(*(jnp.asarray(x)[None] for x in (guess, flow, valid)))
    return {name: value.sum() for name, value in errors.items()}
