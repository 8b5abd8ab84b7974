"""What a user can change when training does not go well."""

from mdeq_jax.training.config import RunConfig


def adjoint_remedies(config: RunConfig) -> str:
    """Return the settings that let adjoint solves converge, or that do without them."""
    backward, jacobian = config.solver.backward, config.jacobian
    steps, tol = backward.max_steps, backward.tol
    probability, weight = max(jacobian.probability, 0.4), 2 * jacobian.weight or 1.0
    return (
        "Try one of these settings in another --workdir:\n"
        f"  --config.solver.backward.max_steps={2 * steps} (it is {steps})\n"
        f"  --config.solver.backward.tol={max(10 * tol, 1e-3):g} (it is {tol:g})\n"
        f"  --config.jacobian.probability={probability:g} --config.jacobian.weight={weight:g}, "
        "Jacobian regularisation, which shortens solves\n"
        "  --config.adjoint.name=phantom, or another gradient that solves no adjoint equation"
    )
