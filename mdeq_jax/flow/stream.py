"""The flow of a film, pair after pair, each from the equilibrium of the pair before.

    x = inject(first, second),  z = cell(z, x),  z0 = (hidden, splat_forward(flow)) of the last z

Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", CVPR 2022, on the
reuse of fixed points; `evaluate.py` of locuslab/deq-flow.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from mdeq_jax.flow.config import Config
from mdeq_jax.flow.experiment import Flow
from mdeq_jax.flow.model.config import FACTOR
from mdeq_jax.flow.model.flow_net import FlowState, Injection
from mdeq_jax.flow.padding import Mode, padding_of
from mdeq_jax.flow.warping import splat_forward
from mdeq_jax.images.decoding import Pixels
from mdeq_jax.solvers import SolverResult
from mdeq_jax.training.evaluation import evaluation_layer
from mdeq_jax.training.weights import Trained


class FlowPrediction(NamedTuple):
    """The flow from one frame to the next, and its solve.

    Attributes:
      flow: float32 (H, W, 2), in pixels of the frames.
      solver_steps: number of solver steps.
      residual: residual of the equilibrium, as the solver of the config measures it.
      converged: whether the residual is below the tolerance.
      warm: whether the solve started from the equilibrium of the pair before.
      cold_solver_steps: number of solver steps from the initial state 0; None if it was not asked
        for.
    """

    flow: Float[np.ndarray, "H W 2"]
    solver_steps: int
    residual: float
    converged: bool
    warm: bool
    cold_solver_steps: int | None = None


class FlowStream:
    """Predicts the flow of pairs of frames in the order of time.

    With a warm start, a pair starts from the hidden state of the pair before, and from its flow
    carried along by itself (`splat_forward`). The first pair, a pair of another size and the first
    pair of a new scene start from 0. The functions are compiled once per padded size.

    Attributes:
      compare: whether pairs with a warm start are also solved from 0.
    """

    def __init__(
        self,
        trained: Trained[Config],
        experiment: Flow,
        *,
        warm_start: bool = False,
        compare: bool = False,
        steps: int | None = None,
        mode: Mode = "sintel",
    ):
        """Prepare the model.

        Args:
          trained: the trained model.
          experiment: the experiment, with model and solver.
          warm_start: whether pairs start from the equilibrium of the pair before.
          compare: whether pairs with a warm start are also solved from 0, to count the steps saved.
          steps: largest number of solver steps, at least 1; None is config.evaluation.steps.
          mode: how frames are padded to multiples of 8, see `padding_of`.

        Raises:
          ValueError: `compare` without `warm_start`, or `steps` is below 1.
        """
        if compare and not warm_start:
            raise ValueError(
                "cold starts are compared with warm ones; ask for a warm start (--warm-start) too."
            )
        steps = experiment.config.evaluation.steps if steps is None else steps
        unrolled = trained.config.train.unrolled_at(trained.step)
        self._inject, self._solve = _compiled(experiment, steps, unrolled)
        self._variables, self._smallest = trained.variables, experiment.config.model.smallest_side
        self._warm_start, self.compare = warm_start, compare
        self._mode: Mode = mode
        self._last: tuple[tuple[int, ...], FlowState] | None = None

    def __call__(self, first: Pixels, second: Pixels, *, new_scene: bool = False) -> FlowPrediction:
        """Return the flow from a frame to the next one.

        Args:
          first: the frame, RGB; with a warm start the second frame of the last call.
          second: the next frame, of the same size.
          new_scene: whether `first` does not follow the last call, so that the pair starts from 0.

        Raises:
          ValueError: the sizes differ, or are too small for the model.
        """
        self._check(first, second)
        height, width, _ = first.shape
        padding = padding_of(height, width, self._mode)
        x, cold = self._inject(self._variables, padding.pad(first)[None], padding.pad(second)[None])
        start = self._warm(first.shape) if self._warm_start and not new_scene else None
        flow, z, result = self._solve(self._variables, x, cold if start is None else start)
        self._last = first.shape, z
        steps = int(result.steps[0])
        found = FlowPrediction(
            np.asarray(padding.unpad(flow)[0], np.float32),
            steps,
            float(result.residual[0]),
            bool(result.converged[0]),
            warm=start is not None,
        )
        if not self.compare:
            return found
        if found.warm:
            steps = int(self._solve(self._variables, x, cold)[-1].steps[0])
        return found._replace(cold_solver_steps=steps)

    def _warm(self, shape: tuple[int, ...]) -> FlowState | None:
        """Return the last equilibrium carried on, or None without one of this size."""
        if self._last is None or self._last[0] != shape:
            return None
        z = self._last[1]
        return {**z, "flow": jnp.asarray(splat_forward(np.asarray(z["flow"])))}

    def _check(self, first: Pixels, second: Pixels) -> None:
        height, width, *_ = first.shape
        if first.shape != second.shape:
            raise ValueError(
                f"the two frames have the shapes {first.shape} and {second.shape}; they must be of "
                "one size."
            )
        # The padded side is a multiple of 8, and so is the smallest one.
        if min(height, width) <= self._smallest - FACTOR:
            raise ValueError(
                f"the frames are {width}×{height}; the model's correlation pyramid needs "
                f"{self._smallest}×{self._smallest} pixels after padding to multiples of "
                f"{FACTOR}. Enlarge them."
            )


def _compiled(
    experiment: Flow, steps: int, unrolled: int | None
) -> tuple[
    Callable[..., tuple[Injection, FlowState]], Callable[..., tuple[Array, FlowState, SolverResult]]
]:
    """Return functions that are compiled once per size.

    Args:
      experiment: the experiment.
      steps: largest number of solver steps.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.

    Returns:
      (variables, first, second) -> (x, z0), and (variables, x, z0) -> (flow, z, result).
    """
    layer = evaluation_layer(experiment.config, unrolled)
    solver = dataclasses.replace(layer.solver.without_noise(), max_steps=steps)
    layer = dataclasses.replace(layer, solver=solver)

    def inject(variables: PyTree, first: Array, second: Array) -> tuple[Injection, FlowState]:
        x: Any = experiment.model.apply(variables, first, second, method="inject")
        return x, experiment.problem(variables, x).z0

    def solve(
        variables: PyTree, x: Injection, z0: FlowState
    ) -> tuple[Array, FlowState, SolverResult]:
        f, _, args = experiment.problem(variables, x)
        solution = layer(f, z0, args)
        flow = experiment.decode(variables, solution.z, {}, train=False)
        return flow, solution.z, solution.result

    return jax.jit(inject), jax.jit(solve)
