"""A comparison of a tiny model from end to end, and what is measured of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bases import tiny
from invoke import invoke

from mdeq_jax import DEQ, Picard
from mdeq_jax.applications import create_experiment
from mdeq_jax.commands.compare import run
from mdeq_jax.comparison.compare import compare
from mdeq_jax.comparison.measure import STEP_LIMITS, TOLERANCES, cosine, measure_gradient, silence
from mdeq_jax.comparison.runs import read_result
from mdeq_jax.comparison.settings import plan
from mdeq_jax.training.mesh import create_mesh
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.state import create_state, place_state
from mdeq_jax.vision.config import override

TABLE = {
    "base": {"base": {}},
    "stem": {"unknown data": {"data.name": "digit"}},
    "explicit": {
        "ResNet": {
            "app": "baseline",
            "model": {"kind": "resnet", "width": 4},
        }
    },
    "gradients": {"shine": {"adjoint.name": "shine", "solver.forward.name": "broyden"}},
    "silenced": {"silenced": {}},
    "latency": {"latency": {}},
}
GROUPS = ("stem", "explicit", "gradients", "silenced", "latency")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Folder of the data set, which is written once."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def base(scratch):
    """The config, which evaluates the spectral radius as `compare` has it by default."""
    return override(tiny(scratch), {"train.log_every": 1, "train.spectral_radius_iterations": 30})


@pytest.fixture(scope="module")
def finished(scratch, base):
    """Workdir and final line of a comparison."""
    workdir = scratch / "compared"
    return workdir, compare(base, workdir, GROUPS, "the command", TABLE)


@pytest.fixture(scope="module")
def rows(finished, base):
    """Metrics by setting and row."""
    workdir, _ = finished
    settings = plan(base, GROUPS, TABLE)
    return {setting.name: read_result(setting.run, workdir).rows for setting in settings}


@pytest.mark.slow
def test_the_final_line_and_the_files(finished):
    workdir, final = finished
    assert (final["runs"], final["reused"], final["failed"], final["skipped"]) == (6, 0, 1, 0)
    report = (workdir / "report.md").read_text()
    assert "the command" in report
    assert "- unknown data: failed: config.data.name is 'digit'; it must be one of" in report
    assert (workdir / "report.png").stat().st_size > 10_000
    assert (workdir / "base/base/checkpoints").is_dir()


@pytest.mark.slow
def test_a_second_run_trains_nothing(finished, base):
    workdir, _ = finished
    before = (workdir / "report.md").read_text()
    final = compare(base, workdir, GROUPS, "the command", TABLE)
    assert (final["runs"], final["reused"]) == (6, 5)  # what failed is tried again
    assert (workdir / "report.md").read_text() == before


@pytest.mark.slow
def test_what_is_measured(rows):
    base, resnet = rows["base"][""], rows["ResNet"][""]
    for row in (base, resnet):
        assert 0 <= row["eval/accuracy"] <= 1
        assert 1 < row["eval/loss"] < 5
        assert row["train/device_step_s"] > 0
        assert row["memory_bytes"] > 1000
    assert resnet["parameters"] > 1000
    assert (base["eval/solver_steps"], resnet["eval/block_evaluations"]) == (6, 8)
    assert base["train/adjoint_steps"] > 5
    assert base["train/gradient_error"] > 0
    assert base["eval/spectral_radius"] > 0
    assert "cosine" not in resnet


@pytest.mark.slow
def test_a_cheaper_gradient_is_not_the_exact_one(rows):
    shine = rows["shine"][""]
    assert shine["reference_residual"] < 1e-4
    assert 0 < shine["cosine_cell"] < 0.99
    assert shine["train/adjoint_steps"] == 0


@pytest.mark.slow
def test_the_only_scale_silenced_leaves_the_image_out(rows):
    whole, without = (rows["silenced"][name] for name in ("none", "scale 0"))
    assert without["eval/solver_steps"] == 0
    assert whole["eval/loss"] == pytest.approx(rows["base"][""]["eval/loss"], abs=1e-5)
    # The head sees the same of every image: one class is right for a tenth of them.
    assert 0.05 < without["eval/accuracy"] < 0.15


@pytest.mark.slow
def test_limits_are_kept_and_the_own_limit_is_the_base(rows):
    limits = rows["latency"]
    assert list(limits) == [
        *(f"step limit {n}" for n in STEP_LIMITS),
        *(f"tolerance {tol:g}" for tol in TOLERANCES),
    ]
    for n in STEP_LIMITS:
        assert limits[f"step limit {n}"]["eval/solver_steps"] <= n
    base = rows["base"][""]
    assert limits["step limit 6"]["eval/loss"] == pytest.approx(base["eval/loss"], abs=1e-5)
    steps = [limits[f"tolerance {tol:g}"]["eval/solver_steps"] for tol in TOLERANCES]
    assert steps == sorted(steps)
    assert all(row["batch_s"] > 0 for row in limits.values())


@pytest.mark.slow
def test_the_exact_gradient_is_exact(base):
    experiment = create_experiment(base)
    state = create_state(experiment, create_optimizer(base.optim, 10, 5))
    row = measure_gradient(base, place_state(state, create_mesh()))
    assert row["reference_residual"] < 1e-4
    assert row["cosine"] == pytest.approx(1, abs=1e-4)
    assert row["cosine_cell"] == pytest.approx(1, abs=1e-4)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert row["parameters"] == count


def test_a_silenced_branch_is_zero():
    def f(z, args):
        return tuple(args * h + 1 for h in z)

    z = (jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    layer = DEQ(Picard(max_steps=60, tol=1e-6))
    silenced = silence(layer, 1)(f, z, jnp.asarray(0.5)).z
    np.testing.assert_allclose(silenced[0], np.full((2, 3), 2.0), rtol=1e-5)
    np.testing.assert_array_equal(silenced[1], np.zeros((2, 4)))
    whole = silence(layer, None)(f, z, jnp.asarray(0.5)).z
    np.testing.assert_allclose(whole[1], np.full((2, 4), 2.0), rtol=1e-5)


def test_the_cosine_of_trees():
    a = {"x": jnp.array([3.0, 0.0]), "y": jnp.array([[4.0]])}
    b = {"x": jnp.array([1.0, 0.0]), "y": jnp.array([[0.0]])}
    assert cosine(a, a) == pytest.approx(1)
    assert cosine(a, b) == pytest.approx(0.6)


def test_an_unknown_group_ends_in_one_line(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--groups=solvers,stems"]
    assert invoke(run, "--config=digits", *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no group stems; groups are base, gradients" in err
    assert "Did you mean stem?" in err
    assert err.count("\n") == 1
