"""Measure how a trained reasoning model uses more computation, and draw it.

    python -m mdeq_jax.commands.reason --checkpoint runs/prefix_sums \\
        --sizes 16,64,256 --steps 10,30,60,120 --restarts 1,4,16

For each size, number of solver steps and number of restarts from random states the table has the
accuracy from the model's own initial state ("own"), of the restarts on average ("single"), and of
the answers chosen by the lowest residual, by majority and by a vote weighted by trust. Trust is
calibrated on the first half of the problems; all figures are of the second half. "believed" is the
accuracy that the vote believes in; restarts of one model are not independent, so compare it with
the vote's accuracy. The folder --output gets table.jsonl and figures. The last line on stdout is
one JSON object.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mdeq_jax import applications
from mdeq_jax.reasoning.config import Config
from mdeq_jax.reasoning.experiment import create_experiment
from mdeq_jax.reasoning.scaling import measure
from mdeq_jax.training.config import override
from mdeq_jax.training.metrics import to_json

_COLUMNS = (
    *("size", "steps", "restarts", "own", "single", "lowest_residual", "majority", "vote"),
    *("any", "believed", "residual", "alignment", "swapped"),
)


def main(
    checkpoint: str,
    output: Path,
    *,
    sizes: Sequence[int] | None,
    steps: Sequence[int],
    restarts: Sequence[int],
    problems: int | None,
) -> dict[str, Any]:
    """Print and save the table, draw the figures, and return the row of the most computation.

    Args:
      checkpoint: a workdir, its best/, or one step's folder.
      output: folder for the table and the figures.
      sizes: sizes of the problems; None takes config.evaluation.sizes.
      steps: numbers of solver steps.
      restarts: numbers of restarts.
      problems: number of problems of each size; None takes config.data.eval_problems.

    Raises:
      ValueError: the checkpoint is of another application, or a number is below 1.
    """
    trained = applications.load_trained(checkpoint)
    if not isinstance(trained.config, Config):
        raise ValueError(
            f"--checkpoint {checkpoint} is of the application {trained.config.app!r}; give one of "
            "'reasoning'."
        )
    steps, restarts = _rising("--steps", steps), _rising("--restarts", restarts)
    sizes = trained.config.evaluation.sizes if sizes is None else _rising("--sizes", sizes)
    problems = trained.config.data.eval_problems if problems is None else problems
    experiment = create_experiment(
        override(
            trained.config,
            {
                "evaluation.sizes": tuple(sizes),
                "evaluation.steps": (steps[-1],) * len(sizes),
                "data.eval_problems": problems,
            },
        )
    )
    output.mkdir(parents=True, exist_ok=True)
    print("  ".join(f"{name:>9}" for name in _COLUMNS))
    rows = []
    for size in sizes:
        key = jax.random.key(trained.config.seed)
        found = measure(
            experiment, trained.variables, size=size, steps=steps, restarts=restarts, key=key
        )
        for row in found:
            print("  ".join(f"{row[name]:{max(9, len(name))}.4g}" for name in _COLUMNS), flush=True)
        rows += found
    (output / "table.jsonl").write_text("".join(f"{to_json(row)}\n" for row in rows))
    return {**rows[-1], "output": str(output)}


def _rising(flag: str, values: Sequence[int]) -> list[int]:
    if not values or min(values) < 1:
        raise ValueError(f"{flag} is {list(values)}; give numbers of at least 1, such as 10,30.")
    return sorted({*values})
