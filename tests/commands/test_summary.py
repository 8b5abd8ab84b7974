"""The summary against counts made by hand."""

import json

import jax
import pytest
from invoke import invoke

from mdeq_jax.commands.summary import compiled_memory, render, run, summarize
from mdeq_jax.vision.config import finalize

CONFIG = {
    "model": {
        "branch_channels": (4, 6),
        "expansion": 2,
        "num_groups": 2,
        "head_channels": (1, 2),
        "final_channels": 5,
        "downsample_times": 1,
    },
    "data": {"image_size": (8, 16)},
    "solver": {"forward": {"max_steps": 7}},
}
HIGH, LOW = 4 * 8, 2 * 4  # pixels of the two branches


def test_multiply_adds_are_those_of_the_convolutions():
    parts = summarize(finalize(CONFIG)).parts
    assert list(parts) == ["stem", "branch 0", "branch 1", "fusion", "post-fusion", "head"]
    assert parts["stem"].multiply_adds == HIGH * (9 * 3 * 4 + 9 * 4 * 4 + 4 * 4)
    assert parts["branch 0"].multiply_adds == HIGH * 2 * 9 * 4 * 8
    assert parts["branch 1"].multiply_adds == LOW * 2 * 9 * 6 * 12
    assert parts["fusion"].multiply_adds == LOW * (9 * 4 * 6 + 6 * 4)
    assert parts["post-fusion"].multiply_adds == HIGH * 4 * 4 + LOW * 6 * 6
    high = HIGH * (4 * 1 + 9 * 1 * 1 + 1 * 4)  # as wide as its input: no projection
    low = LOW * (6 * 2 + 9 * 2 * 2 + 2 * 8 + 6 * 8 + 9 * 4 * 8 + 8 * 5)
    assert parts["head"].multiply_adds == high + low + 5 * 10


def test_parameters_of_the_parts():
    parts = summarize(finalize(CONFIG)).parts
    assert parts["branch 0"].parameters == 2 * 9 * 4 * 8 + (8 + 4) + 2 * (8 + 4 + 4)
    assert parts["fusion"].parameters == 9 * 4 * 6 + 6 * 4 + 2 * (6 + 4)


def test_injections_into_the_lower_resolutions_are_made_once():
    model = {**CONFIG["model"], "injection": "all"}
    parts = summarize(finalize({**CONFIG, "model": model})).parts
    assert parts["lower_injections"].passes == parts["stem"].passes == 1
    assert parts["fusion"].passes > 1


def test_totals_per_image():
    summary = summarize(finalize(CONFIG))
    totals = summary.totals()
    parts = [*summary.parts.values()]
    cell = sum(part.multiply_adds for part in parts[1:-1])
    assert totals["multiply_adds_per_application"] == cell
    once = parts[0].multiply_adds + parts[-1].multiply_adds
    assert totals["multiply_adds_per_image"] == 8 * cell + once
    assert totals["state_bytes"] == 4 * (HIGH * 4 + LOW * 6)


@pytest.mark.parametrize(
    ("solver", "rows"), [({"max_steps": 7}, 7), ({"max_steps": 7, "memory": 3}, 3)]
)
def test_broydens_history_is_a_state_for_each_row(solver, rows):
    totals = summarize(finalize({**CONFIG, "solver": {"forward": solver}})).totals()
    history = rows * totals["state_bytes"]
    # Beside the rows there is the small recurrence between them.
    assert history <= totals["history_bytes"] < history + 8 * (rows + 1) ** 2


def test_plain_iteration_remembers_nothing():
    config = finalize({**CONFIG, "solver": {"forward": {"name": "picard"}}})
    assert summarize(config).totals()["history_bytes"] == 0


def test_the_table_has_a_line_for_each_part_and_the_totals():
    summary = summarize(finalize(CONFIG))
    lines = render(summary).splitlines()
    assert len(lines) == 1 + len(summary.parts) + 5
    assert f"{summary.totals()['parameters']:,}" in lines[-4]


@pytest.mark.slow
def test_xlas_memory_of_a_training_step_grows_with_the_batch_and_holds_what_it_takes():
    solver = {"forward": {"max_steps": 7}, "backward": {"max_steps": 2}}

    def config(batch):
        data = {"image_size": (8, 8), "batch_size": batch}
        return finalize({**CONFIG, "solver": solver, "data": data})

    small, large = compiled_memory(config(8)), compiled_memory(config(64))
    grown = {kind: large[kind] - small[kind] for kind in small}
    images = (64 - 8) // jax.device_count()
    assert grown["step_argument_bytes"] >= images * 4 * 8 * 8 * 3
    assert grown["step_temp_bytes"] >= images * summarize(config(8)).history_bytes


def test_the_command(capsys):
    assert invoke(run, "--config=imagenet_small_reg") == 0
    out = capsys.readouterr().out
    assert "18,613,496" in out
    assert json.loads(out.splitlines()[-1])["parameters"] == 18_613_496
