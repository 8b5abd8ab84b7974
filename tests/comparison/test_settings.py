"""The table of settings: valid for any config, of about equal size where that is promised."""

import dataclasses

import pytest
from bases import load

from mdeq_jax.comparison.baselines import ExplicitModel
from mdeq_jax.comparison.settings import GROUPS, TABLE, count_parameters, nearest, plan
from mdeq_jax.training.layer_config import AdjointConfig
from mdeq_jax.vision.config import override
from mdeq_jax.vision.model import create_model

EQUALLY_LARGE = ("resolutions", "scales", "explicit")


@pytest.fixture(scope="module")
def base():
    return load("digits")


@pytest.fixture(scope="module")
def planned(base):
    return plan(base, GROUPS)


def test_the_table_and_its_groups():
    assert list(TABLE) == list(GROUPS)


def test_every_setting_fits(planned):
    assert [setting.message for setting in planned] == [""] * sum(map(len, TABLE.values()))
    runs = {setting.run for setting in planned}
    assert len({run.folder for run in runs}) == len(runs)


@pytest.mark.parametrize(
    "changes",
    [
        {"adjoint.name": "shine", "adjoint.refine": 5},
        {"adjoint.name": "shine", "adjoint.opa_every": 3},
        {"solver.forward.name": "anderson"},
        {"solver.forward.memory": 10},
    ],
)
def test_every_setting_fits_another_base(changes):
    base = override(load("digits"), changes)
    planned = plan(base, [group for group in GROUPS if group not in EQUALLY_LARGE])
    assert {setting.message for setting in planned} == {""}
    runs = {(setting.group, setting.name): setting.run for setting in planned}
    refined = runs["gradients", "shine, refine 5"].config
    assert (refined.solver.forward.name, refined.solver.forward.memory) == ("broyden", None)
    same = "adjoint.refine" in changes
    assert (runs["gradients", "shine, refine 5"] == runs["base", "base"]) == same
    assert runs["gradients", "shine"].config.adjoint == AdjointConfig("shine")
    solvers = [run.config.adjoint for (group, _), run in runs.items() if group == "solvers"]
    assert solvers == [AdjointConfig("exact")] * 3


def test_a_setting_does_what_it_says(planned):
    configs = {(setting.group, setting.name): setting.run.config for setting in planned}
    assert configs["gradients", "shine, refine 5"].adjoint.refine == 5
    assert configs["gradients", "correction, 3 states"].correction.states == 3
    assert configs["solvers", "anderson"].solver.backward.name == "anderson"
    assert configs["resolutions", "3 resolutions"].model.num_branches == 3
    assert configs["injection", "all"].model.injection == "all"
    low = configs["scales", "wide at low"].model.branch_channels
    high = configs["scales", "wide at high"].model.branch_channels
    assert low[0] < low[-1]
    assert high[0] > high[-1]
    depth = configs["depth", "10 applications"].train
    assert depth.unrolled_at(depth.total_steps(10**5)) == 10


def test_settings_that_come_to_the_base_are_run_with_it(planned):
    base = planned[0].run
    same = [setting.name for setting in planned if setting.run == base]
    assert same == [
        "base",
        "exact",
        "broyden",
        "18 steps",
        "2 resolutions",
        "equal",
        "full size",
        "highest",
    ]


def test_what_differs_from_the_base_is_listed(planned):
    changes = {(setting.group, setting.name): setting.changes for setting in planned}
    assert changes["base", "base"] == changes["gradients", "exact"] == {}
    assert changes["steps", "4 steps"] == {"solver.forward.max_steps": 4}
    phantom = {"adjoint.name": "phantom", "adjoint.steps": 5, "adjoint.damping": 0.5}
    assert changes["gradients", "phantom"] == phantom
    assert changes["explicit", "ResNet"]["app"] == "baseline"


def test_sizes_are_about_equal(base, planned):
    size = base.data.image_size
    target = count_parameters(create_model(base.model), size)
    for setting in planned:
        if setting.group in EQUALLY_LARGE:
            model = setting.run.config.model
            create = ExplicitModel if setting.group == "explicit" else create_model
            count = count_parameters(create(model), size)
            assert count == pytest.approx(target, rel=0.15), setting.name


def test_a_baseline_is_trained_as_the_base_is(base, planned):
    for setting in planned:
        if setting.group == "explicit":
            config = setting.run.config
            assert (config.optim, config.data) == (base.optim, base.data)
            assert config.train == dataclasses.replace(base.train, pretrain_steps=0)


def test_an_unknown_group(base):
    with pytest.raises(ValueError, match=r"no group stems; .*gradients, .*Did you mean stem\?"):
        plan(base, ["stems"])


def test_a_setting_that_does_not_fit_is_planned_as_failed(base):
    table = {"base": {"base": {}}, "scales": {"odd": {"model.num_groups": 7}}}
    first, second = plan(base, ["scales"], table)
    assert first.run is not None
    assert second.run is None
    assert "num_groups is 7" in second.message


def test_an_override_of_an_unknown_key(base):
    with pytest.raises(ValueError, match=r"config\.adjoint\.nam is not a config key"):
        override(base, {"adjoint.nam": "exact"})


@pytest.mark.parametrize(("target", "found"), [(1, 1), (30, 3), (31, 3), (36, 4), (10**6, 10**5)])
def test_nearest(target, found):
    assert nearest(target, lambda k: 10 * k) == found
