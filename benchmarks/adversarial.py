"""Count what a step of adversarial training costs, and how strong its attack is.

    python -m benchmarks.adversarial --checkpoint runs/adversarial_digits --pgd-steps 1 2 5 10

The checkpoint's model and its solvers attack one batch of training images. Evaluations of the cell
and pullbacks through it are means over the images; those of the slowest image last as long as the
batch. They include the equilibrium and the adjoint of the training step itself. A solve of n steps
costs n + 1 evaluations, an adjoint solve n + 1 pullbacks and one more into the weights or into δ.
The margin is that of the perturbation at a tolerance of 1e-5. The seconds are those of the attack.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.timing import milliseconds, report, take_turns
from mdeq_jax import applications
from mdeq_jax.implicit import DEQ, Exact
from mdeq_jax.inverse.adversarial.attacks import soft_margin
from mdeq_jax.inverse.adversarial.config import Config
from mdeq_jax.inverse.adversarial.experiment import AdversarialTraining, create_experiment
from mdeq_jax.runtime.compilation import convolve_on_all_cores
from mdeq_jax.solvers import Anderson
from mdeq_jax.training.experiment import Batch, Layer, Variables
from mdeq_jax.training.weights import Trained

# Perturbation, and per image: evaluations of the cell, pullbacks.
Counted = tuple[Array, Float[Array, " B"], Float[Array, " B"]]
_TIGHT = Layer(DEQ(Anderson(max_steps=100, tol=1e-5)))


def joint(experiment: AdversarialTraining, deq: DEQ, variables: Variables, batch: Batch) -> Counted:
    """Return the joint attack and the cost of its training step.

    Each step evaluates the cell and pulls back once. So do the start, the residuals of the optimum
    and the envelope gradient.
    """
    optimum = experiment.attack(variables, batch, Layer(deq))
    count = optimum.result.steps + 3.0
    return optimum.x, count, count


def by_pgd(
    steps: int, experiment: AdversarialTraining, deq: DEQ, variables: Variables, batch: Batch
) -> Counted:
    """Return the attack by PGD and the cost of its training step, whose solves it repeats last."""
    config, ball = experiment.config, experiment.ball
    size = jnp.full(len(batch["image"]), config.attack.pgd_step_size * ball.epsilon)
    start = jnp.zeros_like(batch["image"])

    def margins(delta: Array, probe: Array) -> tuple[Array, Array]:
        layer = Layer(functools.partial(deq, adjoint_probe=probe))
        values, solution = experiment.margins(variables, batch, layer, soft_margin)(delta)
        return values.sum(), solution.result.steps

    def step(carry: Counted, _: None) -> tuple[Counted, None]:
        delta, evaluations, pullbacks = carry
        gradient = jax.grad(margins, argnums=(0, 1), has_aux=True)
        (slope, probe), taken = gradient(delta, jnp.zeros((len(delta), 2)))
        counts = evaluations + taken + 1, pullbacks + probe[:, 0] + 2
        return (ball.ascend(delta, slope, size), *counts), None

    first = start, jnp.zeros_like(size), jnp.zeros_like(size)
    attacked, _ = jax.lax.scan(step, first, length=steps)
    (_, evaluations, pullbacks), _ = step(attacked, None)
    return attacked[0], evaluations, pullbacks


def measure(
    trained: Trained[Config], pgd_steps: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Return one row for the joint attack, and one for each number of steps of PGD.

    Args:
      trained: the model that is attacked.
      pgd_steps: numbers of steps of PGD, each at least 1.
      rounds: number of timings of each attack.
    """
    experiment = create_experiment(trained.config)
    solver = trained.config.solver
    deq = DEQ(solver.forward.build(), Exact(solver.backward.build()))
    variables, batch = trained.variables, next(experiment.train_batches())
    attacks: dict[str, Callable[..., Counted]] = {"joint": joint}
    attacks |= {f"pgd {k}": functools.partial(by_pgd, k) for k in pgd_steps}
    compiled = {
        name: jax.jit(functools.partial(attack, experiment, deq))
        for name, attack in attacks.items()
    }
    margins = jax.jit(
        lambda delta: experiment.margins(variables, batch, _TIGHT, soft_margin)(delta)[0]
    )
    calls = {name: functools.partial(attack, variables, batch) for name, attack in compiled.items()}
    seconds = take_turns(calls, rounds)
    rows = []
    for name, call in calls.items():
        delta, evaluations, pullbacks = call()
        margin = margins(delta)
        rows.append(
            {
                "attack": name,
                "evaluations": float(evaluations.mean()),
                "evaluations (slowest)": float(evaluations.max()),
                "pullbacks": float(pullbacks.mean()),
                "pullbacks (slowest)": float(pullbacks.max()),
                "margin": float(margin.mean()),
                "misclassified": float((margin > 0).mean()),
                "ms": milliseconds(seconds[name]),
            }
        )
    return rows


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adversarial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, help="workdir of a run")
    parser.add_argument("--pgd-steps", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--rounds", type=int, default=5, help="timings of each attack")
    options = parser.parse_args()
    convolve_on_all_cores()
    trained = applications.load_trained_as("adversarial", options.checkpoint)
    report("adversarial", measure(trained, options.pgd_steps, options.rounds))


if __name__ == "__main__":
    main()
