"""The measurements of what language models claim: settings fit, and means are right."""

import pytest

from benchmarks.language import methods
from benchmarks.language_runs import COLUMNS, SETTINGS, settings, summarise
from mdeq_jax.language.config import Config
from mdeq_jax.training.config import override
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.sections import from_mapping

BASE = from_mapping(Config(), load_config("text_pydoc"))


def test_settings_differ_in_what_their_names_say():
    configs = {name: override(BASE, changes) for name, changes in settings(BASE).items()}
    assert tuple(configs) == SETTINGS
    for name, config in configs.items():
        assert (config.jacobian.probability > 0) == name.endswith("regularised")
        assert config.model.kind == ("pre" if name.startswith("pre") else "post")
        steps = 12 if name == "unrolled" else None
        assert config.train.unrolled_at(config.train.steps) == steps


@pytest.mark.parametrize("name", methods(24))
def test_each_way_to_train_takes_the_same_number_of_steps(name):
    config = override(BASE, methods(24)[name])
    assert (config.train.unrolled_at(0) or config.solver.forward.max_steps) == 24


def test_means_leave_out_runs_that_were_not_finite():
    rows = [{"setting": "pre", **dict.fromkeys(COLUMNS, x)} for x in (1.0, 3.0, None)]
    (row,) = summarise(rows)
    assert (row["seeds"], row["not_finite"]) == (3, 1)
    assert (row["bits_steps6"], row["bits_steps6_std"], row["radius_steps24"]) == (2.0, 1.0, 2.0)
    assert summarise(rows[2:])[0]["bits"] is None
