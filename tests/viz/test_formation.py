"""Pictures of an equilibrium that forms: what they show, and that it is the solve's own."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.model.mdeq import cell_function
from mdeq_jax.viz.formation import (
    Formation,
    animate_formation,
    observe_formation,
    plot_formation,
    principal_component,
)


@pytest.fixture
def formation():
    rng = np.random.default_rng(0)
    return Formation(
        image=rng.uniform(size=(8, 8, 3)),
        states=[rng.normal(size=(7, side, side, 4)) for side in (8, 4)],
        residuals=np.geomspace(1, 1e-3, 14).reshape(2, 7),
    )


def test_the_component_of_states_along_one_direction_is_what_they_are_made_of():
    amounts = np.random.default_rng(0).normal(size=(3, 5, 5))
    direction = np.array([0.6, 0.0, -0.8])  # the sign that is shown makes the largest positive
    offset = np.array([1.0, 2.0, 3.0])
    found = principal_component(amounts[..., None] * direction + offset)
    np.testing.assert_allclose(found, -(amounts - amounts[-1].mean()), atol=1e-12)


def test_a_picture_and_a_frame_for_each_step(formation, tmp_path):
    plot_formation(formation, tmp_path / "deep" / "formation.png")
    with Image.open(tmp_path / "deep" / "formation.png") as picture:
        assert picture.width > picture.height > 400
    animate_formation(formation, tmp_path / "formation.gif")
    with Image.open(tmp_path / "formation.gif") as animation:
        assert animation.n_frames == formation.steps + 1 == 7
        frames = []
        for k in range(animation.n_frames):
            animation.seek(k)
            frames.append(np.asarray(animation.convert("RGB")))
    assert all((a != b).any() for a, b in itertools.pairwise(frames))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_solves_that_end_at_once(formation, tmp_path, steps):
    short = Formation(
        image=formation.image,
        states=[states[: steps + 1] for states in formation.states],
        residuals=formation.residuals[:, : steps + 1],
    )
    plot_formation(short, tmp_path / "short.png")
    animate_formation(short, tmp_path / "short.gif")
    assert (tmp_path / "short.gif").stat().st_size > 1000


@pytest.mark.slow
def test_what_is_observed_is_the_models_own_solve():
    model = {"branch_channels": (8, 8), "head_channels": (4, 4), "expansion": 1, "num_groups": 4}
    config = finalize({"model": model, "solver": {"forward": {"max_steps": 9, "tol": 1e-2}}})
    image = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    network = create_model(config.model)
    variables = network.init(jax.random.key(0), image[None])
    seen = observe_formation(config, variables, image)

    _, info = network.apply(variables, image[None], solver=config.solver.forward.build())
    f = cell_function(config.model)
    _, _, args = network.apply(variables, image[None], method="problem")
    assert seen.steps == info.solver.steps[0]
    assert [states.shape for states in seen.states] == [
        (seen.steps + 1, 8, 8, 8),
        (seen.steps + 1, 4, 4, 8),
    ]
    for states, z, fz, residuals in zip(
        seen.states, info.z, f(info.z, args), seen.residuals, strict=True
    ):
        assert not states[0].any()
        np.testing.assert_allclose(states[-1], z[0], atol=1e-5)
        expected = np.linalg.norm(fz - z) / np.linalg.norm(fz)
        np.testing.assert_allclose(residuals[-1], expected, rtol=1e-2)
    assert seen.image.min() == 0
    assert seen.image.max() == 1
