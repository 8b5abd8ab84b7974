"""A comparison of a tiny model from end to end, and what is measured of it."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import ROOT, tiny

from mdeq_jax.comparison.baselines import BASELINES, ResNet
from mdeq_jax.comparison.cells import read_result
from mdeq_jax.comparison.examine import silence
from mdeq_jax.comparison.measure import cosine, measure
from mdeq_jax.comparison.run import compare
from mdeq_jax.comparison.settings import Setting, plan
from mdeq_jax.comparison.train_baseline import train_baseline
from mdeq_jax.vision.load import Trained
from mdeq_jax.vision.model import create_model

TABLE = (
    Setting("base", "base"),
    Setting("stem", "unknown data", {"data.name": "digit"}),
    Setting("explicit", "ResNet", kind="resnet"),
    Setting("gradients", "shine", {"adjoint.name": "shine", "solver.forward.name": "broyden"}),
    Setting("silenced", "silenced", kind="silenced"),
)
GROUPS = ("stem", "explicit", "gradients", "silenced")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Folder of the data set, which is written once."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def finished(scratch):
    """Workdir and final line of a comparison."""
    workdir = scratch / "compared"
    return workdir, compare(tiny(scratch), workdir, GROUPS, "the command", TABLE)


def rows(workdir):
    """Measurements by setting."""
    planned = plan(tiny(workdir.parent), GROUPS, TABLE)
    return {row.setting.name: read_result(row.cell, workdir).measurements for row in planned}


@pytest.mark.slow
def test_the_final_line_and_the_files(finished):
    workdir, final = finished
    assert (final["cells"], final["run"], final["failed"]) == (5, 5, 1)
    report = (workdir / "report.md").read_text()
    assert "the command" in report
    assert "- unknown data: failed: config.data.name is 'digit'; it must be one of" in report
    assert (workdir / "report.png").stat().st_size > 10_000
    assert (workdir / "base/base/checkpoints").is_dir()


@pytest.mark.slow
def test_a_second_run_trains_nothing(finished):
    workdir, _ = finished
    before = (workdir / "report.md").read_text()
    final = compare(tiny(workdir.parent), workdir, GROUPS, "the command", TABLE)
    assert (final["run"], final["reused"]) == (1, 4)  # what failed is tried again
    assert (workdir / "report.md").read_text() == before


@pytest.mark.slow
def test_what_is_measured(finished):
    workdir, _ = finished
    measured = rows(workdir)
    (base,), (resnet,) = measured["base"], measured["ResNet"]
    for row in (base, resnet):
        assert 0 <= row.accuracy <= 1
        assert 1 < row.loss < 5
        assert row.cost.forward_s > 0
        assert row.cost.backward_s > 0
        assert row.cost.memory_bytes > 1000
    assert resnet.parameters == pytest.approx(base.parameters, rel=0.15)
    assert (base.forward_steps, resnet.forward_steps) == (6, 8)
    assert base.backward_steps > 5
    assert 0 < base.radius_mean <= base.radius_max
    assert resnet.cosine is None


@pytest.mark.slow
def test_a_cheaper_gradient_is_not_the_exact_one(finished):
    workdir, _ = finished
    (shine,) = rows(workdir)["shine"]
    assert shine.reference_residual < 1e-4
    assert 0 < shine.cosine_cell < 0.99
    assert shine.backward_steps == 0


@pytest.mark.slow
def test_the_only_scale_silenced_leaves_the_image_out(finished):
    workdir, _ = finished
    whole, without = rows(workdir)["silenced"]
    assert (whole.name, without.name) == ("none", "scale 0")
    assert without.forward_steps == 0
    (base,) = rows(workdir)["base"]
    assert whole.loss == pytest.approx(base.loss, abs=1e-5)
    # The head sees the same of every image: one class is right for a tenth of them.
    assert 0.05 < without.accuracy < 0.15


@pytest.mark.slow
def test_the_exact_gradient_is_exact(scratch):
    config = tiny(scratch)
    model = create_model(config.model)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    metrics = {"eval/accuracy": 0.5, "eval/loss": 2.0, "eval/solver_steps": 6.0}
    row = measure(Trained(variables, config, 1), metrics)
    assert (row.accuracy, row.loss, row.forward_steps) == (0.5, 2.0, 6.0)
    assert row.reference_residual < 1e-4
    assert row.cosine == pytest.approx(1, abs=1e-4)
    assert row.cosine_cell == pytest.approx(1, abs=1e-4)


def test_a_baseline_is_trained_and_measured(monkeypatch, scratch):
    monkeypatch.setitem(BASELINES, "resnet", functools.partial(ResNet, blocks=1))
    row = train_baseline("resnet", tiny(scratch))
    assert 0 <= row.accuracy <= 1
    assert 1 < row.loss < 5
    assert row.forward_steps == 1
    assert row.cost.memory_bytes > 1000


def test_a_silenced_branch_is_zero():
    def f(z, args):
        return tuple(args * h + 1 for h in z)

    z = (jnp.ones((2, 3)), jnp.ones((2, 4)))
    silenced = silence(f, 1)(z, 2.0)
    np.testing.assert_array_equal(silenced[0], np.full((2, 3), 3.0))
    np.testing.assert_array_equal(silenced[1], np.zeros((2, 4)))
    jax.tree.map(np.testing.assert_array_equal, silence(f, None)(z, 2.0), f(z, 2.0))


def test_the_cosine_of_trees():
    a = {"x": jnp.array([3.0, 0.0]), "y": jnp.array([[4.0]])}
    b = {"x": jnp.array([1.0, 0.0]), "y": jnp.array([[0.0]])}
    assert cosine(a, a) == pytest.approx(1)
    assert cosine(a, b) == pytest.approx(0.6)


def test_an_unknown_group_ends_in_one_line(tmp_path):
    command = [sys.executable, "-m", "mdeq_jax.commands.compare", "--config=configs/digits.py"]
    flags = [f"--workdir={tmp_path}", "--groups=solvers,stems"]
    ended = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no group stems; groups are base, gradients" in ended.stderr
    assert "Did you mean stem?" in ended.stderr
    assert "Traceback" not in ended.stderr
