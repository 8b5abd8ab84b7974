"""The configs of language models: sizes, and the recipes that they start from."""

import jax
import pytest

from mdeq_jax.language.config import Config
from mdeq_jax.language.model.create import create_model
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping

# Published counts, without the second copy of tied projections.
WORDS, COUNTS = (
    267_735,
    {
        "wikitext103_deq": 97_691_888,
        "wikitext103_deq_reg": 97_691_888,
        "wikitext103_preln_reg": 97_691_888,
        "wikitext103_torchdeq": 97_571_288,
        "text_pydoc": 73_640,
    },
)


def load(name):
    return from_mapping(Config(), load_config(name))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count(name):
    words = 104 if name == "text_pydoc" else WORDS
    model = create_model(load(name).model, words)
    tokens = jax.ShapeDtypeStruct((1, 4), "int32")
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == COUNTS[name]


def test_the_published_recipes():
    plain, reg, preln, torchdeq = (load(name) for name in list(COUNTS)[:4])
    steps = lambda config: (config.solver.forward.max_steps, config.solver.backward.max_steps)  # noqa: E731
    assert [steps(config) for config in (plain, reg, preln)] == [(30, 35), (12, 13), (14, 14)]
    weights = [config.jacobian.weight for config in (plain, reg, preln, torchdeq)]
    assert weights == [0.0, 1.9, 2.0, 0.0]
    assert torchdeq.train.unrolled_at(torchdeq.train.steps - 1) == 12
    assert torchdeq.train.unrolled_at(torchdeq.train.steps) is None
    for config in (plain, reg, preln, torchdeq):
        assert config.data.batch_size == 56
        assert config.data.length == 150
        assert config.optim.clip_norm == 0.25
