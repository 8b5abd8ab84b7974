"""The generator against locuslab/JIIO-DEQ, in float64.

Our pixels are in [0, 1], the originals' in (−1, 1): our cost and our multiplier are a quarter of
theirs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jiio import CONFIG, FILE, MODEL, OPTIONS, as_flat, as_state, load

from mdeq_jax.implicit.optimise import Augmented, Steps, augmented_map
from mdeq_jax.inverse.generation.inversion import Inversion, plain_kernels
from mdeq_jax.inverse.generation.model.generator import Generator
from mdeq_jax.inverse.generation.model.torch_files import import_generator
from mdeq_jax.inverse.generation.observations import observe
from mdeq_jax.inverse.generation.prior import isotropic_prior

SCALE = 4  # the originals' squared error per squared error of ours


@pytest.fixture(scope="module", autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def arrays(x64):
    return load()


@pytest.fixture(scope="module")
def variables(x64):
    params = jax.tree.map(jnp.float64, import_generator(FILE, MODEL).variables["params"])
    return {"params": {"generator": params}}


@pytest.fixture(scope="module")
def args(arrays, variables):
    return plain_kernels(variables), observe(
        arrays["target"], isotropic_prior(0.0, MODEL.config.latent_size)
    )


@pytest.fixture(scope="module")
def inversion():
    step = SCALE * OPTIONS["ALPHA_0"][0]
    return Inversion(MODEL, Steps(OPTIONS["z_relaxation"], OPTIONS["mu_relaxation"], step))


def assert_equal(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_one_application(arrays, args, variables, inversion):
    z, x = as_state(arrays["z"]), arrays["x"]

    @jax.jit
    def compute(z, x, args, variables):
        injection = MODEL.apply({"params": args[0]}, x, method="inject")
        cost = SCALE * inversion.cost(z, x, args).sum()
        return injection, inversion.cell(z, x, args), inversion.image(variables, z), cost

    injection, fz, image, cost = compute(z, x, args, variables)
    assert_equal(as_flat(injection), arrays["injection"])
    assert_equal(as_flat(fz), arrays["fz"])
    assert_equal(image, arrays["h"])
    assert_equal(cost, arrays["cost"])


def test_one_application_of_the_augmented_map(arrays, args, inversion):
    w = Augmented(as_state(arrays["z"]), arrays["x"], as_state(arrays["mu"] / SCALE))
    found = jax.jit(augmented_map(inversion.cell, inversion.cost))(w, (args, inversion.steps))
    assert_equal(as_flat(found.z), arrays["z_next"])
    assert_equal(found.x, arrays["x_next"])
    assert_equal(SCALE * as_flat(found.mu), arrays["mu_next"])


def test_a_sequence_of_plain_applications(arrays, args, variables, inversion):
    step = jax.jit(augmented_map(inversion.cell, inversion.cost))
    x = jnp.zeros_like(arrays["x"])
    w = Augmented(inversion.start(x), x, inversion.start(x))
    pixels = np.prod(OPTIONS["IMAGE_SIZE"])
    for theirs in arrays["trace"]:
        cost = SCALE * inversion.cost(w.z, w.x, args) / pixels
        moved = step(w, (args, inversion.steps))
        change = jax.tree.map(jnp.subtract, moved, w)
        w = moved
        ours = [norm for at in (w, change) for norm in norms(at)]
        assert_equal(jnp.stack([*ours, cost]), theirs)
    assert_equal(as_flat(w.z), arrays["z_seq"])
    assert_equal(w.x, arrays["x_seq"])
    assert_equal(SCALE * as_flat(w.mu), arrays["mu_seq"])
    assert_equal(inversion.image(variables, w.z), arrays["output_after_seq"])


def norms(w):
    """Norms of z, x and the originals' multiplier, in the order of the trace."""
    flat = as_flat(w.z), w.x, SCALE * as_flat(w.mu)
    return [jnp.linalg.norm(part, axis=1) for part in flat]


def test_decoding_a_latent_code(arrays, args, variables, inversion):
    z, cell = inversion.start(arrays["x"]), jax.jit(inversion.cell)
    for _ in range(OPTIONS["decode_iters"]):
        z = cell(z, arrays["x"], args)
    assert_equal(as_flat(z), arrays["decode_z"])
    assert_equal(inversion.image(variables, z), arrays["decode_h"])


def test_a_file_of_another_size():
    small = Generator(CONFIG, (8, 8), 3)
    with pytest.raises(
        ValueError, match=r"latent_maps\.0\.weight is \(1152, 10\), by .*\(512, 10\)"
    ):
        import_generator(FILE, small)
