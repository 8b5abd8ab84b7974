"""The flow of films, cold and warm, by a model whose equilibrium is known."""

import itertools

import jax
import numpy as np
import pytest
from flow_damped import CONFIG, GAIN, SIZE, damped, stream

from mdeq_jax.flow.data.shapes import film
from mdeq_jax.flow.stream import FlowStream
from mdeq_jax.flow.warping import splat_forward


@pytest.fixture(scope="module")
def frames():
    return film(np.random.default_rng(0), SIZE, 4, max_motion=2.0)["frames"]


@jax.jit
def inject(first, second):
    trained, experiment = damped()
    return experiment.model.apply(trained.variables, first[None], second[None], method="inject")


@jax.jit
def upsample(z):
    trained, experiment = damped()
    return experiment.decode(trained.variables, z, {}, train=False)[0]


@jax.jit
def apply(x, z):
    trained, experiment = damped()
    f, _, args = experiment.problem(trained.variables, x)
    return f(z, args)


def test_the_flow_is_that_of_the_equilibrium(frames):
    found = stream(warm_start=True, compare=True)(*frames[:2], new_scene=True)
    context = inject(*frames[:2]).context
    z = {"hidden": np.zeros_like(context), "flow": GAIN * context[..., :2]}
    assert np.abs(z["flow"]).max() > 0.1
    assert found.flow.dtype == np.float32
    np.testing.assert_allclose(found.flow, upsample(z), atol=1e-3)
    assert found.converged
    assert found.residual < CONFIG.solver.forward.tol
    assert not found.warm
    assert 1 < found.solver_steps == found.cold_solver_steps < CONFIG.evaluation.steps


def test_a_still_film_is_solved_once(frames):
    predict, still = stream(warm_start=True, compare=True), frames[0]
    first = predict(still, still, new_scene=True)
    second = predict(still, still)
    assert second.warm
    assert second.converged
    assert second.solver_steps < second.cold_solver_steps == first.solver_steps
    np.testing.assert_allclose(second.flow, first.flow, atol=1e-3)


def test_warm_starts_lead_to_the_same_flow(frames):
    predict = stream(warm_start=True, compare=True)
    pairs = list(itertools.pairwise(frames))
    warm = [predict(*pair, new_scene=i == 0) for i, pair in enumerate(pairs)]
    cold = [predict(*pair, new_scene=True) for pair in pairs]
    assert [found.warm for found in warm] == [False, True, True]
    for one, other in zip(warm, cold, strict=True):
        assert one.cold_solver_steps == other.solver_steps
        np.testing.assert_allclose(one.flow, other.flow, atol=1e-3)


def test_a_pair_starts_from_the_last_equilibrium_carried_on(frames):
    """After one solver step for each pair, which is one application of the cell."""
    predict = stream(warm_start=True, steps=1)
    found = [predict(*frames[:2], new_scene=True), predict(*frames[1:3])]

    x = inject(*frames[:2])
    z = apply(x, {"hidden": np.zeros_like(x.context), "flow": np.zeros_like(x.context[..., :2])})
    np.testing.assert_allclose(found[0].flow, upsample(z), atol=1e-5)
    start = {"hidden": z["hidden"], "flow": splat_forward(np.asarray(z["flow"]))}
    z = apply(inject(*frames[1:3]), start)
    np.testing.assert_allclose(found[1].flow, upsample(z), atol=1e-5)
    assert [each.solver_steps for each in found] == [1, 1]
    assert found[1].cold_solver_steps is None


def test_frames_of_odd_sizes():
    predict = stream(warm_start=True, compare=True)
    images = film(np.random.default_rng(1), (70, 90), 2, max_motion=2.0)["frames"]
    found = predict(*images, new_scene=True)
    assert found.flow.shape == (70, 90, 2)
    padded = np.pad(images, ((0, 0), (1, 1), (3, 3), (0, 0)), mode="edge")
    other = predict(*padded)
    assert not other.warm  # it has another size, although it is padded to the same one
    np.testing.assert_array_equal(found.flow, other.flow[1:71, 3:93])


def test_what_does_not_fit_is_named():
    predict, image = stream(), np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(64, 64, 3\) and \(64, 48, 3\).*one size"):
        predict(image, image[:, :48])
    with pytest.raises(ValueError, match=r"frames are 64×8; .*16×16 pixels.*Enlarge"):
        predict(image[:8], image[:8])
    with pytest.raises(ValueError, match=r"ask for a warm start \(--warm-start\)"):
        FlowStream(*damped(), compare=True)
    with pytest.raises(ValueError, match=r"max_steps is 0"):
        FlowStream(*damped(), steps=0)
