"""An equilibrium under the transformations of JAX, and what it may close over under them."""

import functools
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, force, layer, random_args, readout, start

from mdeq_jax.implicit import Exact, Phantom, Shine, equilibrium
from mdeq_jax.solvers import Broyden


def test_vmap(x64):
    """Over a force and its gradient, of models that differ in some leaves and share others."""
    several = [random_args(seed=seed) for seed in range(3)]
    shared = {"bias": several[0]["bias"]}
    several = [args | shared for args in several]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several) | shared
    axes = {"weight": 0, "inject": 0, "x": 0, "bias": None}
    both = jax.value_and_grad(force)
    ours = jax.jit(jax.vmap(both, in_axes=(axes,)))(stacked)
    single = jax.jit(both)
    expected = jax.tree.map(lambda *xs: jnp.stack(xs), *map(single, several))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), ours, expected
    )


def several_captures():
    """Of each dtype: shared float weights, and inputs, shifts, masks and keys of three cells."""
    rng = np.random.default_rng(7)
    weight = jnp.asarray(rng.normal(size=(4, 4)) / 4)
    x = jnp.asarray(rng.normal(size=(3, 2, 4)))
    mask = jnp.asarray(rng.random((3, 2, 4)) > 0.3)
    return weight, x, jnp.arange(3), mask, jax.random.split(jax.random.key(0), 3)


AXES = (None, 0, 0, 0, 0)


def cell_of_everything(z, args):
    weight, x, shift, mask, key = args
    offset = 0.1 * (jax.random.key_data(key)[1] % 7).astype(x.dtype)
    return jnp.tanh(jnp.where(mask, z @ weight, 0) + jnp.roll(x, shift, axis=-1) + offset)


def handed(*args):
    z, _ = equilibrium(cell_of_everything, jnp.zeros_like(args[1]), args, solver=TIGHT)
    return jnp.sum(jnp.sin(z * jnp.arange(1, z.size + 1, dtype=z.dtype).reshape(z.shape)))


def captured(*args):
    def f(z, _):
        return cell_of_everything(z, args)

    z, _ = equilibrium(f, jnp.zeros_like(args[1]), None, solver=TIGHT)
    return jnp.sum(jnp.sin(z * jnp.arange(1, z.size + 1, dtype=z.dtype).reshape(z.shape)))


@pytest.mark.slow
def test_tracers_of_every_dtype(x64):
    """In args or captured, under every order of jit, vmap and grad, as one cell at a time."""
    weight, *batched = several_captures()
    one = jax.jit(jax.grad(handed, (0, 1)))
    rows = [one(weight, *(x[i] for x in batched)) for i in range(3)]
    expected = [np.stack(x) for x in zip(*rows, strict=True)]

    def total(weight, x):
        return jax.vmap(captured, AXES)(weight, x, *batched[1:]).sum()

    several = {
        "jit(vmap(grad(handed)))": jax.jit(jax.vmap(jax.grad(handed, (0, 1)), AXES)),
        "vmap(grad(jit))": jax.vmap(jax.grad(jax.jit(captured), (0, 1)), AXES),
    }
    for order, function in several.items():
        ours = function(weight, *batched)
        assert all(map(functools.partial(np.allclose, atol=1e-9), ours, expected)), order
    by_weight, by_x = jax.jit(jax.grad(total, (0, 1)))(weight, batched[0])
    np.testing.assert_allclose(by_weight, expected[0].sum(axis=0), atol=1e-9)
    np.testing.assert_allclose(by_x, expected[1], atol=1e-9)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        (TIGHT, Exact(TIGHT)),
        pytest.param(TIGHT, Phantom(), marks=pytest.mark.slow),
        pytest.param(Broyden(8), Shine(refine=1, opa_every=4), marks=pytest.mark.slow),
    ],
    ids=["exact", "phantom", "shine"],
)
def test_no_tracer_outlives_its_transformation(solver, adjoint):
    def loss(weight):
        def f(z, x):
            return jnp.tanh(z @ weight + x)

        z, _ = equilibrium(
            f, x, x, solver=solver, adjoint=adjoint, outer_gradient=lambda z: 2 * z * weight[0, 0]
        )
        return jnp.sum(z**2)

    x, weight = jnp.ones((2, 3)), jnp.eye(3) / 4
    gc.freeze()  # the check looks through all objects, which here are those of all tests before
    with jax.checking_leaks():
        assert np.isfinite(jax.jit(jax.vmap(jax.grad(loss)))(weight[None])).all()
    gc.unfreeze()


def test_captures_that_change_between_calls(x64):
    """A bound method equals itself whatever its object holds; nothing may be remembered by it."""

    class Cell:
        def f(self, z, x):
            return jnp.tanh(z @ self.weight + x[None])

    cell, args = Cell(), random_args()
    for weight in (args["weight"], args["weight"].T):
        cell.weight = weight
        z, _ = equilibrium(cell.f, start(args), args["bias"], solver=TIGHT)
        np.testing.assert_allclose(cell.f(z, args["bias"]), z, atol=1e-12)


def test_scan_and_checkpoint(x64):
    """A recurrent net of equilibria, as a rematerialised scan and as a Python loop."""
    args = random_args()

    def step(h, x):
        h, _ = equilibrium(layer, h, {**args, "x": x, "bias": h}, solver=TIGHT)
        return h, jnp.sum(h**2)

    def scanned(xs):
        return jax.lax.scan(jax.checkpoint(step), start(args), xs)[1].sum()

    def looped(xs):
        h, total = start(args), 0.0
        for x in xs:
            h, value = step(h, x)
            total += value
        return total

    xs = jnp.stack([args["x"], -args["x"]])
    ours, expected = jax.jit(lambda xs: (jax.grad(scanned)(xs), jax.grad(looped)(xs)))(xs)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_equilibrium_inside_an_equilibrium(x64):
    """Solving for y inside the map of z has the fixed point and slopes of solving for both."""
    args = random_args()
    inner = 0.4 * jnp.asarray(np.random.default_rng(8).normal(size=(5, 5)))

    def f_inner(y, args):
        z, inner = args
        return jnp.tanh(0.5 * y[:, ::-1] + z @ inner)

    def nested(args, inner):
        def f(z, args):
            y, _ = equilibrium(f_inner, jnp.zeros_like(z), (z, inner), solver=TIGHT)
            return layer(z, {**args, "bias": args["bias"][None] + 0.5 * y})

        return jnp.sum(equilibrium(f, start(args), args, solver=TIGHT)[0] ** 2)

    def joint(args, inner):
        def f(state, args):
            z, y = state
            return layer(z, {**args, "bias": args["bias"][None] + 0.5 * y}), f_inner(y, (z, inner))

        return jnp.sum(equilibrium(f, (start(args),) * 2, args, solver=TIGHT)[0][0] ** 2)

    ours = jax.jit(jax.value_and_grad(nested, (0, 1)))(args, inner)
    expected = jax.jit(jax.value_and_grad(joint, (0, 1)))(args, inner)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), ours, expected)


def test_tol_and_step_limit_are_traced(x64):
    args = random_args()
    traced = []

    @jax.jit
    def limited(args, tol, step_limit):
        traced.append(True)
        return jax.value_and_grad(readout)(args, tol=tol, step_limit=step_limit)

    loose, tight = limited(args, 0.5, 60), limited(args, 1e-13, 60)
    cut = limited(args, 1e-13, 1)
    assert len(traced) == 1
    np.testing.assert_allclose(tight[0], readout(args), rtol=1e-9)
    assert abs(loose[0] - tight[0]) > 1e-3
    assert abs(cut[0] - tight[0]) > 1e-3
