"""How a process finds the others, without asking the network where it is alone."""

import jax
import numpy as np
import pytest

from mdeq_jax.runtime import hosts


@pytest.fixture
def calls(monkeypatch) -> list:
    """Arguments of each call of `jax.distributed.initialize`, which is not made."""
    found = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: found.append((a, k)))
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_a_process_alone_asks_nobody(calls, monkeypatch):
    hosts.connect(None, None, None)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    hosts.connect(None, None, None)
    assert calls == []


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_a_launcher_of_several_is_left_to_jax(calls, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    hosts.connect(None, None, None)
    assert calls == [((), {})]


def test_an_address_comes_before_the_launcher(calls, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    hosts.connect("node0:1234", 2, 0)
    assert calls == [(("node0:1234", 2, 0), {"cluster_detection_method": "deactivate"})]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (("node0:1234", None, None), "--process_count, --process_id not given"),
        ((None, 2, 0), "--coordinator not given"),
        (("node0", 2, 0), "--coordinator is 'node0'; it must be HOST:PORT"),
    ],
)
def test_an_address_that_is_not_whole(calls, address, message):
    with pytest.raises(ValueError, match=message):
        hosts.connect(*address)
    assert calls == []


def test_one_process_is_its_own_company():
    assert hosts.is_main()
    assert hosts.in_any_process(True, False) == [True, False]
    rows = np.arange(3)
    assert hosts.gather_rows(rows) is rows
