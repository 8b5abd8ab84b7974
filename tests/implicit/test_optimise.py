"""The optimum over the input of an equilibrium, and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import assert_slopes
from input_problems import (
    DEQ_TIGHT,
    INPUTS,
    STEPS,
    close,
    cost,
    linear,
    nonlinear,
    onto_ball,
    random_args,
    readout,
    solved,
    starts,
    total_cost,
    trees_close,
)

from mdeq_jax.implicit import DEQ, Steps, equilibrium, optimise
from mdeq_jax.solvers import Anderson, Broyden, Picard

LOSSES = [total_cost, readout]


def dense_optimum(args):
    """z, x and μ of `linear` and `cost`, by the first-order conditions as one linear system."""
    weight, inject, bias, target = (
        np.asarray(args[k]) for k in ("weight", "inject", "bias", "target")
    )
    n, m, price = len(weight), len(inject), float(args["price"])
    # Rows: z − z W − x U = b;  μ − μ Wᵀ − z = −target;  μ Uᵀ + price x = 0.
    system = np.zeros((2 * n + m, 2 * n + m))
    z, x, mu = slice(n), slice(n, n + m), slice(n + m, None)
    system[z, z], system[z, x] = np.eye(n) - weight.T, -inject.T
    system[mu, mu], system[mu, z] = np.eye(n) - weight, -np.eye(n)
    system[x, mu], system[x, x] = inject, price * np.eye(m)
    right = np.concatenate([bias, np.zeros((len(bias), m)), -target], axis=1)
    found = np.linalg.solve(system, right.T).T
    return found[:, z], found[:, x], found[:, mu]


@pytest.mark.parametrize("solver", [DEQ_TIGHT.solver, Broyden(80, 1e-13), Anderson(200, 1e-13)])
def test_a_linear_problem_against_dense_algebra(x64, solver):
    args = random_args()
    optimum = jax.jit(lambda args: solved(args, linear, deq=DEQ(solver)))(args)
    expected = dense_optimum(args)
    for ours, theirs in zip((optimum.z, optimum.x, optimum.mu), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10, rtol=0)
    close(optimum.cost, cost(expected[0], expected[1], args))
    assert optimum.result.converged.all()
    assert max(map(np.max, optimum.residuals)) < 1e-10


def test_the_multiplier_is_what_exact_finds(x64):
    """The bias is added to f, so u is the gradient with respect to it, at the x that was found."""
    args = random_args()
    optimum = jax.jit(solved)(args)

    def cost_at(bias):
        shifted = {**args, "bias": bias}
        f = lambda z, args: nonlinear(z, optimum.x, args)  # noqa: E731
        z, _ = equilibrium(f, starts(args)[0], shifted, solver=DEQ_TIGHT.solver)
        return cost(z, optimum.x, args).sum()

    value, u = jax.jit(jax.value_and_grad(cost_at))(args["bias"])
    np.testing.assert_allclose(optimum.mu, u, atol=1e-10)
    np.testing.assert_allclose(optimum.cost.sum(), value, rtol=1e-10)


@pytest.mark.parametrize(
    ("loss", "bounded"),
    [(total_cost, False), (total_cost, True), (readout, True)],
    ids=["cost", "projected-cost", "projected-readout"],
)
def test_gradients_against_finite_differences(x64, loss, bounded):
    args = random_args()

    def handed(args):
        return loss(solved(args, project=onto_ball(args) if bounded else None))

    gradient = jax.jit(jax.grad(handed))(args)
    assert_slopes(jax.jit(handed), gradient, args)
    assert (abs(gradient["radius"]) > 1e-3) == bounded  # the projection is active


def test_what_is_closed_over_has_the_same_gradients(x64):
    args = random_args()

    def handed(args):
        return readout(solved(args, project=onto_ball(args)))

    def captured(args):
        """Nothing is in args."""
        f, price = (lambda z, x, _, g=g: g(z, x, args) for g in (nonlinear, cost))
        options = {"deq": DEQ_TIGHT, "steps": STEPS, "project": onto_ball(args)}
        return readout(optimise(f, price, *starts(args), None, **options))

    trees_close(*(jax.jit(jax.grad(loss))(args) for loss in (captured, handed)))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_second_derivatives(x64, loss):
    args = random_args(size=2)

    def force(target):
        by_target = jax.grad(lambda target: loss(solved({**args, "target": target})))(target)
        return jnp.sum(by_target**2)

    slope = jax.jit(jax.grad(force))(args["target"])
    assert_slopes(jax.jit(force), slope, args["target"])


def test_the_gradient_of_the_cost_needs_no_adjoint_solve(x64):
    """The compiled gradient has the loops of the solve alone; another loss has one loop more."""
    args = random_args()

    def loops(function):
        return jax.jit(function).lower(args).compile().as_text().count(" while(")

    of_cost, of_readout = ((lambda args, f=f: f(solved(args))) for f in LOSSES)
    assert loops(of_cost) == loops(jax.grad(of_cost)) > 0
    assert loops(jax.grad(of_readout)) > loops(of_readout)


def test_the_cell_at_the_optimum(x64):
    """It is f at the optimal input, and its state and input have no gradient."""
    args = random_args()
    best = jax.jit(lambda args: solved(args, linear))(args)
    cell = best.cell
    np.testing.assert_array_equal(cell.z, best.z)
    expected = linear(best.z, best.x, args)
    np.testing.assert_allclose(cell.f(cell.z, cell.args), expected, atol=1e-14)
    _, pullback = jax.vjp(lambda z: cell.f(z, cell.args), cell.z)
    np.testing.assert_allclose(pullback(cell.z)[0], cell.z @ args["weight"].T, atol=1e-12)
    total = jax.jit(jax.grad(lambda args: solved(args, linear).cell.z.sum()))(args)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(total))


def test_the_projected_point_is_in_its_set(x64):
    """Anderson mixes points with negative weights, which leaves the set; a loose solve shows it."""
    args = random_args(size=8)
    for steps in (3, 200):
        deq = DEQ(Anderson(steps, 1e-12))
        optimum = jax.jit(lambda deq: solved(args, deq=deq, project=onto_ball(args)))(deq)
        assert (jnp.linalg.norm(optimum.x, axis=-1) <= args["radius"] * (1 + 1e-15)).all()
    assert optimum.result.converged.all()
    # The gradient points out of the ball, along x: a multiple of x, with a factor below 0.
    z, mu = optimum.z, optimum.mu
    lagrangian = lambda x: (cost(z, x, args) + (mu * nonlinear(z, x, args)).sum(-1)).sum()  # noqa: E731
    by_x = jax.jit(jax.grad(lagrangian))(optimum.x)
    cosine = (by_x * optimum.x).sum(-1) / jnp.linalg.norm(by_x, axis=-1) / args["radius"]
    np.testing.assert_allclose(cosine, -1, atol=1e-9)


def test_a_sample_alone_and_among_others(x64):
    args = random_args(size=4)
    scaled = {**args, "target": args["target"] * jnp.array([[0.0], [1.0], [10.0], [100.0]])}
    together = jax.jit(solved)(scaled)
    for i in range(4):
        own = {k: v[i : i + 1] if k in ("bias", "target") else v for k, v in scaled.items()}
        alone = jax.jit(solved)(own)
        close(alone.x[0], together.x[i])
        close(alone.cost[0], together.cost[i])
        assert alone.result.steps[0] == together.result.steps[i]


def test_pytree_states(x64):
    """Of two leaves each, and of other ranks, as the same problem in one leaf."""
    args = random_args()

    def split(z):
        return {"a": z[:, :2], "b": z[:, 2:, None]}

    def join(z):
        return jnp.concatenate([z["a"], z["b"][..., 0]], axis=-1)

    z0, x0 = map(split, starts(args))
    f = lambda z, x, args: split(nonlinear(join(z), join(x), args))  # noqa: E731
    of_trees = lambda z, x, args: cost(join(z), join(x), args)  # noqa: E731
    run = lambda: optimise(f, of_trees, z0, x0, args, deq=DEQ_TIGHT, steps=STEPS)  # noqa: E731
    optimum = jax.jit(run)()
    expected = jax.jit(solved)(args)
    for ours, theirs in (
        (optimum.z, expected.z),
        (optimum.x, expected.x),
        (optimum.mu, expected.mu),
    ):
        close(join(ours), theirs)


def test_a_start_at_the_optimum_takes_no_step(x64):
    args = random_args()
    found = jax.jit(solved)(args)
    options = {"mu0": found.mu, "deq": DEQ(DEQ_TIGHT.solver), "steps": STEPS}
    again = jax.jit(lambda z, x: optimise(nonlinear, cost, z, x, args, **options))(found.z, found.x)
    np.testing.assert_array_equal(again.result.steps, 0)
    close(again.x, found.x)


def test_states_of_16_bits_and_the_default_solver():
    args = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_args())
    options = {"steps": Steps(x=0.25)}
    optimum = jax.jit(lambda args: solved_in(jnp.bfloat16, args, **options))(args)
    dtypes = {x.dtype for x in jax.tree.leaves((optimum.z, optimum.x, optimum.mu, optimum.cost))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), args)
    expected = jax.jit(lambda args: solved_in(jnp.float32, args, **options))(wide)
    assert expected.result.converged.all()
    np.testing.assert_allclose(optimum.cost.astype(jnp.float32), expected.cost, rtol=0.03)


def solved_in(dtype, args, **options):
    z0, x0 = (x.astype(dtype) for x in starts(args))
    return optimise(nonlinear, cost, z0, x0, args, **options)


def test_a_problem_without_a_minimum_does_not_converge():
    """The cost falls for ever; that is data, and no error. Its gradient stays 1."""
    f = lambda z, x, args: x  # noqa: E731
    falling = lambda z, x, args: z[:, 0]  # noqa: E731
    zero, deq = jnp.zeros((2, 1)), DEQ(Picard(stop_mode="abs"))
    mu0 = jnp.ones((2, 1))
    optimum = jax.jit(lambda: optimise(f, falling, zero, zero, None, mu0=mu0, deq=deq))()
    assert not optimum.result.converged.any()
    np.testing.assert_allclose(optimum.residuals.input, 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": jnp.ones(3, int)}, "x0 has one of dtype int32"),
        (
            {"x0": jnp.zeros((4, INPUTS))},
            "different batches: {'z0': 3, 'x0': 4}",
        ),
        ({"x0": jnp.full((3, INPUTS), jnp.nan)}, "There is no finite start: x0 has an entry"),
        ({"z0": jnp.full((3, 5), jnp.inf)}, "There is no finite start: z0 has an entry"),
        ({"mu0": jnp.zeros((3, 4))}, r"mu0 is float32\[3, 4\]; it must have the structure and sh"),
        (
            {"cost": lambda z, x, args: z},
            r"float32\[3, 5\]; it must return one floating-point number .* of the shape \(3,\)",
        ),
        ({"cost": lambda z, x, args: z.sum()}, "Reduce over all axes but the first"),
        ({"cost": lambda z, x, args: (z > 0).sum(axis=-1)}, "must return one floating-point"),
        ({"f": lambda z, x, args: x}, "f must map a state to one of the same structure, shapes"),
        ({"project": lambda x: x[:, :2]}, "project must map a state to one of the same structure"),
        ({"project": lambda x: (x, x)}, "project must map a state to one of the same structure"),
        ({"steps": 0.1}, "steps has 0.1; it must be Steps"),
        ({"steps": ()}, r"steps is \(\); it must be Steps"),
        ({"starts": 2}, "x0 has a first axis of 3, but starts is 2"),
        ({"starts": 2, "x0": jnp.zeros((2, 4, 3))}, "different batches: {'z0': 3, 'x0': 4}"),
        ({"starts": 0}, "starts is 0; it must be a whole number at least 1"),
        ({"merit": lambda cost, residual: cost.sum()}, "merit returns float32.*number for each"),
        ({"deq": Anderson()}, "deq is Anderson.*it must be a layer, such as DEQ"),
        ({"deq": DEQ}, "deq is <class.*it must be a layer, such as DEQ"),
    ],
)
def test_bad_input(change, message):
    args = random_args()
    z0, x0 = starts(args)
    given = {"f": nonlinear, "cost": cost, "z0": z0, "x0": x0, "args": args} | change
    with pytest.raises(ValueError, match=message):
        optimise(**given)


@pytest.mark.parametrize(
    ("name", "value"), [("z", 0.0), ("z", 1.1), ("mu", -0.5), ("x", 0.0), ("x", float("nan"))]
)
def test_bad_steps(name, value):
    with pytest.raises(ValueError, match=rf"Steps\.{name} is {value!r}; it must be a number"):
        solved(random_args(), steps=(STEPS, Steps(**{name: value})))


def test_steps_may_be_traced(x64):
    """One compiled function for all; what it converges to does not depend on them."""
    args = random_args()
    run = jax.jit(lambda x: solved(args, steps=Steps(0.9, 0.9, x)).x)
    close(run(0.3), run(0.2))
    assert run._cache_size() == 1
    by_step = jax.jit(jax.grad(lambda x: solved(args, steps=Steps(0.9, 0.9, x)).x.sum()))(0.3)
    np.testing.assert_allclose(by_step, 0, atol=1e-9)
