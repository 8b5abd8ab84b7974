"""Generation: the same text as without a memory, how tokens are drawn, and the command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from invoke import invoke
from sayings import config_of, lively, write_text

import mdeq_jax as mx
from mdeq_jax.commands import generate as command
from mdeq_jax.language.data.vocabulary import build
from mdeq_jax.language.experiment import create_experiment
from mdeq_jax.language.generation import Generator, Sampling
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.training.weights import state_of

DEQ = mx.DEQ(mx.Picard(max_steps=300, tol=1e-7))
GREEDY, KEY = Sampling(temperature=0), jax.random.key(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = config_of(write_text(tmp_path_factory.mktemp("text")))
    return config, lively(create_experiment(config))


@pytest.fixture(scope="module")
def checkpoint(run, tmp_path_factory):
    config, variables = run
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    write_checkpoint(epath.Path(folder), state_of(variables), dataclasses.asdict(config), 0)
    return folder


@pytest.fixture(scope="module")
def generators(run):
    config, variables = run
    model = create_experiment(config).model
    return {
        warm: Generator(model, variables, DEQ, positions=32, piece=5, warm_start=warm)
        for warm in (True, False)
    }


def test_greedy_text_is_that_of_one_solve_over_all_of_it(run, generators):
    config, variables = run
    experiment = create_experiment(config)
    prompt = experiment.corpus.valid[:12]
    found = generators[True].generate(generators[True].read(prompt), 10, KEY, GREEDY)
    text = [*prompt, *(token.number for token in found)]

    @jax.jit
    def solve_at_once(variables, tokens):
        z = experiment.model.apply(variables, tokens, deq=DEQ).z
        return experiment.model.log_probabilities(variables, z)

    log_p = solve_at_once(variables, jnp.asarray([text[:-1]]))
    np.testing.assert_array_equal(log_p[0, 11:].argmax(axis=-1), text[12:])
    assert len({*text[12:]}) > 1


def test_a_warm_start_leaves_the_text_and_saves_steps(run, generators):
    prompt = create_experiment(run[0]).corpus.valid[:12]
    texts, steps = {}, {}
    for warm, generator in generators.items():
        found = [*generator.generate(generator.read(prompt), 12, KEY, GREEDY)]
        texts[warm] = [token.number for token in found]
        steps[warm] = sum(token.solver_steps for token in found)
    assert texts[True] == texts[False]
    assert steps[True] != steps[False]


def test_a_prompt_that_is_longer_than_the_memory(run, generators):
    tokens = create_experiment(run[0]).corpus.train[:48]
    position = generators[True].read(tokens)
    np.testing.assert_array_equal(position.memory.filled, 32)
    assert len(position.solver_steps) == 9 + 3  # nine pieces of 5, and three single tokens
    assert np.isfinite(position.z).all()
    # The last token is alone, so that the program of the next ones is compiled by then.
    assert len(generators[True].read(tokens[:10]).solver_steps) == 1 + 5
    with pytest.raises(ValueError, match="the prompt has no token"):
        generators[True].read(tokens[:0])


def test_sampling_follows_the_probabilities():
    p = np.array([0.5, 0.25, 0.15, 0.1], np.float32)
    log_p = jnp.log(jnp.tile(p, (20_000, 1)))

    def frequencies(**options):
        drawn = Sampling(**options)(KEY, log_p)
        return np.bincount(drawn, minlength=4) / len(drawn)

    np.testing.assert_allclose(frequencies(), p, atol=0.015)
    np.testing.assert_allclose(frequencies(top_k=9), p, atol=0.015)
    squared = p**2 / (p**2).sum()
    np.testing.assert_allclose(frequencies(temperature=0.5), squared, atol=0.015)
    np.testing.assert_allclose(frequencies(top_k=2), [2 / 3, 1 / 3, 0, 0], atol=0.015)
    np.testing.assert_array_equal(frequencies(temperature=0), [1, 0, 0, 0])
    np.testing.assert_array_equal(frequencies(top_k=1), [1, 0, 0, 0])


@pytest.mark.parametrize("option", [{"temperature": -0.5}, {"top_k": 0}])
def test_sampling_that_means_nothing(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"Sampling.{name} is"):
        Sampling(**option)


def test_the_command(checkpoint, capsys):
    flags = ["--checkpoint", checkpoint, "--length", 5, "--top-k", 3, "--seed", 4]
    outputs = []
    for _ in range(2):
        assert invoke(command.run, *flags, "--prompt", "5 and ?") == 0
        outputs.append(capsys.readouterr())
    *text, last = outputs[0].out.splitlines()
    result = json.loads(last)
    assert "\n".join(text) == result["text"]
    assert result["text"].startswith("5 and \ufffd")
    assert "--prompt has '?', which is read as '\ufffd'" in outputs[0].err
    assert (result["tokens"], result["prompt_tokens"]) == (5, 7)
    assert len(result["text"]) == 12
    assert result["tokens_per_s"] > 0
    assert result["solver_steps"] > 0
    assert result["memory"] == 8
    assert json.loads(outputs[1].out.splitlines()[-1])["text"] == result["text"]


def test_prompts_that_have_no_number():
    words = build(["green tea\n"], "words")
    with pytest.raises(
        ValueError, match=r"'red', but the checkpoint's vocabulary of 3 words has n"
    ):
        command.encode_prompt("red tea", words)
    with pytest.raises(ValueError, match="--prompt is ' ', which has no words"):
        command.encode_prompt(" ", words)


def test_an_unknown_word_is_read_as_unk(capsys):
    words = build(["green <unk> tea\n"], "words")
    assert command.encode_prompt("red tea\n", words).tolist() == [2, 3, 0]
    assert "which is read as '<unk>'" in capsys.readouterr().err
