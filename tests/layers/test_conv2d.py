"""`conv2d` against XLA's own convolution and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mdeq_jax.layers.convolution import conv2d

# Window, stride and sides; a stride meets even and odd sides.
SQUARES = [
    *(((k, k), 1, (6, 7)) for k in (1, 3, 5)),
    *(((k, k), 2, sides) for k in (1, 3, 5) for sides in ((6, 7), (5, 8))),
    ((3, 3), 4, (6, 9)),
]
RECTANGLES = [((1, 3), 1, (1, 7)), ((1, 5), 2, (6, 7)), ((5, 1), 2, (6, 7)), ((3, 5), 2, (5, 8))]
SECOND = [((1, 1), 2, (6, 7)), ((3, 3), 1, (6, 7)), ((3, 3), 2, (6, 7)), ((5, 5), 2, (5, 8))]


def lax_conv2d(x, kernel, stride=1):
    margins = [((side - 1) // 2,) * 2 for side in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        margins,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def random_problem(window, sides, dtype=np.float64):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return draw(2, *sides, 3), draw(*window, 3, 4)


def loss(conv, stride, x, kernel):
    return jnp.sum(jnp.sin(conv(x, kernel, stride)))


def assert_same(ours, theirs, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def test_definition(x64):
    x, kernel = random_problem((3, 3), (5, 5))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.einsum("bijc,ijco->bo", padded[:, 2:5, 4:7], kernel)
    np.testing.assert_allclose(conv2d(x, kernel, 2)[:, 1, 2], expected, rtol=1e-12)


@pytest.mark.parametrize(("window", "stride", "sides"), [*SQUARES, *RECTANGLES])
def test_value_and_first_derivatives(x64, window, stride, sides):
    x, kernel = random_problem(window, sides)

    @functools.partial(jax.jit, static_argnums=0)
    def both(conv):
        return jax.value_and_grad(functools.partial(loss, conv, stride), (0, 1))(x, kernel)

    assert_same(both(conv2d), both(lax_conv2d))


@pytest.mark.parametrize(("window", "stride", "sides"), SECOND)
def test_second_derivatives(x64, window, stride, sides):
    x, kernel = random_problem(window, sides)

    @functools.partial(jax.jit, static_argnums=0)
    def second(conv):
        def slope(i, x, kernel):
            return jnp.sum(jnp.cos(jax.grad(functools.partial(loss, conv, stride), i)(x, kernel)))

        # Each of ∂²/∂x², ∂²/∂x∂kernel, ∂²/∂kernel∂x, ∂²/∂kernel².
        return [jax.grad(functools.partial(slope, i), j)(x, kernel) for i in (0, 1) for j in (0, 1)]

    assert_same(second(conv2d), second(lax_conv2d))


def test_vmap_of_the_gradient(x64):
    x, kernel = random_problem((3, 3), (6, 5))
    grad = jax.jit(jax.grad(functools.partial(loss, conv2d, 2), (0, 1)))
    alone = [grad(x[i : i + 1], kernel) for i in range(2)]
    mapped = jax.jit(jax.vmap(lambda x: grad(x[None], kernel)))(x)
    assert_same(mapped, jax.tree.map(lambda *rows: jnp.stack(rows), *alone))


def test_shard_map_sums_the_kernels_gradient_over_devices(x64):
    (x, kernel), stride = random_problem((3, 3), (6, 5)), 2

    def slopes(x, kernel):
        of_loss = jax.grad(functools.partial(loss, conv2d, stride), (0, 1))
        again = jax.grad(lambda x, kernel: jnp.sum(jnp.cos(of_loss(x, kernel)[0])), (0, 1))
        return of_loss(x, kernel), again(x, kernel)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    parts = (P("data"), P())
    sharded = jax.shard_map(slopes, mesh=mesh, in_specs=parts, out_specs=(parts, parts))
    assert_same(jax.jit(sharded)(x, kernel), jax.jit(slopes)(x, kernel))


def test_input_gradient_in_a_loop_is_a_plain_convolution_with_a_prepared_kernel():
    x, _ = random_problem((3, 3), (8, 8), np.float32)
    kernel = jnp.ones((3, 3, 3, 3))

    def repeat(x, kernel):
        _, pullback = jax.vjp(lambda x: conv2d(x, kernel), x)
        return lax.fori_loop(0, 4, lambda _, u: pullback(u)[0], x)

    jaxpr = jax.make_jaxpr(repeat)(x, kernel)
    [loop] = [e for e in jaxpr.eqns if e.primitive.name in ("while", "scan")]
    body = loop.params["jaxpr" if loop.primitive.name == "scan" else "body_jaxpr"]
    text = str(body)
    assert "conv_general_dilated" in text
    assert "rhs_spec=(3, 2, 0, 1)" in text
    assert "rev" not in text
    assert "transpose" not in text


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_is_kept(dtype):
    x, kernel = random_problem((3, 3), (6, 6), dtype)
    y, slopes = jax.value_and_grad(functools.partial(loss, conv2d, 2), (0, 1))(x, kernel)
    assert {y.dtype, *(s.dtype for s in slopes)} == {jnp.dtype(dtype)}
    wide = [x.astype(jnp.float32), kernel.astype(jnp.float32)]
    tolerance = 0.02 if dtype == jnp.bfloat16 else 1e-5
    expected = lax_conv2d(*wide, 2)
    error = jnp.linalg.norm(conv2d(x, kernel, 2) - expected) / jnp.linalg.norm(expected)
    assert error < tolerance


def test_mixed_dtypes_are_promoted():
    x, kernel = random_problem((3, 3), (6, 6), np.float32)
    assert conv2d(x.astype(jnp.bfloat16), kernel).dtype == jnp.float32
