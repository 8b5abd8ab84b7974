"""The key map: names, shapes, layouts, and the architecture that they tell of."""

import dataclasses

import numpy as np
import pytest
from mdeq_states import FIXTURES, load_config, random_state
from torch_files import WRITERS

from mdeq_jax.torch_files.names import from_torch, torch_name, torch_shape
from mdeq_jax.vision.model import ModelConfig
from mdeq_jax.vision.torch_files.convert import infer_config
from mdeq_jax.vision.torch_files.keys import (
    canonical_name,
    layer_table,
    why_ignored,
)

CLASSIFIER = ModelConfig()
ONE_BRANCH = ModelConfig(
    branch_channels=(8,),
    blocks_per_branch=(1,),
    big_kernels=(0,),
    head_channels=(4,),
    num_groups=4,
)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("stem/downsample_0/conv/kernel", "downsample.0.weight"),
        ("stem/downsample_1/bn/mean", "downsample.4.running_mean"),
        ("stem/downsample_2/conv/kernel", "downsample.DS3.weight"),
        ("stem/downsample_2/bn/var", "downsample.DS3-BN.running_var"),
        ("stem/stage0/bn/scale", "stage0.1.weight"),
        ("cell/branches_0_blocks_12/conv1/v", "fullstage.branches.0.blocks.12.conv1.weight_v"),
        ("cell/branches_3_blocks_0/conv2/g", "fullstage.branches.3.blocks.0.conv2.weight_g"),
        ("cell/branches_1_blocks_1/gn3/bias", "fullstage.branches.1.blocks.1.gn3.bias"),
        ("cell/fuse_layers_0_1/net/gnorm/scale", "fullstage.fuse_layers.0.1.net.gnorm.weight"),
        ("cell/fuse_layers_3_0/net_2/conv/kernel", "fullstage.fuse_layers.3.0.net.2.conv.weight"),
        ("cell/post_fuse_layers_1/conv/g", "fullstage.post_fuse_layers.1.conv.weight_g"),
        ("head/incre_modules_1/layer3/bn/mean", "incre_modules.1.0.bn3.running_mean"),
        ("head/incre_modules_0/shortcut/conv/kernel", "incre_modules.0.0.downsample.0.weight"),
        ("head/downsamp_modules_0/conv/bias", "downsamp_modules.0.0.bias"),
        ("head/final_layer/bn/scale", "final_layer.1.weight"),
        ("head/classifier/kernel", "classifier.weight"),
    ],
)
def test_names(path, name):
    assert torch_name(path.split("/"), layer_table("classification")) == name


def test_names_of_the_segmentation_head():
    table = layer_table("segmentation")
    assert torch_name(("head", "pixel_classifier", "kernel"), table) == "last_layer.3.weight"
    assert torch_name(("head", "last_layer", "bn", "var"), table) == "last_layer.1.running_var"


def test_a_layer_without_a_name():
    with pytest.raises(ValueError, match="stem/upsample/kernel has no PyTorch name"):
        torch_name(("stem", "upsample", "kernel"), layer_table("classification"))


@pytest.mark.parametrize(
    ("leaf", "ours", "theirs"),
    [
        ("kernel", (3, 5, 2, 4), (4, 2, 3, 5)),
        ("v", (3, 5, 2, 4), (4, 2, 3, 5)),
        ("g", (4,), (4, 1, 1, 1)),
        ("kernel", (2, 4), (4, 2)),
        ("bias", (4,), (4,)),
    ],
)
def test_shapes(leaf, ours, theirs):
    assert torch_shape((leaf,), ours) == theirs
    assert from_torch((leaf,), np.zeros(theirs)).shape == ours


@pytest.mark.parametrize(
    "layout",
    [
        "{}",
        "module.{}",
        "model.{}",
        "module.model.{}",
        "model.module.{}",
        "_orig_mod.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.model.{}",
    ],
)
@pytest.mark.parametrize("cell", ["fullstage", "full_stage"])
def test_layouts(layout, cell):
    assert canonical_name(layout.format(f"{cell}.branches.0")) == "fullstage.branches.0"


@pytest.mark.parametrize(
    ("wrapped", "plain"),
    [
        ("full_stage._orig_mod.branches.0", "fullstage.branches.0"),
        ("_orig_mod.fullstage._orig_mod.branches.0", "fullstage.branches.0"),
        ("fullstage.module._orig_mod.branches.0", "fullstage.branches.0"),
        (
            "fullstage.branches.0.blocks.1._orig_mod.gn1.bias",
            "fullstage.branches.0.blocks.1.gn1.bias",
        ),
        ("incre_modules.0._orig_mod.0.bn1.bias", "incre_modules.0.0.bn1.bias"),
        ("module.classifier._orig_mod.weight", "classifier.weight"),
        ("last_layer.module.3.bias", "last_layer.3.bias"),
    ],
)
def test_parts_that_are_wrapped(wrapped, plain):
    assert canonical_name(wrapped) == plain


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(("number", "name"), [(0, "g"), (1, "v")])
def test_weight_norm_as_a_parametrization(wrapper, number, name):
    layer = "fullstage.branches.0.blocks.0.conv1."
    stored = f"{layer}{wrapper}parametrizations.weight.original{number}"
    assert canonical_name(stored) == f"{layer}weight_{name}"


def test_another_parametrization_is_not_weight_norm():
    name = "fullstage.branches.0.blocks.0.conv1.parametrizations.weight.original"
    assert canonical_name(name) == name


def test_of_other_names_a_prefix_is_removed_at_the_beginning_only():
    assert canonical_name("head.module.full_stage.weight") == "head.module.full_stage.weight"


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("downsample.1.num_batches_tracked", True),
        ("fullstage_copy.branches.0.blocks.0.conv1.weight_g", True),
        ("deq.func.branches.0.blocks.0.conv1.weight_g", True),
        ("deq.func_copy.branches.0.blocks.0.conv1.weight_g", True),
        ("loss.criterion.weight", True),
        ("n_averaged", True),
        ("fullstage.branches.0.blocks.0.conv1.weight_g", False),
        ("fullstage.post_fuse_layers.0.conv.weight_g", False),
        ("deq.weight", False),
    ],
)
def test_what_is_ignored(name, ignored):
    assert (why_ignored(name, CLASSIFIER) is not None) == ignored


def test_what_a_model_of_one_branch_does_not_use():
    name = "fullstage.post_fuse_layers.0.conv.weight_g"
    assert why_ignored(name, ONE_BRANCH) == "not used by a model of one branch"


# What the file does not tell: num_groups, dropout, sometimes the strides of the stem.
ARCHITECTURES = {
    "several blocks": {"blocks_per_branch": (3, 2)},
    "one branch": dataclasses.asdict(ONE_BRANCH),
    "big kernels": {"big_kernels": (2, 1)},
    "three strides": {"downsample_times": 3},
    "four strides": {"downsample_times": 4},
    "no weight norm": {"weight_norm": False},
    "affine": {"block_gn_affine": False, "fuse_gn_affine": False, "post_gn_affine": True},
    "expansion": {"expansion": 3},
    "no shortcut": {"head_channels": (6, 6), "num_classes": 7, "final_channels": 12},
    "segmentation": {"task": "segmentation", "final_conv_kernel": 3, "num_classes": 19},
}


@pytest.mark.parametrize("fields", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_inference(tmp_path, fields):
    config = ModelConfig(**fields)
    path = WRITERS["zip"](tmp_path / "file", random_state(config))
    # With fewer than three branches, no stage0 means no strides.
    assumed = {} if config.downsample_times in (0, 3, 4) else {"downsample_times": 1}
    assert infer_config(path, {"num_groups": config.num_groups, **assumed}) == config


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cls3", {"num_groups": 4, "downsample_times": 1}),
        ("cls2_noaffine", {"num_groups": 4}),
        ("digits_tiny", {}),
        ("seg4", {"num_groups": 4}),
    ],
)
def test_inference_of_real_files(name, given):
    assert infer_config(FIXTURES / f"{name}.pkl", given) == load_config(name)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(branch_channels=(12, 20), num_groups=4),
        dataclasses.replace(ONE_BRANCH, branch_channels=(7,), num_groups=7),
        dataclasses.replace(ONE_BRANCH, branch_channels=(11,), num_groups=1),
    ],
)
def test_groups_are_assumed_to_fit_the_widths(tmp_path, config):
    path = WRITERS["zip"](tmp_path / "file", random_state(config))
    assert infer_config(path, {}) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"expansion": 2}, "expansion is given as 2; by the file's arrays it is 5"),
        ({"downsample_times": 1}, "downsample_times is given as 1; by the file's arrays it is 0"),
        ({"num_groups": 7}, "num_groups is 7"),
    ],
)
def test_what_is_given_contradicts_the_file(given, message):
    with pytest.raises(ValueError, match=rf"digits_tiny\.pkl: .*{message}"):
        infer_config(FIXTURES / "digits_tiny.pkl", given)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("fullstage.", "of no MDEQ"),
        ("fullstage.branches.0.", "blocks are missing: .*; give the whole file of an MDEQ"),
        ("classifier.", "classifier.weight is missing"),
        ("incre_modules.1.", r"incre_modules\.1\.0\.conv1\.weight is missing"),
    ],
)
def test_too_little_to_infer_from(tmp_path, without, message):
    state = random_state(CLASSIFIER)
    state = {name: array for name, array in state.items() if not name.startswith(without)}
    path = WRITERS["zip"](tmp_path / "file", state)
    with pytest.raises(ValueError, match=rf"{path}: .*{message}"):
        infer_config(path, {})
