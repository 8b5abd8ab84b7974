"""`equilibrium` and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, assert_slopes, dense_gradient, force, layer, random_args, readout, start

from mdeq_jax.implicit import Exact, JacobianFree, Phantom, equilibrium
from mdeq_jax.solvers import Anderson, Broyden, Picard, solve


def test_value_and_statistics_are_those_of_solve(x64):
    args = random_args()
    z, r = jax.jit(lambda a: equilibrium(layer, start(a), a, solver=Broyden(20, 1e-6)))(args)
    expected = jax.jit(lambda a: solve(layer, start(a), a, Broyden(20, 1e-6)))(args)
    jax.tree.map(np.testing.assert_array_equal, r, expected)
    np.testing.assert_array_equal(z, r.z)


@pytest.mark.parametrize(
    "solver", [TIGHT, Anderson(200, 1e-13), Broyden(60, 1e-13)], ids=lambda s: type(s).__name__
)
def test_gradient_equals_the_dense_adjoint(x64, solver):
    """Whichever of the two places the state is taken from."""
    args = random_args()

    @jax.jit
    def gradient(args, g):
        def both(args):
            z, r = equilibrium(layer, start(args), args, solver=solver)
            return z, r.z

        (z, _), pullback = jax.vjp(both, args)
        return z, pullback((0.25 * g, 0.75 * g))[0]

    g = np.random.default_rng(1).normal(size=(3, 5))
    z, ours = gradient(args, g)
    expected = dense_gradient(np.asarray(z), g, args)
    for name in args:
        np.testing.assert_allclose(ours[name], expected[name], rtol=0, atol=1e-10)


def test_gradient_through_args_closure_and_input(x64):
    """The same slopes whether a leaf is handed over in args or closed over."""
    args = random_args()

    def closed(args):
        handed = {"x": args["x"]}

        def f(z, handed):
            return layer(z, {**args, **handed})

        z, _ = equilibrium(f, start(args), handed, solver=TIGHT)
        return jnp.sum(jnp.sin(z * jnp.arange(1.0, z.size + 1).reshape(z.shape)))

    by_args = jax.jit(jax.grad(readout))(args)
    by_closure = jax.jit(jax.grad(closed))(args)
    assert_slopes(jax.jit(readout), by_args, args)
    for name in args:
        np.testing.assert_allclose(by_closure[name], by_args[name], rtol=0, atol=1e-10)


def test_gradient_outside_jit(x64):
    args = random_args()
    eager, jitted = jax.grad(readout)(args), jax.jit(jax.grad(readout))(args)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), eager, jitted)


@pytest.mark.parametrize("adjoint", [Exact(Picard()), JacobianFree(), Phantom()], ids=repr)
def test_gradient_to_the_start_is_zero(adjoint):
    args = random_args()
    solver = Picard(max_steps=2)  # far from converged: the start shows in the value

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(z0, bias):
        z, _ = equilibrium(layer, z0, {**args, "bias": bias}, solver=solver, adjoint=adjoint)
        return jnp.sum(z)

    (value, (by_start, by_bias)), (other, _) = (
        loss(jnp.full((3, 5), x), args["bias"]) for x in (0.0, 0.4)
    )
    assert value != other
    np.testing.assert_array_equal(by_start, 0)
    assert (by_bias != 0).all()


def test_args_get_gradients_where_the_start_is_the_fixed_point(x64):
    """Of a map that leads away from it, rotating."""
    turn = jnp.array([[0.0, 3.0], [-3.0, 0.0]])
    solver = Picard(max_steps=5, tol=1e-9, stop_mode="abs")
    z0 = jnp.array([[0.3, -0.2]])
    bias = z0 - z0 @ turn

    def loss(args):
        turn, bias = args
        adjoint = Exact(Broyden(tol=1e-13))  # the adjoint of a map that leads away
        z, r = equilibrium(
            lambda z, bias: z @ turn + bias, z0, bias, solver=solver, adjoint=adjoint
        )
        return jnp.sum(z * jnp.array([[1.0, 2]])), r

    (by_turn, by_bias), r = jax.jit(jax.grad(loss, has_aux=True))((turn, bias))
    np.testing.assert_array_equal(r.z, z0)
    np.testing.assert_array_equal(r.steps, 0)
    u = np.linalg.solve(np.eye(2) - turn, [1.0, 2])  # u = turn u + g for columns u and g
    np.testing.assert_allclose(by_bias, u[None], rtol=1e-9)
    np.testing.assert_allclose(by_turn, np.outer(z0[0], u), rtol=1e-9)


# Higher orders


def test_energy_to_force(x64):
    args = random_args()
    assert_slopes(jax.jit(force), jax.jit(jax.grad(force))(args), args)


def test_third_order(x64):
    args = random_args(size=2, dim=3)

    def loss(weight):
        return jnp.sum(jax.grad(force)({**args, "weight": weight})["bias"] ** 2)

    gradient = jax.jit(jax.grad(loss))(args["weight"])
    assert_slopes(jax.jit(loss), gradient, args["weight"], rtol=1e-5)


# States and arguments


def test_leaves_of_mixed_shapes_and_dtypes(x64):
    """The gradient of each leaf in its dtype, of the right size: z = −z/2 + t has dz/dt = 2/3."""
    targets = {
        "b16": jnp.ones(3, jnp.bfloat16),
        "f32": [jnp.ones((3, 4), jnp.float32)],
        "f64": (jnp.ones((3, 2, 2, 1), jnp.float64),),
    }

    def loss(targets):
        z0 = jax.tree.map(jnp.zeros_like, targets)
        z, _ = equilibrium(
            lambda z, t: jax.tree.map(lambda z, t: t - 0.5 * z, z, t),
            z0,
            targets,
            solver=Broyden(tol=1e-6),
        )
        return sum(jnp.sum(x.astype(float)) for x in jax.tree.leaves(z))

    gradient = jax.jit(jax.grad(loss))(targets)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), gradient) == jax.tree.map(
        lambda x: (x.shape, x.dtype), targets
    )
    jax.tree.map(lambda x: np.testing.assert_allclose(x.astype(float), 2 / 3, rtol=4e-3), gradient)


@pytest.mark.parametrize(
    ("z0", "f"),
    [
        (jnp.zeros((2, 3), int), lambda z: z),
        ([], lambda z: z[0]),
        (jnp.zeros((2, 3)), lambda z: z[:, :2]),
        (jnp.zeros((2, 3)), lambda z: z.astype(jnp.bfloat16)),
    ],
)
@pytest.mark.parametrize("adjoint", [None, Phantom()], ids=repr)
def test_bad_state_or_map(z0, f, adjoint):
    with pytest.raises(ValueError, match="z0"):
        equilibrium(lambda z, _: f(z), z0, None, adjoint=adjoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "broyden"}, "solver is 'broyden'; it must be an instance"),
        ({"adjoint": "phantom"}, "adjoint is 'phantom'; it must be an instance"),
        ({"adjoint": JacobianFree}, "adjoint is <class .*JacobianFree'>; it must be an instance"),
        ({"adjoint_probe": jnp.zeros(2)}, r"adjoint_probe has shape \(2,\); .* have \(2, 2\)"),
        ({"adjoint_probe": jnp.zeros(2), "adjoint": Phantom()}, "adjoint_probe has shape"),
    ],
)
def test_what_is_no_solver_adjoint_or_probe(options, message):
    with pytest.raises(ValueError, match=message):
        equilibrium(lambda z, _: z, jnp.zeros((2, 3)), None, **options)


def test_args_that_are_no_arrays():
    with pytest.raises(ValueError, match=r"args\['mode'\] is 'x', which is no array; let f close"):
        equilibrium(lambda z, _: z / 2, jnp.zeros((2, 3)), {"mode": "x"})


def test_the_class_of_a_solver_is_no_solver_of_the_adjoint():
    with pytest.raises(ValueError, match=r"solver is <class .*Broyden'>"):
        Exact(Broyden)
