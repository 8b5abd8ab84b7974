"""The training loop knows an experiment by the protocol alone: carries, scores, evaluations."""

import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import interrupted_after, take_steps
from small import LENGTH, ROWS, Config, Line, Streams

from mdeq_jax.solvers import Broyden, Picard
from mdeq_jax.solvers.initial import initial_state
from mdeq_jax.training import loaders
from mdeq_jax.training.checkpoints import load_checkpoint
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import solver_traces
from mdeq_jax.training.experiment import Evaluation, Forward, Score
from mdeq_jax.training.loop import train
from mdeq_jax.training.weights import load_matching

TRAINING = Path(__file__).parents[2] / "mdeq_jax" / "training"
EXACT = {"solver.forward.tol": 1e-12, "solver.backward.tol": 1e-12}


def test_a_carry_follows_its_rows_on_any_number_of_devices_and_in_microbatches(x64):
    states = {}
    for devices, parts in ((1, 1), (8, 1), (8, 2)):
        config = override(Config(), {**EXACT, "train.accumulate_steps": parts})
        experiment = Streams(config)
        state, metrics = states[devices, parts] = take_steps(experiment, devices, LENGTH - 1)
        # The streams of odd rows began at step LENGTH // 2 anew, all others at step 0.
        begun = np.where(np.arange(ROWS) % 2 == 1, LENGTH // 2, 0)
        x = experiment.x.reshape(ROWS, LENGTH)[:, : LENGTH - 1]
        since = np.arange(LENGTH - 1) >= begun[:, None]
        np.testing.assert_array_equal(state.carry["steps"], LENGTH - 1 - begun)
        np.testing.assert_allclose(state.carry["sum"][:, 0], (x * since).sum(1), rtol=1e-12)
        assert {s.data.shape for s in state.carry["m"].addressable_shards} == {(ROWS // devices, 1)}
        assert state.collections["counts"]["steps"] == parts * (LENGTH - 1)
    one, loss = jax.device_get(states[1, 1])
    for state, metrics in jax.device_get(list(states.values())):
        np.testing.assert_allclose(metrics["loss"], loss["loss"], rtol=1e-9)
        for a, b in zip(*map(jax.tree.leaves, (state.params, one.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
        np.testing.assert_allclose(state.carry["m"], one.carry["m"], rtol=1e-8)


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, monkeypatch):
    changes = {"train.steps": LENGTH + 2, "optim.ema_decay": 0.9, "optim.name": "adam"}
    config = override(Config(), changes)
    whole = train(Streams(config), tmp_path / "whole")
    # In the middle of a stream, so that the carry matters.
    interrupted_after(monkeypatch, Streams(config), tmp_path / "parts", last=LENGTH - 2)
    resumed = train(Streams(config), tmp_path / "parts")
    assert resumed.metrics["resumed_from_step"] == LENGTH - 2
    assert jax.tree.structure(resumed.state) == jax.tree.structure(whole.state)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    assert resumed.metrics["eval/error"] == whole.metrics["eval/error"]


def test_evaluation_starts_with_a_fresh_carry_and_passes_it_on(x64, tmp_path):
    experiment = Streams(override(Config(), {**EXACT, "data.eval_batch_size": ROWS}))

    class Ordered(Streams):
        """Two steps of every stream; the outputs are the sums in the carry."""

        def evaluations(self):
            rows = [row * LENGTH + step for step in range(2) for row in range(ROWS)]
            return {
                "eval": Evaluation(lambda: eval_rows(rows), max_steps=5),
                "again": Evaluation(lambda: eval_rows(rows[ROWS:]), max_steps=5),
            }

        def predict(self, variables, batch, layer, carry):
            prediction = super().predict(variables, batch, layer, carry)
            return prediction._replace(outputs=prediction.carry["sum"])

        def sums(self, outputs, batch):
            return {"outputs": outputs.sum()}

        def summarize(self, sums):
            return {"error": float(sums["outputs"])}

    def eval_rows(rows):
        return loaders.eval_batches(rows, experiment.example, experiment.config.data)

    metrics = train(Ordered(experiment.config), tmp_path).metrics
    x = experiment.x.reshape(ROWS, LENGTH)
    assert metrics["eval/error"] == pytest.approx((2 * x[:, 0] + x[:, 1]).sum(), rel=1e-9)
    assert metrics["again/error"] == pytest.approx(x[:, 1].sum(), rel=1e-9)


class Replacing(Line):
    """Its forward pass replaces the targets by numbers that are 5 larger."""

    def forward(self, variables, batch, layer, **_):
        outputs = super().forward(variables, batch, layer, train=True).outputs
        return Forward(outputs, batch={**batch, "y": batch["y"] + 5})


def test_the_loss_sees_the_rows_of_the_forward_pass(x64):
    experiment = Replacing()
    _, metrics = take_steps(experiment, 1, 1)
    expected = ((experiment.x - experiment.y - 5) ** 2).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-9)


class Scored(Line):
    """An experiment whose score takes prescribed values."""

    def __init__(self, values, config, higher_is_better=False):
        super().__init__(config)
        self.values, self.score = iter(values), Score("eval/error", higher_is_better)

    def summarize(self, sums):
        return {"error": next(self.values)}


@pytest.mark.parametrize(
    ("values", "higher_is_better", "best"),
    [
        ((-1.0, -3.0, -2.0), False, 2),
        ((5.0, 7.0, 9.0), False, 1),
        ((math.nan, 9.0, 10.0), False, 2),
        ((2.0, math.nan, 3.0), False, 1),
        ((-9.0, -5.0, -7.0), True, 2),
        ((0.0, 0.0, 0.0), True, 1),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_score(values, higher_is_better, best, tmp_path):
    config = override(Config(), {"train.steps": 3, "train.eval_every": 1})
    train(Scored(values, config, higher_is_better), tmp_path)
    assert load_checkpoint(tmp_path / "best").step == best


def test_the_best_score_outlives_an_interruption(tmp_path, monkeypatch):
    config = override(Config(), {"train.steps": 4, "train.eval_every": 1})
    interrupted_after(monkeypatch, Scored([-1.0, -3.0], config), tmp_path, last=2)
    train(Scored([-2.0, -1.0], config), tmp_path)
    assert load_checkpoint(tmp_path / "best").step == 2


class Halving(Line):
    """z* = z*/2 + x, which is 2 x; k plain steps from 0 leave 2 x / 2^k."""

    def __init__(self, config):
        super().__init__(config)
        self.y = 2 * self.x

    def forward(self, variables, batch, layer, **_):
        solution = layer(lambda z, x: z / 2 + x, jnp.zeros_like(batch["x"]), batch["x"])
        return Forward(solution.z, solution)

    def evaluations(self):
        rows = lambda: loaders.eval_batches(range(ROWS), self.example, self.config.data)  # noqa: E731
        return {
            "eval": Evaluation(rows),
            "few": Evaluation(rows, max_steps=3),
            "secant": Evaluation(rows, solver=Broyden(max_steps=9, tol=1e-4)),
            "short": Evaluation(rows, solver=Broyden(max_steps=9, tol=1e-4), max_steps=1),
            "drawn": Evaluation(
                rows, solver=Picard(max_steps=3, stop_mode="abs"), initial_state="normal"
            ),
        }


def test_every_evaluation_has_a_solver_and_a_limit_of_its_own(tmp_path):
    changes = {"solver.forward.name": "picard", "solver.forward.tol": 1e-4, "train.steps": 1}
    experiment = Halving(override(Config(), changes))
    metrics = train(experiment, tmp_path).metrics
    # The relative residual after k steps is 2^-k / (2 − 2^-k).
    assert metrics["eval/solver_steps"] == 13
    assert metrics["eval/converged"] == metrics["secant/converged"] == 1
    assert metrics["few/solver_steps"] == 3
    assert metrics["few/converged"] == 0
    assert metrics["few/residual"] == pytest.approx(1 / 15, rel=1e-5)
    assert metrics["few/error"] == pytest.approx((experiment.x**2).mean() / 16, rel=1e-5)
    assert metrics["secant/solver_steps"] == 2
    assert metrics["short/solver_steps"] == 1
    start = initial_state(jax.random.key(0), experiment.x, "normal")
    left = (start - 2 * experiment.x) / 8
    assert metrics["drawn/error"] == pytest.approx(float((left**2).mean()), rel=1e-4)


def test_without_an_equilibrium_and_with_a_parameter_of_the_loss(tmp_path):
    experiment = Line(override(Config(), {"train.steps": 400}))
    trained = train(experiment, tmp_path)
    x, y = experiment.x[:, 0], experiment.y[:, 0]
    # Least squares; the loss is then least where s is the logarithm of the squared error.
    w = x @ y / (x @ x)
    s = np.log(((w * x - y) ** 2).mean())
    assert trained.state.params["w"] == pytest.approx(w, rel=1e-3)
    assert trained.state.params["s"] == pytest.approx(s, abs=1e-3)
    assert trained.state.collections == {}
    assert trained.state.carry == ()
    error = ((w * x - y)[:-1] ** 2).mean()  # without the row that is padding
    assert trained.metrics["eval/error"] == pytest.approx(error, rel=1e-3)
    assert trained.metrics["eval/examples"] == ROWS - 1
    assert "eval/solver_steps" not in trained.metrics


def test_training_unrolls_before_it_solves(tmp_path):
    unrolled = {"pretrain_steps": 2, "num_layers": 3, "steps": 5, "log_every": 1}
    train(Streams(override(Config(), {f"train.{k}": v for k, v in unrolled.items()})), tmp_path)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    found = [line["train/phase"] for line in lines if "train/phase" in line]
    assert found == ["unrolled"] * 2 + ["solve"] * 3


def test_the_average_of_the_parameters_is_evaluated(tmp_path):
    experiment = Line(override(Config(), {"train.steps": 2, "optim.ema_decay": 0.15}))
    first, _ = take_steps(experiment, 1, 1)
    trained = train(experiment, tmp_path)
    one, two = float(first.params["w"]), float(trained.state.params["w"])
    ema = 1 + 0.9 * (one - 1)  # the decay is at most 1 / 10 at first, then 2 / 11
    ema = ema + 0.85 * (two - ema)
    assert trained.state.ema["w"] == pytest.approx(ema, rel=1e-5)
    x, y = experiment.x[:-1], experiment.y[:-1]
    assert trained.metrics["eval/error"] == pytest.approx(((ema * x - y) ** 2).mean(), rel=1e-5)


def test_a_run_starts_from_the_weights_of_another(tmp_path):
    source = train(Line(Config()), tmp_path / "source")
    # A step so small that no parameter moves.
    changes = {"init_from": str(tmp_path / "source"), "optim.learning_rate": 1e-30}
    config = override(Config(), {**changes, "train.steps": 1, "optim.learning_rate_floor": 0.0})
    trained = train(Line(config), tmp_path / "other")
    assert trained.metrics["params_sha256"] == source.metrics["params_sha256"]
    assert trained.metrics["resumed_from_step"] == 0


def test_weights_are_taken_where_name_and_shape_agree(tmp_path):
    workdir = str(tmp_path)
    train(Line(Config()), tmp_path)
    stored = load_checkpoint(workdir).state["params"]
    wider = {"params": {"w": jnp.ones(()), "s": jnp.zeros(2)}}
    with pytest.raises(ValueError, match="nothing that fits params/s"):
        load_matching(wider, workdir)
    variables, left = load_matching(wider, workdir, ["params/s*"])
    assert left == ["params/s"]
    assert variables["params"]["w"] == stored["w"] != 1
    np.testing.assert_array_equal(variables["params"]["s"], np.zeros(2))
    with pytest.raises(ValueError, match=r"nothing in .* fits this model"):
        load_matching({"params": {"other": jnp.ones(3)}}, workdir, ["*"])
    with pytest.raises(ValueError, match="not a folder"):
        load_matching(wider, str(tmp_path / "nowhere"))


def test_a_skipped_step_still_begins_streams_anew():
    experiment = Streams(override(Config(), {"train.on_nonfinite": "skip"}))
    experiment.y[LENGTH // 2 :: LENGTH] = np.nan  # where the streams of odd rows begin anew
    state, metrics = take_steps(experiment, 1, LENGTH // 2 + 1)
    assert not np.isfinite(metrics["loss"])
    np.testing.assert_array_equal(state.carry["steps"], np.where(np.arange(ROWS) % 2, 0, 3))
    assert np.isfinite(state.carry["m"]).all()


@pytest.mark.parametrize("dropped", [{"carry": ()}, {"collections": {}}])
def test_a_forward_pass_that_drops_what_it_was_given_is_refused(dropped):
    class Dropping(Streams):
        def forward(self, *inputs, **options):
            return super().forward(*inputs, **options)._replace(**dropped)

    with pytest.raises(ValueError, match=f"forward returned {next(iter(dropped))} of"):
        take_steps(Dropping(), 1, 1)


def test_both_solves_are_traced_where_there_is_an_equilibrium():
    for experiment in (Streams(), Line()):
        variables = experiment.init(jax.random.key(0))
        batch = next(experiment.evaluations()["eval"].batches())
        if isinstance(experiment, Streams):
            forward, backward = solver_traces(experiment, variables, batch)
            assert forward.shape == (18, ROWS)
            assert backward.shape == (20, ROWS)
            assert np.nanmin(forward, axis=0).max() < 1e-3
        else:
            with pytest.raises(ValueError, match="no equilibrium"):
                solver_traces(experiment, variables, batch)


@pytest.mark.parametrize("path", sorted(TRAINING.glob("*.py")), ids=lambda path: path.name)
def test_training_knows_no_application(path):
    text = path.read_text()
    assert not re.findall(r"\b\w*image\w*\b", text, re.IGNORECASE)
    assert not re.findall(r"MDEQ|mdeq(?!_jax)|vision", text)
