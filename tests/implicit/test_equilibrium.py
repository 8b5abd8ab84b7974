"""`equilibrium` and its derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, assert_slopes, dense_gradient, layer, random_args, readout, start

from mdeq_jax.implicit import Exact, JacobianFree, Phantom, Shine, equilibrium
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
        return jnp.sum(jnp.sin(z * jnp.arange(1, z.size + 1).reshape(z.shape)))

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


@pytest.mark.parametrize("made_worse", [False, True])
def test_args_get_gradients_when_the_best_iterate_is_the_start(x64, made_worse):
    """From the fixed point itself, and with a map that leads away from it, rotating."""
    turn = jnp.array([[0.0, 3.0], [-3.0, 0.0]])
    solver = Picard(max_steps=5, tol=0.0 if made_worse else 1e-9, stop_mode="abs")
    z0 = jnp.array([[0.3, -0.2]])
    bias = z0 - z0 @ turn + (0.01 if made_worse else 0)

    def loss(args):
        turn, bias = args
        adjoint = Exact(Broyden(tol=1e-13))  # the adjoint of a map that leads away
        z, r = equilibrium(
            lambda z, bias: z @ turn + bias, z0, bias, solver=solver, adjoint=adjoint
        )
        return jnp.sum(z * jnp.array([1.0, 2])), r

    (by_turn, by_bias), r = jax.jit(jax.grad(loss, has_aux=True))((turn, bias))
    np.testing.assert_array_equal(r.z, z0)
    assert (r.steps > 0) == made_worse
    u = np.linalg.solve(np.eye(2) - turn, [1.0, 2])  # u = turn u + g for columns u and g
    np.testing.assert_allclose(by_bias, u[None], rtol=1e-9)
    np.testing.assert_allclose(by_turn, np.outer(z0[0], u), rtol=1e-9)


# Higher orders


def force(args):
    """Loss on a gradient with respect to an input: from energy to force."""
    by_x = jax.grad(lambda x: readout({**args, "x": x}))(args["x"])
    return jnp.sum(by_x**2)


def test_energy_to_force(x64):
    args = random_args()
    assert_slopes(jax.jit(force), jax.jit(jax.grad(force))(args), args)


def test_third_order(x64):
    args = random_args(size=2, dim=3)

    def loss(weight):
        return jnp.sum(jax.grad(force)({**args, "weight": weight})["bias"] ** 2)

    gradient = jax.jit(jax.grad(loss))(args["weight"])
    assert_slopes(jax.jit(loss), gradient, args["weight"], rtol=1e-5)


# Transformations


@pytest.mark.parametrize("function", [readout, force], ids=lambda f: f.__name__)
def test_vmap(x64, function):
    """Over the value and the gradient, of models that differ in some leaves and share others."""
    several = [random_args(seed=seed) for seed in range(3)]
    shared = {"bias": several[0]["bias"]}
    several = [args | shared for args in several]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *several) | shared
    axes = {"weight": 0, "inject": 0, "x": 0, "bias": None}
    both = jax.value_and_grad(function)
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
    offset = 0.1 * (jax.random.key_data(key)[1] % 7)
    return jnp.tanh(jnp.where(mask, z @ weight, 0) + jnp.roll(x, shift, axis=-1) + offset)


def handed(*args):
    z, _ = equilibrium(cell_of_everything, jnp.zeros_like(args[1]), args, solver=TIGHT)
    return jnp.sum(jnp.sin(z * jnp.arange(1, z.size + 1).reshape(z.shape)))


def captured(*args):
    def f(z, _):
        return cell_of_everything(z, args)

    z, _ = equilibrium(f, jnp.zeros_like(args[1]), None, solver=TIGHT)
    return jnp.sum(jnp.sin(z * jnp.arange(1, z.size + 1).reshape(z.shape)))


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
        "jit(vmap(grad))": jax.jit(jax.vmap(jax.grad(captured, (0, 1)), AXES)),
        "vmap(jit(grad))": jax.vmap(jax.jit(jax.grad(captured, (0, 1))), AXES),
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
        (TIGHT, Phantom()),
        (TIGHT, JacobianFree()),
        (Broyden(8), Shine(refine=1)),
        (Broyden(8), Shine(opa_every=4)),
    ],
    ids=["exact", "phantom", "jacobian_free", "shine", "opa"],
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
    with jax.checking_leaks():
        assert np.isfinite(jax.jit(jax.grad(loss))(weight)).all()
        assert np.isfinite(jax.jit(jax.vmap(loss))(weight[None])).all()


def test_captures_that_change_between_calls(x64):
    """A bound method equals itself whatever its object holds; nothing may be remembered by it."""

    class Cell:
        def f(self, z, x):
            return jnp.tanh(z @ self.weight + x)

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
            return layer(z, {**args, "bias": args["bias"] + 0.5 * y})

        return jnp.sum(equilibrium(f, start(args), args, solver=TIGHT)[0] ** 2)

    def joint(args, inner):
        def f(state, args):
            z, y = state
            return layer(z, {**args, "bias": args["bias"] + 0.5 * y}), f_inner(y, (z, inner))

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
