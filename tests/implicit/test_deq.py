"""The layer as one value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import TIGHT, layer, random_args, start

from mdeq_jax.implicit import DEQ, Exact, JacobianFree, Phantom, Solution, Unrolled, equilibrium
from mdeq_jax.solvers import Broyden, Picard
from mdeq_jax.stability import jacobian_loss


@pytest.mark.parametrize("adjoint", [None, JacobianFree(), Unrolled(4)], ids=repr)
def test_it_is_the_equilibrium_of_its_solver_and_adjoint(x64, adjoint):
    args = random_args()
    deq = DEQ(TIGHT, adjoint)

    def of_layer(args):
        solution = deq(layer, start(args), args, step_limit=9)
        return jnp.sin(solution.z).sum(), solution.result

    def of_function(args):
        z, result = equilibrium(
            layer, start(args), args, solver=TIGHT, adjoint=adjoint, step_limit=9
        )
        return jnp.sin(z).sum(), result

    jax.tree.map(
        np.testing.assert_array_equal,
        *(jax.jit(jax.grad(loss, has_aux=True))(args) for loss in (of_layer, of_function)),
    )


def test_sampled_states_are_solves_of_so_many_steps_with_a_phantom_gradient(x64):
    args, solver = random_args(), Picard(max_steps=6, tol=0.0)
    deq = DEQ(solver, sample_at=(2, 4), phantom=Phantom(2, 0.7))

    def sampled(args, i):
        return jnp.sin(deq(layer, start(args), args).sampled[i]).sum()

    def solved(args, steps):
        options = {"solver": solver, "adjoint": Phantom(2, 0.7), "step_limit": steps}
        return jnp.sin(equilibrium(layer, start(args), args, **options)[0]).sum()

    by_sampled, by_solved = jax.jit(jax.grad(sampled), static_argnums=1), jax.jit(jax.grad(solved))
    for i, steps in enumerate((2, 4)):
        ours, expected = by_sampled(args, i), by_solved(args, steps)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), ours, expected)


def test_a_solution_has_what_regularisation_needs_and_leaves_a_compiled_function():
    args = random_args()
    solution = jax.jit(lambda args: DEQ(Broyden())(layer, start(args), args))(args)
    assert isinstance(solution, Solution)
    assert solution.sampled == ()
    ours = jacobian_loss(solution.f, solution.z, solution.args, jax.random.key(0))
    assert ours == jacobian_loss(layer, solution.z, args, jax.random.key(0))


def test_it_is_a_static_value():
    assert len({DEQ(), DEQ(), DEQ(Picard()), DEQ(adjoint=Exact(Picard()))}) == 3
    assert jax.tree.leaves(DEQ()) == []
