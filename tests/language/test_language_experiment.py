"""Training of language models: the carried memory, the evaluations, and the vocabulary."""

import dataclasses

import jax
import numpy as np
import pytest
from deq_transformer import FIXTURES, load_config
from running import mesh_of, take_steps
from sayings import MODEL, TEXT, config_of, lively, write_text

import mdeq_jax as mx
from mdeq_jax.language.config import EvaluationConfig
from mdeq_jax.language.data.corpus import stored_vocabulary
from mdeq_jax.language.experiment import create_experiment
from mdeq_jax.language.trigram import fit_trigram
from mdeq_jax.training.checkpoints import Checkpointer
from mdeq_jax.training.evaluation import Evaluator
from mdeq_jax.training.experiment import Layer
from mdeq_jax.training.layer_config import SolverConfig, SolversConfig
from mdeq_jax.training.mesh import replicate
from mdeq_jax.training.weights import Trained

LARGE = EvaluationConfig(memories=(0, 64))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def variables(root):
    return lively(create_experiment(config_of(root)))


def evaluate(variables, config):
    mesh = mesh_of(1)
    return Evaluator(create_experiment(config), mesh)(replicate(variables, mesh), unrolled=None)


@pytest.fixture(scope="module")
def metrics(variables, root):
    return evaluate(variables, config_of(root, evaluation=LARGE))


def test_a_long_memory_joins_the_pieces(variables, root, metrics):
    whole = evaluate(variables, config_of(root, data={"length": 64}))
    assert whole["eval/converged"] == metrics["eval/converged_memory64"] == 1
    assert whole["eval/examples"] == 2  # one piece holds a whole row
    assert metrics["eval/examples"] > 2
    joined = metrics["eval/bits_per_character_memory64"]
    assert joined == pytest.approx(whole["eval/bits_per_character"], rel=1e-5)
    assert abs(metrics["eval/bits_per_character_memory0"] - joined) > 1e-3
    assert abs(metrics["eval/bits_per_character"] - joined) > 1e-4


def test_trigram_bits_are_of_the_same_characters(root, metrics):
    corpus = create_experiment(config_of(root)).corpus
    bits = fit_trigram(corpus.train, len(corpus.vocabulary)).bits(corpus.valid)
    columns = len(bits) // 2
    counted = np.concatenate([bits[1:columns], bits[columns + 1 : 2 * columns]])
    assert metrics["eval/tokens"] == len(counted)
    assert metrics["eval/trigram_bits"] == pytest.approx(counted.mean(), rel=1e-5)
    assert "eval/trigram_bits_memory0" not in metrics


def test_words_have_a_perplexity(root):
    experiment = create_experiment(config_of(root, data={"vocabulary": "words", "min_count": 2}))
    sums = {"nll": 3 * np.log(7), "tokens": 3}
    assert experiment.summarize(sums) == {"perplexity": pytest.approx(7), "tokens": 3}
    assert experiment.score == ("eval/perplexity", False)
    assert {*experiment.evaluations()} == {"eval"}
    nll = np.array([[[1.0, 2.0]], [[3.0, 6.0]]])  # of two devices
    of_device = lambda nll: experiment.loss({}, {"nll": nll}, {}, "devices")[1]  # noqa: E731
    parts = jax.vmap(of_device, axis_name="devices")(nll)
    np.testing.assert_allclose(parts["perplexity"].mean(), np.exp(3.0), rtol=1e-6)


def test_named_evaluations(root):
    options = EvaluationConfig(memories=(0, 16), steps=(3, 5))
    experiment = create_experiment(config_of(root, evaluation=options))
    found = experiment.evaluations()
    assert {name: evaluation.max_steps for name, evaluation in found.items()} == {
        **{"eval": None, "eval/memory0": None, "eval/memory16": None},
        **{"eval/steps3": 3, "eval/steps5": 5},
    }
    memories = [next(evaluation.batches())["memory"][0] for evaluation in found.values()]
    assert memories == [6, 0, 16, 6, 6]
    assert experiment.init_carry(2).z.shape == (2, 16, 8)


def test_training_has_its_own_memory(root, variables):
    """An evaluation with a longer one makes the carry longer, and changes nothing else."""
    found = []
    for options in (EvaluationConfig(), LARGE):
        experiment = create_experiment(config_of(root, evaluation=options))
        batch, carry = next(experiment.train_batches()), experiment.init_carry(2)
        carry = carry._replace(filled=carry.filled + carry.z.shape[1])

        @jax.jit
        def forward(variables, batch, carry, of=experiment):
            layer = Layer(mx.DEQ(mx.Picard(max_steps=3)))
            passed = of.forward(variables, batch, layer, train=True, carry=carry)
            return passed.outputs, passed.carry

        found.append(forward(variables, batch, carry))
    (outputs, own), (others, longer) = found
    np.testing.assert_array_equal(others["nll"], outputs["nll"])
    assert longer.z.shape == (2, 64, 8)
    np.testing.assert_array_equal(longer.z[:, -6:], own.z)
    np.testing.assert_array_equal(longer.filled, [6, 6])
    loss, metrics = experiment.loss(variables, outputs, batch, None)
    assert metrics["bits_per_character"] * np.log(2) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.slow
def test_steps_do_not_depend_on_devices(root):
    model = dataclasses.replace(MODEL, dropout=0.3, attention_dropout=0.3)
    solver = SolversConfig(SolverConfig("picard", max_steps=4))
    data = {"vocabulary": "words", "min_count": 2}
    experiment = create_experiment(config_of(root, model=model, solver=solver, data=data))
    state, metrics = take_steps(experiment, 1, 2)
    other, others = take_steps(experiment, 2, 2)
    for name in ("loss", "perplexity"):
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-5)
    np.testing.assert_allclose(other.carry.z, state.carry.z, atol=1e-5)


def test_weights_of_another_vocabulary(variables, tmp_path):
    config = config_of(write_text(tmp_path, TEXT.replace("and", "plus")))
    with pytest.raises(ValueError, match=r"weights are of the vocabulary \w+, but the training te"):
        evaluate(variables, config)


def test_resuming_after_the_text_has_changed(tmp_path):
    root = write_text(tmp_path)
    shapes, experiments = [], []
    for text in (TEXT, TEXT.replace("and", "plus")):
        write_text(tmp_path, text)
        experiment = create_experiment(config_of(root))
        shapes.append(jax.eval_shape(experiment.init, jax.random.key(0)))
        experiments.append(experiment)
    before, after = (experiment.corpus.vocabulary.fingerprint for experiment in experiments)
    batches = experiments[0].train_batches()
    with Checkpointer(tmp_path / "run", {}) as checkpointer:
        checkpointer.save(3, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes[0]), batches)
    with Checkpointer(tmp_path / "run", {}) as checkpointer:
        with pytest.raises(
            ValueError, match=r"checkpoints/3 holds a run with other arrays"
        ) as told:
            checkpointer.restore_latest(shapes[1], batches)
        assert f"vocabulary/{before}: (98,) there, 'absent' here" in str(told.value)
        assert f"vocabulary/{after}: 'absent' there, (108,) here" in str(told.value)
        assert "the data (config.data)" in str(told.value)
        step, _ = checkpointer.restore_latest(shapes[0], batches)
        assert step == 3


def test_the_vocabulary_of_a_checkpoint(variables, root, tmp_path):
    config = config_of(root)
    expected = create_experiment(config).corpus.vocabulary
    absent = dataclasses.replace(config.data, root=str(tmp_path / "absent"))
    moved = dataclasses.replace(config, data=absent)
    assert stored_vocabulary(Trained(variables, moved, 0)) == expected
    imported = {"params": variables["params"]}
    assert stored_vocabulary(Trained(imported, config, 0)) == expected
    fewer = config_of(write_text(tmp_path, "a few characters\n" * 20))
    with pytest.raises(ValueError, match=r"has 12 characters, but the weights are of 19"):
        stored_vocabulary(Trained(imported, fewer, 0))


def test_a_text_that_is_too_small(tmp_path):
    config = config_of(write_text(tmp_path, TEXT[:100]), data={"eval_batch_size": 64})
    with pytest.raises(ValueError, match=r"'valid' has \d+ tokens, too few for 64 rows of 2 or mo"):
        create_experiment(config).evaluations()


def test_a_checkpoint_of_upstream_takes_the_vocabulary_of_its_text(tmp_path):
    config = config_of(
        write_text(tmp_path, " ".join(map(str, range(499))) + "\n" + "0\n" * 30),
        data={"vocabulary": "words"},
        model=load_config("lm_post"),
    )
    experiment = create_experiment(config)
    imported = experiment.import_file(FIXTURES / "lm_post.pth")
    shapes = jax.eval_shape(experiment.init, jax.random.key(0))
    assert jax.tree.map(np.shape, imported.variables) == jax.tree.map(np.shape, shapes)
    write_text(tmp_path, "a few words\n" * 200)
    other = create_experiment(dataclasses.replace(config, model=load_config("lm_post", cutoffs=())))
    with pytest.raises(
        ValueError, match="the number of words is 4; by the file's arrays it is 500"
    ):
        other.import_file(FIXTURES / "lm_post.pth")
