"""The table of settings: valid for any config, of about equal size where that is promised."""

import collections

import pytest
from bases import load

from mdeq_jax.comparison.settings import GROUPS, TABLE, Setting, plan
from mdeq_jax.comparison.sizes import count_parameters, nearest
from mdeq_jax.vision.config import AdjointConfig, override
from mdeq_jax.vision.model import create_model

EQUALLY_LARGE = ("resolutions", "scales")


@pytest.fixture(
    scope="module", params=["digits", pytest.param("cifar10_tiny", marks=pytest.mark.slow)]
)
def base(request):
    return load(request.param)


@pytest.fixture(scope="module")
def planned(base):
    return plan(base, GROUPS)


def test_the_table_and_its_groups():
    assert list(dict.fromkeys(setting.group for setting in TABLE)) == list(GROUPS)
    names = collections.Counter((setting.group, setting.name) for setting in TABLE)
    assert set(names.values()) == {1}


def test_every_setting_fits(planned):
    assert [row.message for row in planned] == [""] * len(TABLE)
    cells = {row.cell for row in planned}
    assert len({cell.folder for cell in cells}) == len(cells)


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
    assert {row.message for row in planned} == {""}
    cells = {(row.setting.group, row.setting.name): row.cell for row in planned}
    refined = cells["gradients", "shine, refine 5"].config
    assert (refined.solver.forward.name, refined.solver.forward.memory) == ("broyden", None)
    same = "adjoint.refine" in changes
    assert (cells["gradients", "shine, refine 5"] == cells["base", "base"]) == same
    assert cells["gradients", "shine"].config.adjoint == AdjointConfig("shine")
    solvers = [cell.config.adjoint for (group, _), cell in cells.items() if group == "solvers"]
    assert solvers == [AdjointConfig("exact")] * 3


def test_a_setting_does_what_it_says(planned):
    configs = {(row.setting.group, row.setting.name): row.cell.config for row in planned}
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
    base = planned[0].cell
    same = [row.setting.name for row in planned if row.cell == base]
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


def test_sizes_are_about_equal(base, planned):
    size = base.data.image_size
    target = count_parameters(create_model(base.model), size)
    for row in planned:
        if row.setting.group in EQUALLY_LARGE:
            count = count_parameters(create_model(row.cell.config.model), size)
            assert count == pytest.approx(target, rel=0.15), row.setting.name


def test_an_unknown_group(base):
    with pytest.raises(ValueError, match=r"no group stems; .*gradients, .*Did you mean stem\?"):
        plan(base, ["stems"])


def test_a_setting_that_does_not_fit_is_planned_as_failed(base):
    table = (Setting("base", "base"), Setting("scales", "odd", {"model.num_groups": 7}))
    first, second = plan(base, ["scales"], table)
    assert first.cell is not None
    assert second.cell is None
    assert "num_groups is 7" in second.message


def test_an_override_of_an_unknown_key(base):
    with pytest.raises(ValueError, match=r"config\.adjoint\.nam is not a config key"):
        override(base, {"adjoint.nam": "exact"})


@pytest.mark.parametrize(("target", "found"), [(1, 1), (30, 3), (31, 3), (36, 4), (10**6, 10**5)])
def test_nearest(target, found):
    assert nearest(target, lambda k: 10 * k) == found
