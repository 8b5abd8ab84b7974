"""Checkpoints: exact, safe against kills and damage, and refused where they do not belong."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import CONFIG, State, abstract, data_iterator, make_state, sharding

from mdeq_jax.training.checkpoints import Checkpointer, load_checkpoint

# Orbax leaves an unfinished read behind when a file is damaged.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RUNS = Path(__file__).with_name("runs.py")


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_loaded(checkpoint, step):
    """A checkpoint read without a target holds `make_state(step)` as plain containers."""
    expected = make_state(step)
    state = checkpoint.state
    assert checkpoint.step == step
    assert checkpoint.config == CONFIG
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(state))
    assert set(state) == {"step", "params", "batch_stats", "opt_state", "key"}
    assert type(state["params"]) is dict
    for name in ("step", "params", "batch_stats", "key"):
        assert_same(state[name], getattr(expected, name))
    assert_same(state["opt_state"][1][0]["mu"], expected.opt_state[1][0].mu)


def write_run(workdir, steps=(1, 2), best=2):
    with Checkpointer(workdir, CONFIG) as checkpointer:
        for step in steps:
            checkpointer.save(step, make_state(step), data_iterator(step))
        checkpointer.save_best(best, make_state(best), {"accuracy": best / 10})


def restore(workdir, iterator=None):
    with Checkpointer(workdir, CONFIG) as checkpointer:
        return checkpointer.restore_latest(abstract(make_state(0)), iterator or data_iterator())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with checkpoints 1 and 2, not to be changed."""
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir)
    return workdir


@pytest.fixture
def own_run(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def cut_largest(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=os.path.getsize)
    os.truncate(largest, largest.stat().st_size // 2)


def remove_state(folder):
    shutil.rmtree(folder / "state")


def remove_config(folder):
    shutil.rmtree(folder / "config")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def remove_arrays(folder):
    shutil.rmtree(folder / "state" / "d")


def cut_position(folder):
    os.truncate(next((folder / "data").iterdir()), 3)


def cut_metrics(folder):
    os.truncate(folder / "evaluation" / "metadata", 3)


STATE_DAMAGE = [cut_largest, remove_state, empty, remove_arrays]


def test_round_trip_is_bit_exact(own_run):
    iterator = data_iterator()
    step, state = restore(own_run, iterator)
    assert step == 2
    assert_same(state, make_state(2))
    assert type(state) is State
    assert type(state.opt_state[1][0]) is optax.ScaleByAdamState
    assert all(leaf.sharding == sharding() for leaf in jax.tree.leaves(state))
    assert next(iterator) == 2


def test_a_restored_state_can_be_donated(own_run):
    _, state = restore(own_run)
    advance = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    advanced = advance(state)
    assert jax.tree.leaves(state)[0].is_deleted()
    np.testing.assert_array_equal(advanced.step, 3)


def test_saved_are_the_values_at_the_call(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)
    state = make_state(1, size=128)
    expected = jax.device_get(jax.tree.map(jnp.copy, state))
    iterator = data_iterator(1)
    with Checkpointer(tmp_path, CONFIG) as checkpointer:
        checkpointer.save_best(1, state, {})
        checkpointer.save(1, state, iterator)
        for _ in range(3):
            state = overwrite(state)
            next(iterator)
        jax.block_until_ready(state)
    fresh = data_iterator()
    with Checkpointer(tmp_path, CONFIG) as checkpointer:
        _, restored = checkpointer.restore_latest(abstract(state), fresh)
    assert_same(jax.device_get(restored), expected)
    assert next(fresh) == 1
    assert_same(load_checkpoint(tmp_path / "best").state["params"], expected.params)


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "new" / "run") is None


def test_last_two_and_best_are_kept(tmp_path):
    with Checkpointer(tmp_path, CONFIG) as checkpointer:
        for step in (1, 2, 3, 4):
            checkpointer.save(step, make_state(step), data_iterator(step))
            if step < 3:
                checkpointer.save_best(step, make_state(step), {"accuracy": step})
    assert names(tmp_path / "checkpoints") == ["3", "4"]
    assert names(tmp_path / "best") == ["2"]


def test_the_best_is_on_disk_before_a_later_checkpoint(tmp_path):
    with Checkpointer(tmp_path, CONFIG) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save_best(step, make_state(step, size=128), {})
            checkpointer.save(step, make_state(step), data_iterator(step))
            assert names(tmp_path / "best") == [str(step)]


def test_saving_a_step_twice_keeps_the_first(own_run):
    with Checkpointer(own_run, CONFIG) as checkpointer:
        checkpointer.save(2, make_state(0), data_iterator())
        checkpointer.save_best(2, make_state(0), {})
    assert_loaded(load_checkpoint(own_run), 2)
    assert_loaded(load_checkpoint(own_run / "best"), 2)


def test_best_metrics_outlive_the_run(own_run, tmp_path):
    with Checkpointer(own_run, CONFIG) as checkpointer:
        assert checkpointer.best_metrics() == {"accuracy": 0.2}
    with Checkpointer(tmp_path / "new", CONFIG) as checkpointer:
        assert checkpointer.best_metrics() is None


def test_a_new_best_of_a_lower_step_replaces_the_old(own_run):
    # A run that goes on from step 1 can find a better step before the best one's.
    with Checkpointer(own_run, CONFIG) as checkpointer:
        checkpointer.save_best(1, make_state(1), {"accuracy": 0.9})
    assert names(own_run / "best") == ["1"]
    with Checkpointer(own_run, CONFIG) as checkpointer:
        assert checkpointer.best_metrics() == {"accuracy": 0.9}


@pytest.mark.parametrize("damage", [empty, cut_metrics])
def test_damaged_best_counts_as_none(own_run, caplog, damage):
    damage(own_run / "best" / "2")
    with Checkpointer(own_run, CONFIG) as checkpointer:
        assert checkpointer.best_metrics() is None
        assert "best/2 cannot be read" in caplog.text
        assert names(own_run / "best") == ["2.damaged"]
        checkpointer.save_best(2, make_state(2), {"accuracy": 0.2})
    with Checkpointer(own_run, CONFIG) as checkpointer:
        assert checkpointer.best_metrics() == {"accuracy": 0.2}


@pytest.mark.parametrize("damage", [*STATE_DAMAGE, remove_config])
def test_load_skips_a_damaged_newest_checkpoint(own_run, caplog, damage):
    damage(own_run / "checkpoints" / "2")
    assert_loaded(load_checkpoint(own_run), 1)
    assert "checkpoints/2 cannot be read" in caplog.text


@pytest.mark.parametrize("damage", [*STATE_DAMAGE, cut_position])
def test_restore_sets_a_damaged_newest_checkpoint_aside(own_run, caplog, damage):
    damage(own_run / "checkpoints" / "2")
    iterator = data_iterator()
    with Checkpointer(own_run, CONFIG) as checkpointer:
        step, state = checkpointer.restore_latest(abstract(make_state(0)), iterator)
        assert step == 1
        assert_same(state, make_state(1))
        assert next(iterator) == 1
        assert "checkpoints/2 cannot be read" in caplog.text
        assert names(own_run / "checkpoints") == ["1", "2.damaged"]
        checkpointer.save(2, make_state(2), iterator)
    assert_loaded(load_checkpoint(own_run), 2)


def test_a_whole_checkpoint_outlives_a_failed_reading(own_run, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    with Checkpointer(own_run, CONFIG) as checkpointer, monkeypatch.context() as patch:
        patch.setattr(checkpointer._best, "restore", fail)
        assert checkpointer.best_metrics() is None
    (own_run / "best" / "2.damaged").rename(own_run / "best" / "2")
    with Checkpointer(own_run, CONFIG) as checkpointer:
        assert checkpointer.best_metrics() == {"accuracy": 0.2}
    assert_loaded(load_checkpoint(own_run / "best"), 2)


@pytest.mark.parametrize("damage", [*STATE_DAMAGE, cut_position])
def test_no_whole_checkpoint(own_run, damage):
    for step in ("1", "2"):
        damage(own_run / "checkpoints" / step)
    before = sorted(own_run.rglob("*"))
    with pytest.raises(ValueError, match=r"(?s)checkpoints/2 cannot be read.*checkpoints/1.*copy"):
        restore(own_run)
    assert sorted(own_run.rglob("*")) == before


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/2", "best", "best/2"])
def test_load_without_a_target(run, place):
    assert_loaded(load_checkpoint(run / place), 2)


def test_load_of_an_older_step(run):
    assert_loaded(load_checkpoint(run / "checkpoints" / "1"), 1)


def test_load_of_a_workdir_whose_name_is_a_number(run, tmp_path):
    shutil.copytree(run, tmp_path / "7")
    assert_loaded(load_checkpoint(tmp_path / "7"), 2)


def test_load_of_a_relative_path(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert_loaded(load_checkpoint(run.name), 2)


def test_load_writes_nothing(run):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    load_checkpoint(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_load_of_what_is_no_checkpoint(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "unstarted" / "checkpoints").mkdir(parents=True)
    (tmp_path / "12").mkdir()
    for name, message in {
        "missing": "missing is not a folder; name",
        "file": "file is not a folder; name",
        "empty": "empty holds no checkpoint; name",
        "unstarted": "unstarted holds no checkpoint; name",
        "12": "(?s)12 cannot be read.*restore",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("damage", [*STATE_DAMAGE, remove_config])
def test_load_of_a_damaged_step(own_run, damage):
    damage(own_run / "checkpoints" / "2")
    with pytest.raises(ValueError, match=r"(?s)checkpoints/2 cannot be read.*restore"):
        load_checkpoint(own_run / "checkpoints" / "2")


@pytest.mark.parametrize("keep", [None, 0.0, 0.5], ids=["deleted", "emptied", "halved"])
def test_no_truncated_file_goes_unnoticed(run, tmp_path, keep):
    noticed = 0
    original = run / "checkpoints" / "2"
    for file in (path for path in original.rglob("*") if path.is_file()):
        copy = Path(shutil.copytree(original, tmp_path / "2", dirs_exist_ok=True))
        damaged = copy / file.relative_to(original)
        if keep is None:
            damaged.unlink()
        else:
            os.truncate(damaged, int(keep * file.stat().st_size))
        try:
            # Some files are not needed to read: then every value must be there.
            assert_loaded(load_checkpoint(copy), 2)
        except ValueError:
            noticed += 1
    assert noticed >= 4


def test_another_config_is_refused(own_run):
    other = {**CONFIG, "seed": 1, "train": {"epochs": 3}}
    with pytest.raises(ValueError, match="holds a run of another config") as error:
        Checkpointer(own_run, other)
    message = str(error.value)
    assert str(own_run) in message
    assert "--workdir" in message
    assert message.splitlines()[1:-1] == [
        "  seed: 0 there, 1 here",
        "  train.epochs: 'absent' there, 3 here",
        "  train.steps: 100 there, 'absent' here",
    ]


@pytest.mark.parametrize("present", ["checkpoints", "best"])
def test_either_folder_tells_the_config(own_run, present):
    shutil.rmtree(own_run / {"best": "checkpoints", "checkpoints": "best"}[present])
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        Checkpointer(own_run, {**CONFIG, "seed": 1})


def test_keys_that_may_differ(own_run):
    other = {**CONFIG, "seed": 1, "train": {"steps": 5, "steps_per_log": 2}}
    Checkpointer(own_run, other, may_differ=("seed", "train")).close()
    # A key stands for itself and those below it, not for those it is the beginning of.
    with pytest.raises(ValueError, match=r"train\.steps_per_log") as error:
        Checkpointer(own_run, other, may_differ=("seed", "train.steps"))
    assert "train.steps:" not in str(error.value)


def test_one_string_is_no_list_of_keys(own_run):
    with pytest.raises(ValueError, match=r"may_differ is 'seed'; it must be a list of names"):
        Checkpointer(own_run, CONFIG, may_differ="seed")


def test_tuples_equal_the_lists_json_makes_of_them(own_run):
    Checkpointer(own_run, {**CONFIG, "model": {"channels": (8, 16), "groups": 4}}).close()


def test_a_workdir_that_cannot_be_written(tmp_path):
    # A parent that is a file stands for missing permissions, which do not bind for root.
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot write to .*file/run.*--workdir"):
        Checkpointer(tmp_path / "file" / "run", CONFIG)


def test_a_checkpoints_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(ValueError, match=r"cannot write to .*/checkpoints.*--workdir"):
        Checkpointer(tmp_path, CONFIG)


def test_leftovers_of_a_kill_are_ignored_and_removed(own_run):
    shutil.copytree(
        own_run / "checkpoints" / "2", own_run / "checkpoints" / "3.orbax-checkpoint-tmp"
    )
    assert_loaded(load_checkpoint(own_run), 2)
    with Checkpointer(own_run, CONFIG) as checkpointer:
        assert checkpointer.restore_latest(abstract(make_state(0)), data_iterator())[0] == 2
        checkpointer.save(3, make_state(3), data_iterator(3))
    assert names(own_run / "checkpoints") == ["2", "3"]


@pytest.mark.slow
def test_killed_while_saving(tmp_path):
    generator = random.Random(0)
    workdir = tmp_path / "run"
    reached = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, str(RUNS), str(workdir)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        for _ in range(3):
            assert int(process.stdout.readline()) > reached
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=30)
        checkpoint = load_checkpoint(workdir)
        assert checkpoint.step > reached
        assert_loaded(checkpoint, checkpoint.step)
        best = load_checkpoint(workdir / "best")
        assert_loaded(best, best.step)
        # The best is never older than the checkpoint that training goes on from.
        assert best.step >= checkpoint.step
        reached = checkpoint.step
    iterator = data_iterator()
    step, state = restore(workdir, iterator)
    assert_same(state, make_state(step))
    assert next(iterator) == step


def test_a_sharded_checkpoint_loads_on_one_device(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(RUNS.parent)!r})
import jax
from runs import CONFIG, data_iterator, make_state, sharding
from mdeq_jax.training.checkpoints import Checkpointer
assert jax.device_count() == 2
state = make_state(1)
state.params["stem"] = jax.device_put(state.params["stem"], sharding(None))
state.params["head"] = jax.device_put(state.params["head"], sharding("data"))
with Checkpointer({str(tmp_path)!r}, CONFIG) as checkpointer:
    checkpointer.save(1, state, data_iterator(1))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **flags}, check=True)
    assert_loaded(load_checkpoint(tmp_path), 1)


def test_a_run_is_quiet_and_its_threads_end(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(RUNS.parent)!r})
from runs import CONFIG, abstract, data_iterator, make_state
from mdeq_jax.training.checkpoints import Checkpointer, load_checkpoint
for step in (1, 2, 3):
    with Checkpointer({str(tmp_path)!r}, CONFIG) as checkpointer:
        checkpointer.restore_latest(abstract(make_state(0)), data_iterator())
        checkpointer.best_metrics()
        checkpointer.save_best(step, make_state(step), {{}})
        checkpointer.save(step, make_state(step), data_iterator(step))
    load_checkpoint({str(tmp_path)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=60, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
