"""Advice for devices that are out of memory, and for adjoint solves that do not converge."""

from mdeq_jax.training.config import RunConfig

MEMORY_REMEDIES = """\
Each of these settings takes less memory:
  --config.train.accumulate_steps, raised: a training step splits its batch into more parts
  --config.data.batch_size, lowered (training), or --config.data.eval_batch_size (evaluation)
  --config.solver.forward.max_steps and --config.solver.backward.max_steps, lowered: a solver \
remembers up to one state for each step
  --config.adjoint.steps, lowered, with --config.adjoint.name=phantom
  --config.train.num_layers, lowered, with --config.train.pretrain_steps above 0
  --config.dtype=bfloat16, on an accelerator
A workdir with checkpoints accepts a new data.eval_batch_size. For the other settings, name \
another --workdir."""


def out_of_memory(error: RuntimeError) -> str | None:
    """Return the first line of XLA's message if a device is out of memory, otherwise None."""
    line = str(error).partition("\n")[0][:300]
    return line if "RESOURCE_EXHAUSTED" in line else None


def adjoint_advice(config: RunConfig) -> str:
    """Return the settings that let adjoint solves converge, or that avoid adjoint solves."""
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
