"""Predict the optical flow of a film with a trained model of the application "flow".

    python -m mdeq_jax.commands.flow --checkpoint runs/flow_shapes --input film.mp4 \\
        --output film_flow --warm-start --compare-cold

--input is a folder of frames, given several times for several folders, or one video. Frames are
sorted by name, numbers by value; each folder is a film of its own. The output has
OUTPUT/flow/NAME.flo, OUTPUT/colour/NAME.png (direction as hue, length as saturation, one scale for
all frames), OUTPUT/flow.gif (frames beside their flow, at most 200 of them) and OUTPUT/solver.csv.
NAME is the name of the first of two frames; frames of a video are numbered.

With --warm-start, each pair starts from the equilibrium of the pair before, its flow carried along.
There is no flow across a change of size or a frame that cannot be read; the next pair starts cold.

    python -m mdeq_jax.commands.flow --checkpoint runs/flow_things --submission sintel \\
        --root datasets --output sintel_submission --warm-start

writes the flow of a benchmark's test set into OUTPUT/flow as its server takes it. The last line on
stdout is one JSON object.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.commands.tables import Table
from mdeq_jax.flow.data.formats import FlowField, write_flo, write_kitti
from mdeq_jax.flow.experiment import create_experiment
from mdeq_jax.flow.films import Benchmark, Film, Pair, benchmark_pairs
from mdeq_jax.flow.outputs import FilmFiles
from mdeq_jax.flow.padding import Mode
from mdeq_jax.flow.stream import FlowStream

_COLUMNS = ("frame", "solver_steps", "residual", "converged", "warm")
# Suffix and writer of the files of a submission.
_SUBMISSIONS = {"sintel": (".flo", write_flo), "kitti": (".png", write_kitti)}

Row = dict[str, Any]


def main(
    output: Path,
    make_stream: Callable[[Mode], FlowStream],
    *,
    inputs: Sequence[str] | None = None,
    submission: Benchmark | None = None,
    root: str | None = None,
    max_flow: float | None = None,
) -> dict[str, Any]:
    """Write the flow of a film or of a test set, and return the means of the solver's statistics.

    Args:
      output: folder for all files.
      make_stream: loads the model, for a mode of padding.
      inputs: folders of frames, or one video.
      submission: "sintel" or "kitti", in place of `inputs`.
      root: folder that holds Sintel or KITTI.
      max_flow: length of flow of full saturation in pictures; None is the longest of the film.

    Raises:
      ValueError: an argument or a file is wrong; frames that cannot be read are named after the
        flow of the others is written.
    """
    started = time.monotonic()
    if inputs and not submission:
        film, files = Film(inputs, output), FilmFiles(output, max_flow)
        result = _predict_film(make_stream("sintel"), film, files, output)
    elif submission and root and not inputs:
        result = _predict_test_set(make_stream, submission, root, output)
    else:
        raise ValueError("give either --input, or --submission and --root.")
    return {**result, "wall_s": round(time.monotonic() - started, 2)}


def _predict_film(stream: FlowStream, film: Film, files: FilmFiles, output: Path) -> dict[str, Any]:
    """Write all files of a film; then raise ValueError if frames of it could not be read."""

    def write(pair: Pair, flow: FlowField) -> None:
        files.add(pair.name, pair.first, flow)

    rows = _predict(stream, film.pairs(), write, output)
    if rows:
        files.draw()
    if film.unreadable:
        raise ValueError(
            f"{len(film.unreadable)} of {film.frames} frames could not be read: "
            f"{'; '.join(film.unreadable)} The flow of {len(rows)} pairs of others is in {output}."
        )
    if not rows:
        raise ValueError(
            f"--input has {film.frames} frame(s), but no two of one size that follow each other in "
            "a folder; flow needs at least two."
        )
    return {"frames": film.frames, **_summary(rows)}


def _predict_test_set(
    make_stream: Callable[[Mode], FlowStream], benchmark: Benchmark, root: str, output: Path
) -> dict[str, Any]:
    """Write the submission of a test set, and return the means over its pairs."""
    pairs, stream = benchmark_pairs(benchmark, root), make_stream(benchmark)
    suffix, save = _SUBMISSIONS[benchmark]

    def write(pair: Pair, flow: FlowField) -> None:
        path = output / "flow" / f"{pair.name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, flow)

    return _summary(_predict(stream, pairs, write, output))


def load_stream(
    checkpoint: str, mode: Mode, *, warm_start: bool, compare: bool, steps: int | None
) -> FlowStream:
    """Return the stream of a checkpoint.

    Args:
      checkpoint: a workdir, its best/, or one step's folder.
      mode: how frames are padded; "kitti" is for pairs that are no film.
      warm_start: whether pairs start from the equilibrium of the pair before.
      compare: whether pairs with a warm start are also solved from a cold one.
      steps: largest number of solver steps; None is config.evaluation.steps of the checkpoint.

    Raises:
      ValueError: the checkpoint is of another application, or the options do not fit.
    """
    if mode == "kitti" and warm_start:
        raise ValueError("the pairs of KITTI are no film; leave out --warm-start.")
    trained = applications.load_trained_as("flow", checkpoint)
    experiment = create_experiment(trained.config)
    return FlowStream(
        trained, experiment, warm_start=warm_start, compare=compare, steps=steps, mode=mode
    )


def _predict(
    stream: FlowStream,
    pairs: Iterable[Pair],
    write: Callable[[Pair, FlowField], None],
    output: Path,
) -> list[Row]:
    """Write the flow of all pairs, and return the rows of OUTPUT/solver.csv."""
    output.mkdir(parents=True, exist_ok=True)
    columns = [*_COLUMNS, *(["cold_solver_steps"] if stream.compare else [])]
    table, rows = Table(output / "solver.csv", columns), []
    for pair in pairs:
        found = stream(pair.first, pair.second, new_scene=pair.new_scene)
        write(pair, found.flow)
        values = {"frame": pair.name, **found._asdict()}
        rows.append({name: values[name] for name in columns})
        table.add(rows[-1])
        print(
            f"{pair.name}  {found.solver_steps} solver steps  residual {found.residual:.1e}",
            flush=True,
        )
    return rows


def _summary(rows: Sequence[Row]) -> dict[str, float]:
    """Return the means over all pairs, and of the steps saved over those with a warm start."""
    means = {name: float(np.mean([row[name] for row in rows])) for name in [*rows[0]][1:]}
    warm = [row for row in rows if row["warm"]]
    if warm and "cold_solver_steps" in means:
        saved = [row["cold_solver_steps"] - row["solver_steps"] for row in warm]
        means["steps_saved"] = float(np.mean(saved))
    return {"pairs": len(rows), **means}


def run() -> None:
    """Run the command under the flags of the process."""
    checkpoint = flags.DEFINE_string("checkpoint", None, cli.CHECKPOINT, required=True)
    output = flags.DEFINE_string("output", None, "Folder for the flow.", required=True)
    inputs = flags.DEFINE_multi_string(
        "input", None, "A folder of frames, which may be given several times, or a video."
    )
    submission: Any = flags.DEFINE_enum(
        "submission", None, get_args(Benchmark), "The test set to predict in place of --input."
    )
    root = flags.DEFINE_string(
        "root", None, "With --submission: folder that holds Sintel or KITTI."
    )
    warm_start = flags.DEFINE_boolean(
        "warm-start", False, "Solve each pair from the equilibrium of the pair before."
    )
    compare = flags.DEFINE_boolean(
        "compare-cold", False, "With --warm-start, solve cold too, to count the steps saved."
    )
    steps = flags.DEFINE_integer(
        "steps", None, "Largest number of solver steps; by default config.evaluation.steps.", 1
    )
    max_flow = flags.DEFINE_float(
        "max-flow", None, "Flow of full saturation in pixels; by default the longest of the film."
    )
    cli.run(
        __doc__,
        lambda: main(
            Path(output.value),
            lambda mode: load_stream(
                checkpoint.value,
                mode,
                warm_start=warm_start.value,
                compare=compare.value,
                steps=steps.value,
            ),
            inputs=inputs.value,
            submission=submission.value,
            root=root.value,
            max_flow=max_flow.value,
        ),
    )


if __name__ == "__main__":
    run()
