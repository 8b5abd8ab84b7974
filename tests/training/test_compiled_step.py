"""What the compiled training step shows: its memory, and where devices talk to each other."""

import dataclasses
import re

import pytest
from test_steps import CONFIG, OPA, make_batch, setup, with_sections

from mdeq_jax.config import finalize
from mdeq_jax.training.steps import shard


@pytest.mark.parametrize("sections", [{}, pytest.param(OPA, marks=pytest.mark.slow)], ids=str)
def test_no_collective_inside_the_solver_loops(sections):
    step, state, mesh = setup(with_sections(**sections), 2)
    hlo = step.lower(state, shard(make_batch(8), mesh)).compile().as_text()
    assert "all-reduce" in hlo
    bodies = set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", hlo))
    assert bodies
    # A computation of the text runs from its name at the start of a line to a closing brace.
    for block in re.findall(r"^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}", hlo, re.M | re.S):
        if block[0] in bodies:
            assert "all-reduce" not in block[1], block[0]


def temporary_bytes(solver: str, max_steps: int) -> int:
    section = {"name": solver, "max_steps": max_steps, "tol": 0.0}
    config = finalize(
        {**dataclasses.asdict(CONFIG), "solver": {"forward": section, "backward": section}}
    )
    step, state, mesh = setup(config)
    compiled = step.lower(state, shard(make_batch(64, side=16), mesh)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_does_not_grow_with_depth():
    ten, hundred = (temporary_bytes("picard", steps) for steps in (10, 100))
    assert abs(hundred - ten) < 0.02 * ten


@pytest.mark.slow
def test_broydens_memory_is_its_history():
    ten, hundred = (temporary_bytes("broyden", steps) for steps in (10, 100))
    history = (100 - 10) * (64 * 16 * 16 * 8) * 4
    # Forward and backward each have a history, but not at the same time.
    assert hundred - ten <= 1.2 * history
