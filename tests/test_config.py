"""The configuration: what a user may write, and what is said of the rest."""

import dataclasses

import pytest

from mdeq_jax import (
    Anderson,
    Broyden,
    Exact,
    JacobianFree,
    Neumann,
    Phantom,
    Picard,
    Shine,
    applications,
)
from mdeq_jax.training import config as run_config
from mdeq_jax.training.layer_config import (
    AdjointConfig,
    CorrectionConfig,
    SolverConfig,
    without_unused_options,
)
from mdeq_jax.training.sections import keys, with_values
from mdeq_jax.training.workdir import config_differences
from mdeq_jax.vision.config import (
    MAY_CHANGE_ON_RESUME,
    Config,
    default_config,
    finalize,
    override,
)


def test_the_defaults_are_those_of_the_dataclasses():
    assert finalize(default_config()) == Config()
    assert finalize({}) == Config()
    partial = {"solver": {"backward": {"tol": 0.5}}}
    assert finalize(partial).solver.backward.max_steps == Config().solver.backward.max_steps


def test_what_a_run_stores_gives_its_config_back():
    config = default_config()
    config.model.branch_channels = (8, 16)
    config.train.steps = 7
    final = finalize(config)
    assert final.model.branch_channels == (8, 16)
    assert final.train.total_steps(steps_per_epoch=100) == 7
    assert finalize(dataclasses.asdict(final)) == final


def test_a_config_is_hashable():
    assert hash(finalize({})) == hash(Config())


def test_epochs_count_where_steps_are_not_given():
    assert finalize({"train": {"epochs": 3}}).train.total_steps(steps_per_epoch=5) == 15


def test_a_fraction_of_an_epoch_is_at_least_a_step():
    train = finalize({"train": {"epoch_fraction": 0.25}}).train
    assert [train.steps_per_epoch(n) for n in (1, 4, 10, 100)] == [1, 1, 2, 25]


def test_the_first_steps_are_unrolled():
    train = finalize({"train": {"pretrain_steps": 2, "num_layers": 6}}).train
    assert [train.unrolled_at(step) for step in range(4)] == [6, 6, None, None]


def test_a_whole_number_is_a_fine_float():
    learning_rate = finalize({"optim": {"learning_rate": 1}}).optim.learning_rate
    assert isinstance(learning_rate, float)


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ({"trian": {}}, r"config\.trian is not a config key\. Did you mean config\.train\?"),
        ({"modle": {"dropout": 0.0}}, r"config\.modle is not .* mean config\.model\?"),
        ({"model": {"num_group": 4}}, r"config\.model\.num_group .*config\.model\.num_groups\?"),
        ({"model": {"zzz": 4}}, r"config\.model\.zzz is not a config key; there are task, "),
        ({"batch_size": 4}, r"config\.batch_size is not .* mean config\.data\.batch_size\?"),
        (
            {"max_steps": 4},
            r"mean config\.solver\.forward\.max_steps or config\.solver\.backward\.max_steps\?",
        ),
        ({"seed": {"of": 4}}, r"config\.seed\.of is not a config key: config\.seed is a value"),
        ({"adjoint": {"name": "phantum"}}, r"name is 'phantum'.*\. Did you mean phantom\?"),
        ({"model": 3}, r"config\.model is 3; it must be a section"),
        ({"model": {"num_groups": "4"}}, r"config\.model\.num_groups is '4' \(str\).*int"),
        ({"model": {"num_groups": True}}, r"config\.model\.num_groups is True \(bool\)"),
        ({"model": {"branch_channels": (8, 1.5)}}, r"branch_channels is \(8, 1\.5\).*list of int"),
        ({"train": {"steps": 1.5}}, r"config\.train\.steps is 1\.5 \(float\).*int or None"),
        ({"solver": {"forward": {"name": "newton"}}}, r"forward\.name is 'newton'.*'broyden' or"),
        ({"solver": {"forward": {"max_steps": 0}}}, r"config\.solver\.forward\.max_steps is 0"),
        ({"solver": {"backward": {"tol": -1.0}}}, r"config\.solver\.backward\.tol is -1"),
        ({"model": {"num_groups": 5}}, r"config\.model\.num_groups is 5"),
        ({"data": {"batch_size": 0}}, r"config\.data\.batch_size is 0; .* at least 1"),
        ({"optim": {"momentum": 1.0}}, r"config\.optim\.momentum is 1\.0; .*\[0, 1\)"),
        ({"optim": {"clip_norm": 0.0}}, r"clip_norm is 0\.0; it must be above 0, or None"),
        ({"optim": {"step_epochs": (30, 20)}}, r"step_epochs is \(30, 20\); .* rising list"),
        ({"optim": {"step_factor": 0.0}}, r"step_factor is 0\.0; it must be above 0"),
        ({"optim": {"decay_rate": 0.0}}, r"decay_rate is 0\.0; .*in \(0, 1\]"),
        ({"optim": {"decay_steps": 0}}, "decay_steps is 0; .*at least 1"),
        ({"optim": {"cycle_rise": 1.0}}, r"cycle_rise is 1\.0; .*in \(0, 1\)"),
        ({"optim": {"warmup_steps": -1}}, "warmup_steps is -1; .*at least 0"),
        ({"optim": {"ema_decay": 1.0}}, r"ema_decay is 1\.0; .*in \[0, 1\), or None"),
        ({"optim": {"groups": (("*", -1, 0),)}}, "optim.groups is .*factor and weight decay"),
        (
            {"optim": {"groups": (("*", 1.0),)}},
            r"optim.groups is \(\('\*', 1\.0\),\) .*a list of \(str, float, float\)",
        ),
        ({"data": {"image_size": (32,)}}, r"image_size is \(32,\); .* a height and a width"),
        ({"data": {"image_size": (0, 8)}}, r"image_size is \(0, 8\)"),
        ({"data": {"eval_image_size": (8, 0)}}, r"eval_image_size is \(8, 0\)"),
        ({"data": {"threads": 0}}, r"config\.data\.threads is 0; .* at least 1"),
        (
            {"jacobian": {"probability": 2.0}},
            r"config\.jacobian\.probability is 2\.0; .*\[0, 1\]",
        ),
        ({"jacobian": {"weight": -1.0}}, r"config\.jacobian\.weight is -1\.0"),
        ({"jacobian": {"increment_steps": 0}}, r"increment_steps is 0; .* at least 1"),
        ({"jacobian": {"step_jitter": -1}}, r"step_jitter is -1"),
        ({"train": {"epoch_fraction": 0.0}}, r"epoch_fraction is 0\.0; .*\(0, 1\]"),
        ({"adjoint": {"steps": 0}}, r"config\.adjoint\.steps is 0"),
        ({"adjoint": {"damping": 1.5}}, r"config\.adjoint\.damping is 1\.5; .*\(0, 1\]"),
        ({"adjoint": {"name": "shine", "refine": -1}}, r"config\.adjoint\.refine is -1"),
        (
            {"adjoint": {"refine": 3}},
            r"config\.adjoint\.refine is 3, but 'exact' has no such option; it has none",
        ),
        (
            {"adjoint": {"name": "phantom", "opa_every": 5}},
            r"config\.adjoint\.opa_every is 5, but 'phantom' .* has steps, damping\.",
        ),
        ({"adjoint": {"steps": 3}}, r"config\.adjoint\.steps is 3, but 'exact' has no such option"),
        (
            {"solver": {"forward": {"window": 6}}},
            r"config\.solver\.forward\.window is 6, but 'broyden' has no such option; it has "
            r"max_steps, tol, stop_mode, stop_scope, memory, when_full\. Set it to None",
        ),
        (
            {"solver": {"backward": {"name": "picard", "memory": 5}}},
            r"config\.solver\.backward\.memory is 5, but 'picard' .* stop_scope, damping, noise\.",
        ),
        (
            {"solver": {"forward": {"when_full": "restrat"}}},
            r"when_full is 'restrat' .*'restart' or 'overwrite' or None\. Did you mean restart\?",
        ),
        ({"app": "visoin"}, r"config\.app is 'visoin' .*'vision'\. Did you mean vision\?"),
        (
            {"adjoint": {"name": "shine"}, "solver": {"forward": {"name": "anderson"}}},
            r"config\.adjoint\.name is 'shine'.*forward is 'anderson'.*to 'broyden'",
        ),
        (
            {"adjoint": {"name": "shine"}, "solver": {"forward": {"memory": 5}}},
            r"solver\.forward is 'broyden' with memory=5; set",
        ),
        (
            {"adjoint": {"name": "shine", "opa_every": 19}},
            r"opa_every is 19, but the solve has at most 18 steps",
        ),
        (
            {"jacobian": {"probability": 0.1, "weight": 1.0, "step_jitter": 18}},
            r"jacobian\.step_jitter is 18, which can leave a solve of at most 18 steps none",
        ),
        ({"jacobian": {"probability": 0.1}}, r"probability is 0\.1, but the term has no weight"),
        ({"correction": {"states": 0}}, r"config\.correction\.states is 0"),
        ({"correction": {"gamma": 0.0}}, r"config\.correction\.gamma is 0\.0; .*\(0, 1\]"),
        ({"correction": {"mode": "slices"}}, r"correction\.mode is 'slices'.*'index' or 'slice'"),
        ({"correction": {"states": 40}}, r"correction\.states is 40.* at most 18 steps"),
        (
            {"correction": {"states": 4}, "train": {"pretrain_steps": 1, "num_layers": 3}},
            r"correction\.states is 4.* unrolled 3 times",
        ),
        ({"model": {"injection": "none"}}, r"injection is 'none'"),
        (
            {"model": {"extra_heads": ("depth",)}},
            r"extra_heads is \('depth',\) \(tuple\); .*a list of 'classification' or 'scales'",
        ),
        ({"train": {"log_every": 0}}, r"config\.train\.log_every is 0"),
        (
            {"init_from_allow_missing": "params/*"},
            r"init_from_allow_missing is 'params/\*' \(str\); it must be a list of str",
        ),
        ({"seed": -1}, r"config\.seed is -1"),
        ({"seed": 2**32}, r"config\.seed is 4294967296; it must be below"),
    ],
)
def test_what_does_not_fit_is_named(nested, message):
    with pytest.raises(ValueError, match=message):
        finalize(nested)


@pytest.mark.parametrize(
    ("config", "solver"),
    [
        (SolverConfig("broyden", 5, memory=3), Broyden(5, memory=3)),
        (SolverConfig("anderson", 5, window=2, mixing=0.5), Anderson(5, window=2, mixing=0.5)),
        (
            SolverConfig("picard", 5, damping=0.5, noise=0.1, stop_mode="abs"),
            Picard(5, 1e-3, "abs", damping=0.5, noise=0.1),
        ),
    ],
)
def test_solvers_by_name(config, solver):
    assert config.build() == solver


def test_adjoints_by_name():
    backward = Picard(3)
    assert AdjointConfig("exact").build(backward) == Exact(backward)
    assert AdjointConfig("jacobian_free").build(backward) == JacobianFree()
    assert AdjointConfig("phantom", 3, 0.7).build(backward) == Phantom(3, 0.7)
    assert AdjointConfig("neumann", 3, 0.7).build(backward) == Neumann(3, 0.7)
    shine = AdjointConfig("shine", refine=2, fallback=1.3, opa_every=4).build(backward)
    assert shine == Shine(refine=2, fallback=1.3, opa_every=4)


@pytest.mark.parametrize("name", ["broyden", "anderson", "picard"])
def test_a_solvers_options_have_its_own_defaults(name):
    own = {"broyden": Broyden, "anderson": Anderson, "picard": Picard}[name]
    assert SolverConfig(name).build() == own()


@pytest.mark.parametrize("name", ["neumann", "jacobian_free", "phantom", "shine"])
def test_an_adjoints_options_have_its_own_defaults(name):
    own = {"neumann": Neumann, "jacobian_free": JacobianFree, "phantom": Phantom, "shine": Shine}
    assert AdjointConfig(name).build(Picard(3)) == own[name]()


def test_the_correction_has_steps_and_damping_whatever_the_adjoint():
    adjoint = finalize({"adjoint": {"steps": 3}, "correction": {"states": 2}}).adjoint
    assert adjoint.phantom() == Phantom(steps=3)
    assert adjoint.build(Picard(3)) == Exact(Picard(3))


@pytest.mark.parametrize("adjoint", ["exact", "shine"])
def test_a_config_that_an_older_version_stored(adjoint):
    """It held every option of every solver and adjoint, and no application."""
    solver = {
        **{"name": "broyden", "max_steps": 7, "tol": 1e-3, "memory": None, "when_full": "restart"},
        **{"window": 6, "ridge": 1e-4, "ridge_mode": "relative", "mixing": 1.0, "damping": 1.0},
    }
    options = {"steps": 5, "damping": 0.5, "refine": 0, "fallback": 1.8, "opa_every": None}
    stored = {"solver": {"forward": solver}, "adjoint": {"name": adjoint, **options}}
    config = finalize(without_unused_options(stored))
    assert config.app == "vision"
    assert config.solver.forward.build() == Broyden(7)
    own = {"exact": Exact(Picard(3)), "shine": Shine()}
    assert config.adjoint.build(Picard(3)) == own[adjoint]
    corrected = finalize(without_unused_options({**stored, "correction": {"states": 2}}))
    assert corrected.adjoint.phantom() == Phantom(5, 0.5)


def test_what_this_version_stores_is_left_as_it_is():
    stored = dataclasses.asdict(finalize({"adjoint": {"name": "shine", "refine": 2}}))
    assert without_unused_options(stored) == stored


def test_every_application_has_a_config_of_its_name():
    for name in applications.APPLICATIONS:
        assert applications.finalize({"app": name}).app == name


def test_a_config_without_an_application_is_visions():
    assert applications.finalize({"seed": 3}) == Config(seed=3)
    assert applications.finalize(default_config()) == Config()


def test_an_unknown_application():
    with pytest.raises(ValueError, match=r"config\.app is 'visoin'; .* Did you mean vision\?"):
        applications.finalize({"app": "visoin"})


def test_an_override_keeps_the_application():
    changed = override(Config(), {"model.dropout": 0.1})
    assert changed == finalize({"model": {"dropout": 0.1}})


@pytest.mark.parametrize(
    ("states", "max_steps", "sample_at"),
    [(1, 18, ()), (3, 18, (6, 12)), (3, 20, (8, 14)), (2, 2, (1,))],
)
def test_sampled_states_are_evenly_spaced(states, max_steps, sample_at):
    assert CorrectionConfig(states=states).sample_at(max_steps) == sample_at


def test_every_key_has_a_value_or_is_a_section():
    def leaves_and_sections(values, prefix=""):
        for name, value in values.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from leaves_and_sections(value, f"{prefix}{name}.")

    assert sorted(keys(Config())) == sorted(leaves_and_sections(default_config().to_dict()))


def test_changed_values_leave_the_others_and_the_original():
    original = {"model": {"dropout": 0.5, "expansion": 2}}
    changed = with_values(original, {"model.dropout": 0.1, "solver.forward.tol": 1.0})
    assert changed == {
        "model": {"dropout": 0.1, "expansion": 2},
        "solver": {"forward": {"tol": 1.0}},
    }
    assert original["model"]["dropout"] == 0.5


@pytest.mark.parametrize(
    ("key", "stored", "current"),
    [
        ("data.root", "node1/data", "node2/data"),
        ("data.root", "data", "data/"),
        ("data.root", None, "data"),
        ("data.dir", "a", "b"),
        ("data.workers", 0, 8),
        ("train.on_nonfinite", "stop", "skip"),
        ("train.log_every", 20, 1),
        ("inference.scales", [1.0], [0.5, 1.0]),
        ("init_from", "node1/weights.pkl", "node2/weights.pkl"),
        ("init_from_allow_missing", None, []),
    ],
)
def test_a_run_may_be_resumed_with_another(key, stored, current):
    here, there = (with_values({}, {key: value}) for value in (stored, current))
    assert config_differences(here, there, ())
    assert not config_differences(here, there, MAY_CHANGE_ON_RESUME)


SOLVER = "name max_steps tol stop_mode stop_scope memory when_full window ridge ridge_mode mixing "
SOLVER += "damping noise"
# What changes the training steps: a new key belongs here or in MAY_CHANGE_ON_RESUME.
MATHEMATICS = {
    "model": "task num_classes branch_channels blocks_per_branch big_kernels expansion num_groups "
    "downsample_times injection weight_norm block_gn_affine fuse_gn_affine post_gn_affine "
    "head_channels final_channels final_conv_kernel extra_heads dropout",
    "solver.forward": SOLVER,
    "solver.backward": SOLVER,
    "adjoint": "name steps damping refine fallback opa_every",
    "correction": "states gamma mode",
    "loss": "class_weights ohem ohem_threshold ohem_min_kept classification_weight scale_weight",
    "data": "name batch_size image_size augment colour_jitter",
    "optim": "name learning_rate schedule learning_rate_floor step_epochs step_factor decay_rate "
    "decay_steps cycle_rise warmup_steps weight_decay weight_decay_mode groups momentum nesterov "
    "clip_norm ema_decay",
    "jacobian": "probability weight pretrain_weight increment_steps stop_epoch step_jitter",
    "train": "epochs epoch_fraction steps pretrain_steps num_layers fewest_solver_steps "
    "initial_state accumulate_steps",
}


def test_every_key_either_belongs_to_the_mathematics_or_may_change_on_resume():
    fixed = {
        f"{section}.{name}" for section, names in MATHEMATICS.items() for name in names.split()
    }
    fixed |= {"app", "dtype", "seed"}
    known = list(keys(Config()))
    leaves = {key for key in known if not any(other.startswith(f"{key}.") for other in known)}
    free = {
        key
        for key in leaves
        if any(f"{key}.".startswith(f"{allowed}.") for allowed in MAY_CHANGE_ON_RESUME)
    }
    assert free == leaves - fixed
    assert fixed <= leaves
    assert set(MAY_CHANGE_ON_RESUME) <= set(known)


def test_an_application_adds_to_what_may_change_on_resume():
    generic = run_config.MAY_CHANGE_ON_RESUME
    assert set(generic) <= set(keys(run_config.RunConfig()))
    assert run_config.RunConfig.may_change_on_resume == generic
    assert set(generic) < set(Config.may_change_on_resume)
    assert Config.may_change_on_resume == MAY_CHANGE_ON_RESUME
