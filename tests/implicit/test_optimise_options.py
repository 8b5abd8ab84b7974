"""Stages of step sizes, merits and several starts of the optimum over an input."""

import jax
import jax.numpy as jnp
import numpy as np
from input_problems import (
    DEQ_TIGHT,
    STEPS,
    close,
    cost,
    nonlinear,
    random_args,
    readout,
    solved,
    starts,
    trees_close,
)

from mdeq_jax.implicit import DEQ, Augmented, Steps, augmented_map, optimise
from mdeq_jax.solvers import Picard
from mdeq_jax.training.experiment import Layer


def test_stages_follow_each_other(x64):
    """Three plain steps of each size, by hand; the trace has the residuals of all six."""
    args = random_args()
    stages = (Steps(0.9, 0.8, 0.3), Steps(0.5, 0.5, 0.1))
    optimum = jax.jit(lambda args: solved(args, deq=DEQ(Picard(3, 0.0)), steps=stages))(args)
    step = jax.jit(augmented_map(nonlinear, cost))
    z0, x0 = starts(args)
    w = Augmented(z0, x0, jnp.zeros_like(z0))
    for stage in stages:
        for _ in range(3):
            w = step(w, (args, stage))
    trees_close((optimum.z, optimum.x, optimum.mu), tuple(w))
    assert optimum.result.trace.shape == (6, 3)
    np.testing.assert_array_equal(optimum.result.steps, 6)
    np.testing.assert_array_equal(optimum.result.best_step, 6)


def test_the_last_stage_is_differentiated(x64):
    args = random_args()
    staged = lambda args: readout(solved(args, steps=(Steps(x=0.1), STEPS)))  # noqa: E731
    plain = lambda args: readout(solved(args))  # noqa: E731
    trees_close(*(jax.jit(jax.value_and_grad(loss))(args) for loss in (staged, plain)))


def test_a_layer_of_the_training_loop_starts_once(x64):
    """Its own start goes before the first stage only, and its solves take the merit."""
    args, calls = random_args(), []

    def start(w):
        calls.append(True)
        return jax.tree.map(lambda x: x + 0.1, w)

    layer = Layer(DEQ_TIGHT, start=start)
    stages = (STEPS, STEPS)
    merit = lambda cost, residual: residual  # noqa: E731
    optimum = jax.jit(lambda args: solved(args, deq=layer, steps=stages, merit=merit))(args)
    assert len(calls) == 1
    expected = jax.jit(solved)(args)
    close(optimum.x, expected.x)
    assert (optimum.result.trace[len(optimum.result.trace) // 2 :] < 1e-12).all()


def test_the_merit_chooses_by_cost_and_residual(x64):
    """By cost alone, the cost of the sampled states never rises, and the last one is returned."""
    args = random_args()
    args["target"] *= 5
    deq = DEQ(Picard(8, 0.0), sample_at=tuple(range(1, 9)))
    by_cost = lambda cost, residual: cost  # noqa: E731
    found = jax.jit(lambda args: solved(args, deq=deq, merit=by_cost))(args)
    w = found.result.states
    costs = np.asarray(jax.jit(jax.vmap(cost, (0, 0, None)))(w.z, w.x, args))
    assert (np.diff(costs, axis=0) <= 0).all()
    np.testing.assert_array_equal(costs[-1], found.cost)
    plain = jax.jit(lambda args: solved(args, deq=deq))(args)
    assert (found.cost <= plain.cost).all()
    assert (found.cost < plain.cost).any()
    assert (found.result.residual >= plain.result.residual).all()


def two_valleys(z, x, tilt):
    """(z² − 1)² + tilt z: minima near 1 and −1."""
    return ((z**2 - 1) ** 2 + tilt * z)[:, 0]


def equal(z, x, tilt):
    return x


def best_of(x0, tilt, **options):
    deq = DEQ(Picard(**({"max_steps": 300, "tol": 1e-12} | options)))
    z0 = jnp.zeros((x0.shape[-2], 1), x0.dtype)
    extra = {"starts": len(x0)} if x0.ndim == 3 else {}
    return optimise(equal, two_valleys, z0, x0, tilt, deq=deq, steps=Steps(1.0, 1.0, 0.03), **extra)


def test_each_sample_keeps_its_best_start(x64):
    tilt = jnp.asarray([[0.3], [-0.3], [0.3]])
    x0 = jnp.asarray([[0.9, 0.9, 0.9], [-0.8, -0.8, 0.7], [jnp.pi, 0.8, 0.6]])[..., None]
    optimum = jax.jit(best_of)(x0, tilt)
    one = jax.jit(best_of)
    alone = jnp.stack([one(x, tilt).cost for x in x0])
    close(optimum.cost, alone.min(axis=0))
    np.testing.assert_array_equal(jnp.sign(optimum.x[:, 0]), [-1, 1, 1])
    assert optimum.result.converged.all()
    # The tilt enters the cost as tilt · x, so the envelope gradient is x.
    by_tilt = jax.jit(jax.grad(lambda tilt: best_of(x0, tilt).cost.sum()))(tilt)
    close(by_tilt, optimum.x)


def test_a_start_that_converged_goes_before_a_lower_one(x64):
    """Two plain steps reach the tolerance only from the minimum at 1, which is the higher one."""
    tilt = jnp.asarray([[0.3]])
    there = jax.jit(best_of)(jnp.asarray([[1.0]]), tilt).x
    x0 = jnp.stack([jnp.asarray([[-0.9]]), there])
    optimum = jax.jit(lambda x0: best_of(x0, tilt, max_steps=2, tol=0.012))(x0)
    assert optimum.x[0, 0] > 0


def test_unfinished_starts_are_compared_by_their_residual(x64):
    tilt = jnp.asarray([[0.3]])
    x0 = jnp.asarray([[[-2.0]], [[0.5]]])
    run = jax.jit(lambda x0: best_of(x0, tilt, max_steps=2, tol=0.0))
    residuals = [run(x).result.residual[0] for x in x0]
    optimum = run(x0)
    assert jnp.sign(optimum.x[0, 0]) == jnp.sign(x0[int(np.argmin(residuals)), 0, 0])
    np.testing.assert_array_equal(optimum.result.steps, 4)
    assert optimum.result.trace.shape == (4, 1)


def test_starts_that_are_equal_are_one(x64):
    args = random_args()
    z0, x0 = starts(args)
    options = {"deq": DEQ_TIGHT, "steps": STEPS, "starts": 3}
    x0 = jnp.broadcast_to(x0, (3, *x0.shape))
    optimum = jax.jit(lambda args: optimise(nonlinear, cost, z0, x0, args, **options))(args)
    expected = jax.jit(solved)(args)
    close(optimum.x, expected.x)
    np.testing.assert_array_equal(optimum.result.steps, expected.result.steps)
