"""The memory of the compiled training step."""

import jax
import pytest
from test_steps import make_batch, setup, with_sections

from mdeq_jax.training.mesh import shard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimized")]


def temporary_bytes(solver: str, max_steps: int, accumulate_steps: int = 1) -> int:
    section = {"name": solver, "max_steps": max_steps, "tol": 0.0}
    config = with_sections(
        solver={"forward": section, "backward": section},
        train={"accumulate_steps": accumulate_steps},
    )
    step, state, mesh = setup(config)
    compiled = step.lower(state, shard(make_batch(64, side=16), mesh)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_depth():
    ten, hundred = (temporary_bytes("picard", steps) for steps in (10, 100))
    assert abs(hundred - ten) < 0.02 * ten


def test_broydens_memory_is_its_history():
    ten, hundred = (temporary_bytes("broyden", steps) for steps in (10, 100))
    history = (100 - 10) * (64 * 16 * 16 * 8) * 4
    # Forward and backward each have a history, but not at the same time.
    assert hundred - ten <= 1.2 * history


def test_microbatches_need_the_memory_of_one(monkeypatch):
    # Where the loop is not unrolled, as on accelerators.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    whole, quarters = (temporary_bytes("broyden", 10, parts) for parts in (1, 4))
    # Beside it there are the gradient's sum and the whole batch in another order.
    assert quarters < 0.3 * whole
