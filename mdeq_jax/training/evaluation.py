"""Evaluation over whole data sets, and the traces of both solves on a batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from mdeq_jax.implicit import DEQ, Exact, Solution, Unrolled, equilibrium
from mdeq_jax.runtime.hosts import gather_rows
from mdeq_jax.stability import spectral_radius
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import (
    Batch,
    Evaluation,
    Experiment,
    Layer,
    Variables,
    make_put,
    reset_carry,
    rows_of,
)
from mdeq_jax.training.mesh import AXIS, shard
from mdeq_jax.training.objective import bind, loss_gradient

OnRecords = Callable[[Shaped[np.ndarray, "n ..."]], None]
# (variables, batch, carry) -> (sums, records of the rows, new carry)
EvalStep = Callable[[Variables, Batch, PyTree], tuple[PyTree, Array, PyTree]]


class Evaluator:
    """The evaluations of an experiment; one compiled step serves all that solve in the same way."""

    def __init__(self, experiment: Experiment, mesh: Mesh):
        """Prepare the evaluations; data that are missing raise ValueError here.

        Args:
          experiment: the experiment.
          mesh: the mesh, as `create_mesh` returns it.
        """
        self._experiment, self._mesh = experiment, mesh
        self._put = make_put(experiment, mesh)
        self._evaluations = experiment.evaluations()
        self._step = functools.cache(
            lambda way, unrolled: make_eval_step(experiment, mesh, way, unrolled=unrolled)
        )

    def __call__(
        self,
        variables: Variables,
        *,
        unrolled: int | None,
        on_records: Callable[[str], OnRecords] | None = None,
    ) -> dict[str, float]:
        """Return the metrics of every evaluation, in which each sample counts once.

        Args:
          variables: the model's variables, replicated over the mesh.
          unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
          on_records: returns a function for the name of an evaluation. Every process calls that
            function once per batch, with the records of the samples of all processes, without
            padding.

        Returns:
          For each evaluation: the experiment's metrics; the means of its statistics, such as
          solver_steps and converged; and "examples", the number of samples. `metric_name` gives
          their full names.
        """
        metrics = {}
        for name, evaluation in self._evaluations.items():
            # The step does not depend on the data.
            step = self._step(dataclasses.replace(evaluation, batches=iter), unrolled)
            take = on_records(name) if on_records else None
            values = self._pass_over(evaluation, step, variables, take)
            metrics |= {metric_name(name, metric): value for metric, value in values.items()}
        return metrics

    def _pass_over(
        self,
        evaluation: Evaluation,
        step: EvalStep,
        variables: Variables,
        on_records: OnRecords | None,
    ) -> dict[str, float]:
        experiment, sums = self._experiment, []
        size = experiment.config.data.eval_batch_size // jax.process_count()
        carry = shard(experiment.init_carry(size), self._mesh)
        for batch in evaluation.batches():
            batch_sums, records, carry = step(variables, self._put(batch), carry)
            sums.append(jax.tree.map(_widen, jax.device_get(batch_sums)))
            if on_records is not None:
                local = np.concatenate([piece.data for piece in records.addressable_shards])
                rows, mask = gather_rows((local, batch["mask"]))
                on_records(rows[mask])
        total = jax.tree.map(lambda *parts: sum(parts), *sums)
        metrics = experiment.summarize(total)
        means = {k: float(x / total["count"]) for k, x in total["statistics"].items()}
        return {**metrics, **means, "examples": float(total["count"])}


def metric_name(evaluation: str, metric: str) -> str:
    """Return the full name of a metric.

    Examples:
      >>> metric_name("eval", "accuracy"), metric_name("eval/64", "accuracy")
      ('eval/accuracy', 'eval/accuracy_64')
    """
    group, _, label = evaluation.partition("/")
    return f"{group}/{metric}_{label}" if label else f"{group}/{metric}"


def make_eval_step(
    experiment: Experiment, mesh: Mesh, evaluation: Evaluation, *, unrolled: int | None
) -> EvalStep:
    """Return the compiled ``eval_step(variables, batch, carry) -> (sums, records, carry)``.

    The sums run over the rows where the batch's "mask" is True. They are the sums of
    `Experiment.sums`, "count", the number of rows, and "statistics", the sums of the experiment's
    statistics. There is one record per row, and the records are sharded like the batch.

    Args:
      experiment: the experiment.
      mesh: the mesh, as `create_mesh` returns it.
      evaluation: the evaluation to compile.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
    """
    deq = evaluation_layer(experiment.config, unrolled, evaluation)

    def step(variables: Variables, batch: Batch, carry: PyTree) -> tuple[PyTree, Array, PyTree]:
        carry = reset_carry(experiment, carry, batch.get("reset"))
        key = jax.random.key(experiment.config.seed)
        layer = bind(deq, evaluation.initial_state, key, batch)
        prediction = experiment.predict(variables, batch, layer, carry)
        sums = {
            **experiment.sums(prediction.outputs, batch),
            "count": batch["mask"].sum().astype(jnp.float32),
            "statistics": masked_sums(prediction.statistics, batch["mask"]),
        }
        return lax.psum(sums, AXIS), experiment.record(prediction.outputs), prediction.carry

    rows = PartitionSpec(AXIS)
    specs = PartitionSpec(), rows, rows
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=specs)
    return jax.jit(mapped)


def evaluation_layer(
    config: RunConfig, unrolled: int | None = None, evaluation: Evaluation | None = None
) -> DEQ:
    """Return the equilibrium layer of an evaluation.

    Args:
      config: the config of the run, with the forward solver.
      unrolled: number of applications of the cell in place of the solve (warm-up); None solves.
      evaluation: the evaluation, which may replace the solver or its max_steps; None keeps the
        solver of the config.
    """
    solver = config.solver.forward.build()
    if evaluation is not None:
        solver = evaluation.solver or solver
        if evaluation.max_steps is not None:
            solver = dataclasses.replace(solver, max_steps=evaluation.max_steps)
    return DEQ(solver) if unrolled is None else DEQ(solver, Unrolled(unrolled))


def solver_statistics(
    config: RunConfig, solution: Solution | None
) -> dict[str, Float[Array, " B"]]:
    """Return the statistics of a solve that evaluation reports, one number per sample.

    These are solver_steps, residual and converged, and spectral_radius (the Jacobian's at the
    equilibrium) where config.train.spectral_radius_iterations asks for it. A model without an
    equilibrium (None) has none of them.
    """
    if solution is None:
        return {}
    result, iterations = solution.result, config.train.spectral_radius_iterations
    statistics = {
        "solver_steps": result.steps,
        "residual": result.residual,
        "converged": result.converged,
    }
    if iterations > 0:
        key = jax.random.key(0)
        radius = spectral_radius(solution.f, solution.z, solution.args, key, iterations)
        statistics["spectral_radius"] = radius
    return statistics


def masked_sums(
    values: Mapping[str, Float[Array, " B"]], mask: Bool[Array, " B"]
) -> dict[str, Float[Array, ""]]:
    """Return the sum of each array over the rows where the mask is True."""
    # Not a product with the mask, because the residual of a padding row may be infinite or NaN.
    return {name: jnp.where(mask, value, 0).sum() for name, value in values.items()}


def _widen(sums: np.ndarray) -> np.ndarray:
    """Return the sums of a batch in a dtype that is wide enough for a data set."""
    return sums.astype(np.int64 if np.issubdtype(sums.dtype, np.integer) else np.float64)


def solver_traces(
    experiment: Experiment, variables: Variables, batch: Batch
) -> tuple[Float[Array, "forward_steps B"], Float[Array, "backward_steps B"]]:
    """Return the residuals of the forward and of the exact adjoint solve after each step.

    Args:
      experiment: the experiment, whose model has an equilibrium.
      variables: the model's variables.
      batch: a prepared batch.
    """
    config: RunConfig = experiment.config
    forward, backward = config.solver.forward.build(), config.solver.backward.build()

    @jax.jit
    def traces(variables: Variables, batch: Batch) -> tuple[Array, Array]:
        carry = experiment.init_carry(rows_of(batch))
        layer = Layer(DEQ(forward.without_noise()))
        passed = experiment.forward(variables, batch, layer, train=False, carry=carry)
        solution = passed.solution
        if solution is None:
            raise ValueError("The model has no equilibrium, so there is no solve to trace.")
        _, pullback = jax.vjp(lambda z: solution.f(z, solution.args), solution.z)
        g = loss_gradient(experiment, variables, batch)(solution.z)
        adjoint = Exact(backward).solve(lambda u: pullback(u)[0], g, equilibrium, None)
        return solution.result.trace, adjoint.trace

    return traces(variables, batch)
