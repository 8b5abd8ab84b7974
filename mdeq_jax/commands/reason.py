"""Measure how a trained reasoning model uses more computation, and draw it.

    python -m mdeq_jax.commands.reason --checkpoint runs/prefix_sums \\
        --sizes 16,64,256 --steps 10,30,60,120 --restarts 1,4,16

R restarts are one solve from the initial state of the evaluations and R − 1 from random states. For
each size, number of solver steps and number of restarts the table has the accuracy of the first
solve ("own"), of the restarts on average ("single"), and of the answers chosen by the lowest
residual, by majority and by a vote weighted by trust. Trust is calibrated on the first half of the
problems; all figures are of the second half. "believed" is the accuracy that the vote believes in;
restarts of one model are not independent, so compare it with the vote's accuracy. "agreement" is
the mean cosine between the states of the restarts and of the first solve, "alignment" the
asymptotic alignment score. The folder --output gets table.jsonl and figures. The last line on
stdout is one JSON object.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.reasoning.experiment import Reasoning, create_experiment
from mdeq_jax.reasoning.scaling import Row, make_attempts, measure
from mdeq_jax.training.config import override
from mdeq_jax.training.experiment import Variables
from mdeq_jax.training.metrics import to_json
from mdeq_jax.viz import reasoning as viz

_COLUMNS = (
    *("size", "steps", "restarts", "own", "single", "lowest_residual", "majority", "vote"),
    *("any", "believed", "residual", "agreement", "alignment"),
)


def main(
    checkpoint: str,
    output: Path,
    *,
    sizes: Sequence[Any] | None,
    steps: Sequence[Any],
    restarts: Sequence[Any],
    problems: int | None,
) -> dict[str, Any]:
    """Print and save the table, draw the figures, and return the last row, of the most computation.

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
    trained = applications.load_trained_as("reasoning", checkpoint)
    steps, restarts = _rising("--steps", steps), _rising("--restarts", restarts)
    sizes = _rising("--sizes", sizes or trained.config.evaluation.sizes)
    changes = {
        "evaluation.sizes": tuple(sizes),
        "evaluation.steps": (steps[-1],) * len(sizes),
        "data.eval_problems": problems or trained.config.data.eval_problems,
    }
    if changes["data.eval_problems"] < 2:
        raise ValueError(
            "config.data.eval_problems is 1, but half of the problems calibrate trust; give "
            "--problems 2 or more."
        )
    experiment = create_experiment(override(trained.config, changes))
    output.mkdir(parents=True, exist_ok=True)
    print("  ".join(f"{name:>9}" for name in _COLUMNS), flush=True)
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
    _draw(rows, output)
    if trained.config.data.task == "mazes":
        _draw_maze(experiment, trained.variables, sizes[-1], steps, output / "maze.png")
    return {**rows[-1], "output": str(output)}


def _draw(rows: Sequence[Row], output: Path) -> None:
    """Draw accuracy against steps, and alignment against accuracy, of the own initial state."""
    most = [row for row in rows if row["restarts"] == rows[-1]["restarts"]]
    own = {f"{row['size']:g}": [] for row in most}
    for row in most:
        own[f"{row['size']:g}"].append(row["own"])
    steps = np.array(sorted({int(row["steps"]) for row in most}))
    viz.plot_accuracy_against_steps(
        steps, {size: np.array(values) for size, values in own.items()}, output / "steps.png"
    )
    viz.plot_alignment_against_accuracy(
        np.array([row["alignment"] for row in most]),
        np.array([row["own"] for row in most]),
        output / "alignment.png",
        title=f"{len(most)} sizes and numbers of steps of one model",
        kinds=[f"size {row['size']:g}" for row in most],
    )


def _draw_maze(
    experiment: Reasoning, variables: Variables, size: int, steps: Sequence[int], path: Path
) -> None:
    """Draw the path of the first test maze as it forms over the steps."""
    batch = next(experiment.test_batches(size))
    attempts = make_attempts(experiment, steps, restarts=1)
    found = attempts(variables, experiment.prepare(batch), jax.random.key(0))
    predicted = np.asarray(found.answers)[0, 0] == 1
    viz.plot_forming_path(batch["inputs"][0], predicted, steps, batch["targets"][0] == 1, path)


def _rising(flag: str, values: Sequence[Any] | None) -> list[int]:
    """Return the numbers of a flag in rising order; raises ValueError if one is below 1."""
    numbers = [int(value) for value in values or () if str(value).isdecimal()]
    if not numbers or len(numbers) < len(values or ()) or min(numbers) < 1:
        raise ValueError(f"{flag} is {values}; give whole numbers of at least 1, such as 10,30.")
    return sorted({*numbers})


def run() -> None:
    """Run the command under the flags of the process."""
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT, required=True)
    output = flags.DEFINE_string(
        "output", None, "Folder for the table and the figures; by default CHECKPOINT/reason."
    )
    sizes = flags.DEFINE_list("sizes", None, "Sizes; by default those of the config.")
    steps = flags.DEFINE_list("steps", ["5", "10", "20", "40", "80"], "Numbers of solver steps.")
    restarts = flags.DEFINE_list("restarts", ["1", "4", "16"], "Numbers of restarts.")
    problems = flags.DEFINE_integer(
        "problems", None, "Problems of each size; by default config.data.eval_problems.", 2
    )
    cli.run(
        __doc__,
        lambda: main(
            checkpoint.value,
            Path(output.value or Path(checkpoint.value) / "reason"),
            sizes=sizes.value,
            steps=steps.value,
            restarts=restarts.value,
            problems=problems.value,
        ),
    )


if __name__ == "__main__":
    run()
