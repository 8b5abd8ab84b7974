"""Equilibrium reasoning as an experiment: scores, segments, evaluations and resuming."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import interrupted_after, mesh_of, take_steps

from mdeq_jax.implicit import DEQ
from mdeq_jax.reasoning.data import files, prefix_sums
from mdeq_jax.reasoning.experiment import Config, create_experiment
from mdeq_jax.reasoning.scores import problem_scores
from mdeq_jax.reasoning.tasks import open_problems
from mdeq_jax.solvers import Picard, solve
from mdeq_jax.training.config import override
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.experiment import Layer
from mdeq_jax.training.loop import train
from mdeq_jax.training.mesh import replicate

TINY = override(
    Config(),
    {
        "data.size": 8,
        "data.train_problems": 32,
        "data.eval_problems": 20,
        "data.batch_size": 16,
        "data.eval_batch_size": 16,
        "model.width": 12,
        "evaluation.sizes": (8, 24),
        "evaluation.steps": (4, 6),
        "solver.forward.max_steps": 4,
        "train.fewest_solver_steps": 2,
        "train.steps": 6,
        "adjoint.steps": 1,
        "optim.learning_rate": 0.01,
    },
)
TWO_STEPS = Picard(max_steps=2)
SEGMENTS = override(TINY, {"loss.segments": 3, "model.halting": True, "optim.ema_decay": 0.9})


@pytest.fixture(scope="module")
def segments():
    return create_experiment(SEGMENTS)


@functools.partial(jax.jit, static_argnames="experiment")
def forward(experiment, carry, batch):
    """A forward pass of training outside of the loop."""
    variables, layer = experiment.init(jax.random.key(0)), Layer(DEQ(TWO_STEPS))
    found = experiment.forward(variables, batch, layer, train=True, carry=carry)
    return found._replace(solution=found.solution.z)


def some_batch(experiment, rows=4, first=0):
    """Problems of the training set."""
    problems = jax.tree.map(lambda x: x[first : first + rows], experiment.train_problems)
    return problems._asdict()


def test_a_problem_is_exact_if_every_counted_position_is_right():
    experiment = create_experiment(TINY)
    targets = jnp.array([[[0, 1, 1]], [[0, 1, 1]], [[0, 1, 1]]])
    answers = jnp.array([[[0, 1, 1]], [[0, 1, 0]], [[0, 0, 1]]])
    counted = jnp.array([[[True] * 3], [[True, True, False]], [[True] * 3]])
    batch = {"targets": targets, "counted": counted, "mask": jnp.array([True, True, True])}
    outputs = {"logits": jax.nn.one_hot(answers, 2)}
    scores = problem_scores(outputs, batch)
    np.testing.assert_array_equal(scores["exact"], [1, 1, 0])
    np.testing.assert_allclose(scores["accuracy"], [1, 1, 2 / 3])
    sums = experiment.sums(outputs, {**batch, "mask": jnp.array([True, False, True])})
    found = experiment.summarize({**sums, "count": 2.0})
    assert found == pytest.approx({"exact": 0.5, "accuracy": 5 / 6})


def test_the_loss_is_the_cross_entropy_of_counted_positions():
    experiment = create_experiment(TINY)
    logits = jax.random.normal(jax.random.key(0), (2, 1, 3, 2))
    targets = jnp.array([[[0, 1, 1]], [[1, 1, 0]]])
    counted = jnp.array([[[True, True, False]], [[True] * 3]])
    batch = {"targets": targets, "counted": counted}
    loss, _ = experiment.loss({}, {"logits": logits}, batch, None)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    expected = (entropy[0, 0, :2].mean() + entropy[1, 0].mean()) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # The halting head predicts whether the answer is right; at logit 0 its entropy is log 2.
    outputs = {"logits": logits, "halt": jnp.zeros(2)}
    halting, metrics = experiment.loss({}, outputs, batch, None)
    np.testing.assert_allclose(halting - loss, 0.5 * np.log(2), rtol=1e-5)
    assert metrics["halting_accuracy"] == 1 - metrics["exact"]


def test_a_row_keeps_its_problem_and_its_state_for_its_segments(segments):
    experiment, carry, states = segments, segments.init_carry(4), []
    first = some_batch(experiment)
    for segment in range(3):
        offered = some_batch(experiment, first=4 * segment)
        passed = forward(experiment, carry, offered)
        for name, array in first.items():
            np.testing.assert_array_equal(passed.batch[name], array)
        carry = passed.carry
        np.testing.assert_array_equal(carry["segments"], segment + 1)
        states.append(carry["z"])
    assert carry["finished"].all()
    assert not np.allclose(states[0], states[1])
    # The fourth step takes the problems it is offered, and starts afresh.
    fresh = forward(experiment, carry, first)
    np.testing.assert_array_equal(fresh.carry["z"], states[0])
    np.testing.assert_array_equal(fresh.carry["segments"], 1)


def test_segments_continue_one_solve(segments):
    batch = some_batch(segments)
    once = forward(segments, segments.init_carry(4), batch)
    twice = forward(segments, once.carry, batch)

    @jax.jit
    def solved(inputs):
        f, z, args = segments.problem(segments.init(jax.random.key(0)), inputs)
        for _ in range(2):
            z = solve(f, z, args, TWO_STEPS).z
        return z

    np.testing.assert_allclose(twice.solution, solved(batch["inputs"]), atol=1e-5)


def test_a_halted_row_takes_a_new_problem(segments):
    experiment, carry = segments, segments.init_carry(4)
    passed = forward(experiment, carry, some_batch(experiment))
    outputs = {**passed.outputs, "halt": jnp.array([1.0, -1.0, 2.0, -3.0])}
    carry = experiment._next_carry(carry, passed.batch, passed.solution, outputs)
    np.testing.assert_array_equal(carry["finished"], [True, False, True, False])


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(segments, tmp_path, monkeypatch):
    whole = train(segments, tmp_path / "whole")
    interrupted_after(monkeypatch, segments, tmp_path / "parts", last=4)
    resumed = train(create_experiment(SEGMENTS), tmp_path / "parts")
    assert resumed.metrics["resumed_from_step"] == 4
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)
    names = ("exact_8", "exact_24", "accuracy_24", "alignment_24", "solver_steps_24")
    assert {f"eval/{name}" for name in names} <= resumed.metrics.keys()
    assert resumed.metrics["eval/solver_steps_24"] <= 6
    assert resumed.metrics["eval/examples_24"] == 20
    # Whoever evaluates a finished run on other sizes has another score.
    sizes = {"evaluation.sizes": (20,), "evaluation.steps": (4,)}
    again = train(create_experiment(override(SEGMENTS, sizes)), tmp_path / "parts").metrics
    assert again["resumed_from_step"] == 6
    assert "eval/exact_20" in again


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_devices(x64):
    changes = {"loss.segments": 2, "solver.forward.noise": 0.1, "loss.alignment_weight": 0.1}
    experiment = create_experiment(override(TINY, changes))
    states = {n: take_steps(experiment, n, 3) for n in (1, 4)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *(jax.device_get((state.params, metrics["loss"])) for state, metrics in states.values()),
    )
    evaluated = [
        Evaluator(experiment, mesh_of(n))(
            replicate(jax.device_get(states[1][0].variables), mesh_of(n)), unrolled=None
        )
        for n in (1, 4)
    ]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-4)


@pytest.mark.slow
def test_a_second_solve_leaves_the_statistics_of_the_adjoint_alone():
    exact = {"adjoint.name": "exact", "adjoint.steps": None, "adjoint.damping": None}
    exact |= {"solver.backward.max_steps": 2, "solver.backward.tol": 0.0}
    experiment = create_experiment(override(TINY, {**exact, "loss.alignment_weight": 0.1}))
    _, metrics = take_steps(experiment, 1, 1)
    assert metrics["adjoint_steps"] == 2
    assert -1 <= metrics["start_cosine"] <= 1


def test_published_prefix_sums_have_disjoint_splits(monkeypatch):
    whole = prefix_sums.generate(20, 8, seed=0)
    monkeypatch.setattr(files, "read_prefix_sums", lambda root, bits: whole)
    data = override(TINY, {"data.root": "x", "data.train_problems": 16}).data
    data = dataclasses.replace(data, eval_problems=4)
    train_rows, test_rows = (open_problems(data, split, 8) for split in ("train", "test"))
    np.testing.assert_array_equal(train_rows.inputs, whole.inputs[:16])
    np.testing.assert_array_equal(test_rows.inputs, whole.inputs[16:])
    with pytest.raises(ValueError, match=r"4 strings for this split.*eval_problems is 5"):
        open_problems(dataclasses.replace(data, eval_problems=5), "test", 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation.sizes": (8, 8)}, r"sizes is \(8, 8\); .*distinct"),
        ({"evaluation.steps": (8,)}, r"steps is \(8,\); .*each entry of sizes"),
        ({"loss.segments": 0}, r"segments is 0; .*at least 1"),
        ({"train.fewest_solver_steps": 9}, r"fewest_solver_steps is 9, above the 4 steps"),
        ({"data.task": "mazes", "data.size": 8}, r"config\.data\.size has 8: .*odd"),
        ({"data.task": "sudoku", "data.size": 5}, r"config\.data\.size has 5: "),
        ({"data.task": "sudoku", "data.size": 4, "data.givens": 3}, r"givens.*3"),
        ({"data.task": "sudoku", "data.size": 4, "data.root": "x"}, r"have side 9"),
        ({"data.task": "mazes", "data.size": 9, "data.root": "x"}, r"maze_data_train_9"),
        ({"evaluation.alignment_group": 3}, r"alignment_group is 3, but each of 8 devices"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    def start():
        experiment = create_experiment(override(TINY, changes))
        experiment.train_batches()
        return experiment.evaluations()

    with pytest.raises(ValueError, match=message):
        start()
