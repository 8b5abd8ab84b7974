"""`ModelConfig` refuses what does not fit, and says what would."""

import dataclasses

import jax
import pytest
from torch_weights import load_config

from mdeq_jax.vision.model import ModelConfig

BAD = [
    ({"task": "detection"}, r"task is 'detection'.*'classification' or 'segmentation'"),
    ({"num_classes": 0}, r"num_classes is 0.*at least 1"),
    ({"num_classes": "10"}, r"num_classes is '10'.*whole number"),
    ({"num_classes": True}, r"num_classes is True.*whole number"),
    ({"expansion": 2.5}, r"expansion is 2\.5.*whole number"),
    ({"downsample_times": -1}, r"downsample_times is -1.*at least 0"),
    ({"final_channels": None}, r"final_channels is None"),
    ({"final_conv_kernel": 2}, r"final_conv_kernel is 2.*1 or 3"),
    ({"weight_norm": 1}, r"weight_norm is 1.*True or False"),
    ({"block_gn_affine": "yes"}, r"block_gn_affine is 'yes'.*True or False"),
    ({"dropout": 1.0}, r"dropout is 1\.0.*\[0, 1\)"),
    ({"dropout": -0.1}, r"dropout is -0\.1.*\[0, 1\)"),
    ({"dropout": "0.1"}, r"dropout is '0\.1'.*number"),
    ({"dropout": float("nan")}, r"dropout is nan.*\[0, 1\)"),
    ({"branch_channels": 24}, r"branch_channels is 24.*list of whole numbers"),
    ({"branch_channels": (24, 0)}, r"branch_channels is \(24, 0\).*at least 1"),
    ({"branch_channels": ()}, r"branch_channels is \(\).*at least one"),
    ({"branch_channels": (24, 24, 24)}, r"blocks_per_branch is \(1, 1\).*3 entries"),
    ({"blocks_per_branch": (1,)}, r"blocks_per_branch is \(1,\).*2 entries.*\(24, 24\)"),
    ({"blocks_per_branch": (1, 0)}, r"blocks_per_branch is \(1, 0\).*at least 1"),
    ({"big_kernels": (0, 0, 0)}, r"big_kernels is \(0, 0, 0\).*2 entries"),
    ({"head_channels": (8, 16, 32)}, r"head_channels is \(8, 16, 32\).*2 entries"),
    ({"extra_heads": ("depth",)}, r"extra_heads is \('depth',\).*'classification' or 'scales'"),
    ({"task": "segmentation", "extra_heads": ("scales", "scales")}, r"extra_heads.*each once"),
    ({"extra_heads": ("scales",)}, r"extra_heads is .*empty where task is 'classification'"),
    (
        {"task": "segmentation", "extra_heads": ("classification",), "head_channels": (8,)},
        r"head_channels is \(8,\).*2 entries",
    ),
    ({"num_groups": 7}, r"num_groups is 7.*divide.*\(24, 24\)"),
    ({"num_groups": 8, "branch_channels": (24, 20)}, r"num_groups is 8.*divide.*\(24, 20\)"),
    ({"num_groups": 1}, r"num_groups is 1.*num_groups // 2 = 0"),
    ({"num_groups": 5, "branch_channels": (25, 25)}, r"num_groups // 2 = 2.*\(25, 25\).*even"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_field(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**fields)


def test_lists_become_tuples_and_the_config_is_hashable():
    config = load_config("cls3")
    assert config.branch_channels == (8, 16, 32)
    assert hash(config) == hash(load_config("cls3"))
    assert config != dataclasses.replace(config, dropout=0.1)


def test_it_is_a_static_pytree():
    scale = jax.jit(lambda config, x: config.num_groups * x)
    assert not jax.tree.leaves(ModelConfig())
    assert scale(ModelConfig(), 2) == 16


def test_one_branch_needs_no_groups_for_the_fusion():
    one = {"branch_channels": (8,), "head_channels": (8,), "blocks_per_branch": (1,)}
    config = ModelConfig(**one, big_kernels=(0,), num_groups=1)
    assert config.size_divisor == 1


def test_segmentation_needs_no_widths_for_the_classification_head():
    four = {"blocks_per_branch": (1,) * 4, "big_kernels": (0,) * 4, "downsample_times": 2}
    config = ModelConfig(task="segmentation", branch_channels=(8, 16, 32, 64), **four)
    assert config.size_divisor == 32
