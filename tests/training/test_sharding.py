"""Several devices do what one does, and talk to each other outside of the solver loops alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import COLLECTIVE, exchanged_bytes, loop_bodies
from jax.extend.core import jaxprs_in_params
from test_steps import (
    CONFIG,
    OPA,
    initial_state,
    make_batch,
    on_one_device,
    setup,
    with_sections,
)

from mdeq_jax.commands.summary import summarize
from mdeq_jax.training.mesh import shard
from mdeq_jax.training.microbatches import Draw, Gradient, accumulated

# All that is drawn at random in a step.
RANDOM = {
    "model": {"dropout": 0.3},
    "jacobian": {"probability": 0.5, "weight": 1.0, "pretrain_weight": 1.0},
}


@pytest.mark.parametrize("unrolled", [2, None])
@pytest.mark.slow
def test_several_devices_do_what_one_does(x64, unrolled):
    config = with_sections(**RANDOM, train={"accumulate_steps": 2})
    batch, after = make_batch(8, np.float64), []
    for devices in (1, 2):
        step, state, mesh = setup(config, devices, unrolled, jnp.float64)
        after.append(jax.device_get(step(state, shard(batch, mesh))))
    (state, metrics), (state2, metrics2) = after
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(state2), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(metrics2["loss"], metrics["loss"], rtol=1e-9)
    np.testing.assert_allclose(metrics2["grad_norm"], metrics["grad_norm"], rtol=1e-7)


@pytest.mark.parametrize("sections", [{}, pytest.param(OPA, marks=pytest.mark.slow)], ids=str)
def test_no_collective_inside_the_solver_loops(sections):
    step, state, mesh = setup(with_sections(**sections), devices=2)
    hlo = step.lower(state, shard(make_batch(8), mesh)).compile().as_text()
    bodies = loop_bodies(hlo)
    assert bodies
    assert COLLECTIVE.search(hlo)
    assert not any(COLLECTIVE.search(body) for body in bodies)
    # Beside gradients and BatchNorm's statistics there are some metrics, a number each.
    expected = summarize(with_sections(**sections)).exchanged_bytes
    assert expected <= exchanged_bytes(hlo) <= expected + 4 * 16


def primitives(jaxpr, inside: str | None = None) -> set[tuple[str, str | None]]:
    """Names of what a program calls, each with the innermost loop around it."""
    found = set()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        found.add((name, inside))
        around = name if name in ("while", "scan") else inside
        for part in jaxprs_in_params(equation.params):
            found |= primitives(part, around)
    return found


def test_microbatches_exchange_statistics_between_solves_and_gradients_once():
    sections = {"train": {"accumulate_steps": 2}}
    step, state, mesh = setup(with_sections(**sections), 2)
    jaxpr = step.trace(state, shard(make_batch(8), mesh)).jaxpr
    sums = {around for name, around in primitives(jaxpr.jaxpr) if name.startswith("psum")}
    assert sums == {None, "scan"}
    assert ("while", "scan") in primitives(jaxpr.jaxpr)


def test_a_gradient_in_microbatches_is_the_mean_of_theirs(x64):
    """Against calls by hand: every second row, the first one's statistics into the second."""

    def gradient(params, collections, batch, carry, draw):
        noise = jax.random.normal(draw.key)
        slope = (params * batch["image"].sum(axis=1)).mean() + noise
        stats = 0.9 * collections["stats"] + batch["image"].mean()
        carry = carry + batch["image"].sum(axis=1)
        return Gradient(slope * params, {"stats": stats}, {"loss": slope}, carry)

    batch = {"image": np.random.default_rng(0).normal(size=(6, 3))}
    params, stats = jnp.arange(2.0)[:, None], {"stats": jnp.asarray(0.5)}
    carry, key = jnp.arange(6.0), jax.random.key(0)
    whole = on_one_device(accumulated(gradient, 2))(params, stats, batch, carry, Draw(key))
    (first_key, second_key), second_rows = jax.random.split(key), {"image": batch["image"][1::2]}
    first = gradient(params, stats, {"image": batch["image"][::2]}, carry[::2], Draw(first_key))
    second = gradient(params, first.collections, second_rows, carry[1::2], Draw(second_key))
    means = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    np.testing.assert_allclose(whole.grads, means.grads, rtol=1e-12)
    np.testing.assert_allclose(whole.collections["stats"], second.collections["stats"], rtol=1e-12)
    np.testing.assert_allclose(whole.metrics["loss"], means.metrics["loss"], rtol=1e-12)
    np.testing.assert_allclose(whole.carry[::2], first.carry, rtol=1e-12)
    np.testing.assert_allclose(whole.carry[1::2], second.carry, rtol=1e-12)


@pytest.mark.slow
def test_microbatches_of_one_image_each_are_the_batch(x64):
    """Where BatchNorm sees the same image whichever way, a batch of copies has no microbatches."""
    one = make_batch(1, np.float64)
    copies = {name: np.repeat(rows, 4, axis=0) for name, rows in one.items()}
    after = []
    for parts in (1, 4):
        config = with_sections(train={"accumulate_steps": parts})
        step, state, mesh = setup(config, unrolled=2, dtype=jnp.float64)
        after.append(jax.device_get(step(state, shard(copies, mesh))))
    (state, metrics), (state4, metrics4) = after
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731
    jax.tree.map(same, state4.params, state.params)
    jax.tree.map(same, metrics4, metrics)
    before = initial_state(CONFIG).params
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, before)
    assert max(jax.tree.leaves(moved)) > 1e-3
