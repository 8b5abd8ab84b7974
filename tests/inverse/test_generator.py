"""The generator's own parts: transposed convolutions, and the check of its architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdeq_jax.inverse.generation.model.config import ModelConfig
from mdeq_jax.inverse.generation.model.generator import Generator, TransposedConv, init_params
from mdeq_jax.layers import weight_norm
from mdeq_jax.layers.convolution import conv2d


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_is_the_transpose_of_a_convolution(x64, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(3, 3, 5, 6))
    layer = TransposedConv(6, stride)
    found = layer.apply({"params": {"conv": {"kernel": jnp.asarray(kernel)}}}, jnp.asarray(x))
    down = jnp.asarray(np.flip(kernel, (0, 1)).swapaxes(2, 3))
    large = jnp.zeros((2, 3 * stride, 4 * stride, 6))
    _, pullback = jax.vjp(lambda y: conv2d(y, down, stride), large)
    np.testing.assert_allclose(found, pullback(jnp.asarray(x))[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("branches", "upsampling", "states"),
    [
        ((4, 6), None, ((8, 12, 4), (4, 6, 6))),
        ((4,), 2, ((2, 3, 4),)),
        ((4, 6), 1, ((4, 6, 4), (2, 3, 6))),
    ],
)
def test_shapes(branches, upsampling, states):
    config = ModelConfig(
        latent_size=3, branch_channels=branches, num_groups=2, upsampling=upsampling
    )
    model = Generator(config, (8, 12), 2)
    assert model.state_shapes == states

    def image(key, x):
        return model.apply({"params": weight_norm.merge(init_params(model, key))}, x)

    x = jax.ShapeDtypeStruct((5, 3), jnp.float32)
    assert jax.eval_shape(image, jax.random.key(0), x).shape == (5, 8, 12, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch_channels": (12, 16)}, r"branch_channels is \(12, 16\).*multiples of num_groups"),
        ({"branch_channels": ()}, r"at least one"),
        ({"num_groups": 3}, r"num_groups is 3; it must be even"),
        ({"latent_size": 0}, r"latent_size is 0"),
        ({"upsampling": 3}, r"upsampling is 3; it must be 0, 1, 2 or None"),
        ({"latents": "drawn"}, r"latents is 'drawn'; it must be 'optimised' or 'encoded'"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_images_that_cannot_be_halved():
    with pytest.raises(ValueError, match=r"images of 6×9 .*multiples of 2"):
        Generator(ModelConfig(), (6, 9), 1)
