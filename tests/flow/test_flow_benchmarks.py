"""The measurements of DEQ-Flow's claims run at the size of a toy, and the stereo pair is right."""

import cv2
import jax
import numpy as np
import pytest

from benchmarks import flow_settings
from benchmarks.flow_memory import equilibrium, measure_memory, recurrent
from benchmarks.flow_settings import FACTORS, settings, summarise, train_and_evaluate
from benchmarks.flow_streams import errors_of_stereo, steps_of_films, stereo_pair
from benchmarks.results import Results
from mdeq_jax.flow.config import Config
from mdeq_jax.flow.experiment import create_experiment
from mdeq_jax.flow.model.config import ModelConfig
from mdeq_jax.training.config import override
from mdeq_jax.training.weights import Trained

TOY = ModelConfig(
    encoder=(4, 4, 8),
    features=8,
    hidden=8,
    correlation=(8, 8),
    flow=(8, 8),
    motion=8,
    head=8,
    mask=8,
    levels=2,
    radius=1,
)


@pytest.fixture
def config():
    changes = {
        "data.crop": (32, 32),
        "data.batch_size": 8,  # one pair for each of the devices of the tests
        "data.eval_batch_size": 8,
        "data.eval_scenes": 8,
        "train.steps": 1,
        "solver.forward.max_steps": 2,
        "correction.states": 2,
    }
    return override(Config(model=TOY), changes)


@pytest.fixture
def trained(config):
    return Trained(create_experiment(config).init(jax.random.key(0)), config, 0)


def test_rows_in_the_file_are_not_measured_again(tmp_path):
    path = tmp_path / "runs/rows.jsonl"
    found = Results(path).find({"seed": 0}, lambda: {"epe": 1.5})
    again = Results(path)
    assert again.find({"seed": 0}, lambda: {"epe": 2.5}) == found == {"seed": 0, "epe": 1.5}
    assert again.find({"seed": 1}, lambda: {"epe": 2.5})["epe"] == 2.5
    assert len(path.read_text().splitlines()) == 2


def test_the_control_has_a_loss_on_each_application():
    config = override(Config(), recurrent(36))
    assert config.train.unrolled_at(10**6) == 36
    assert config.correction.sample_at(36) == tuple(range(1, 36))


def test_an_equilibrium_keeps_the_number_of_steps():
    config = override(Config(), equilibrium(36, states=6, phantom_steps=3))
    assert config.correction.sample_at(config.solver.forward.max_steps) == (6, 12, 18, 24, 30)
    assert config.adjoint.phantom().steps == 3


def test_settings_take_the_same_number_of_steps():
    for changes in settings(Config()).values():
        config = override(Config(), changes)
        steps = config.train.unrolled_at(0) or config.solver.forward.max_steps
        assert steps == Config().solver.forward.max_steps


def test_the_summary_has_means_over_the_seeds():
    names = ("epe", "epe_zero", "residual")
    keys = [f"{state}/{name}_{k}" for state in ("last", "best") for name in names for k in FACTORS]
    rows = [{"setting": "equilibrium", **dict.fromkeys(keys, value)} for value in (1.0, 3.0)]
    first = summarise(rows)[0]
    assert (first["seeds"], first["last_epe"], first["last_epe_std"]) == (2, 2.0, 1.0)


@pytest.mark.parametrize("width", [96, 128])
def test_the_flow_of_the_stereo_pair_leads_to_the_same_point(width):
    pytest.importorskip("skimage")
    left, right, flow, valid = stereo_pair(width)
    assert left.shape[:2] == right.shape[:2] == valid.shape
    assert (flow[..., 0][valid] < 0).all()
    assert not flow[..., 1].any()
    x, y = np.meshgrid(np.arange(width), np.arange(len(left)))

    def difference(flow):
        places = (np.stack([x, y], axis=-1) + flow).astype(np.float32)
        moved = cv2.remap(right, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.abs(moved.astype(float) - left)[valid].mean()

    assert difference(flow) < 0.5 * min(difference(0 * flow), difference(-flow))


@pytest.mark.slow
def test_memory_grows_with_applications_only_in_the_control(config, tmp_path):
    rows = measure_memory(Results(tmp_path / "memory.jsonl"), config, (2, 4), ((2, 1),))
    single, few, solved_few, many, solved_many = (row["temp_mib"] for row in rows)
    assert single < few < many
    assert solved_many == pytest.approx(solved_few, rel=0.05)
    assert rows[-1]["over"] == many / solved_many


@pytest.mark.slow
def test_the_control_is_trained_and_then_solved(config, tmp_path, monkeypatch):
    monkeypatch.setattr(flow_settings, "FACTORS", (1, 3))
    found = train_and_evaluate(override(config, settings(config)["recurrent"]), tmp_path)
    (first, *_) = summarise([{"setting": "recurrent", **found}])
    # One training step and two applications of a fresh cell move little.
    assert first["last_epe"] == pytest.approx(first["epe_zero"], rel=0.5)
    # With the tolerance 0 the solver returns the iterate with the lowest residual.
    assert found["best/residual_3"] <= found["best/residual_1"]


@pytest.mark.slow
def test_films_are_solved_from_cold_and_warm_starts(trained):
    options = {"films": 2, "frames": 4, "max_steps": 3}
    tight, loose = steps_of_films(trained, (0.0, 1e9), **options)
    assert tight["pairs"] == loose["pairs"] == 2 * (4 - 2)  # the first pair of a film starts cold
    assert (tight["cold_steps"], tight["warm_steps"]) == (3, 3)
    assert tight["warm_converged"] == tight["cold_converged"] == 0
    assert loose["warm_converged"] == loose["cold_converged"] == 1
    assert tight["cold_epe"] != tight["warm_epe"]  # a warm start has taken steps before


@pytest.mark.slow
def test_errors_of_the_stereo_pair(trained):
    pytest.importorskip("skimage")
    (row,) = errors_of_stereo(trained, (64,), max_steps=1)
    assert (row["width"], row["height"]) == (64, 40)
    *_, flow, valid = stereo_pair(64)
    u = flow[..., 0][valid]
    assert row["epe_zero"] == pytest.approx(-u.mean(), rel=1e-5)
    assert row["epe_mean"] == pytest.approx(np.abs(u - u.mean()).mean(), rel=1e-5)
