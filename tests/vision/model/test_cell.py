"""The cell's variants: branches, blocks, kernels, affine switches, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variables import make_images, make_variables

from mdeq_jax.layers.multiscale import init_cell
from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.model.dropout import dropout_masks

SMALL = ModelConfig(
    branch_channels=(4, 8),
    blocks_per_branch=(1, 1),
    big_kernels=(0, 0),
    expansion=2,
    num_groups=2,
    head_channels=(2, 2),
    final_channels=6,
    post_gn_affine=True,
)
IMAGES = make_images(3, 8, 8, 3)


def one_branch(**fields):
    per_branch = {
        "branch_channels": (4,),
        "blocks_per_branch": (1,),
        "big_kernels": (0,),
        "head_channels": (2,),
    }
    return dataclasses.replace(SMALL, **(per_branch | fields))


def problem(config, train=False, key=None):
    rngs = None if key is None else {"dropout": jax.random.key(key)}
    variables = make_variables(config, IMAGES)
    mutable = ["batch_stats"] if train else False
    out = create_model(config).apply(
        variables, IMAGES, train=train, rngs=rngs, mutable=mutable, method="problem"
    )
    return out[0] if train else out


def states_like(z0):
    rng = np.random.default_rng(2)
    return tuple(jnp.asarray(rng.normal(size=z.shape), z.dtype) for z in z0)


def num_cell_params(config):
    return sum(x.size for x in jax.tree.leaves(make_variables(config, IMAGES)["params"]["cell"]))


def test_one_branch_is_its_residual_blocks_alone():
    f, z0, args = problem(one_branch())
    assert set(args.params) == {"branches_0_blocks_0"}
    [z] = jax.jit(f)(states_like(z0), args)
    # The last thing done is GroupNorm with this scale and bias.
    norm = args.params["branches_0_blocks_0"]["gn3"]
    standard = (z - norm["bias"]) / norm["scale"]
    groups = standard.reshape(3, 64, 2, 2)
    np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(groups.var((1, 3)), 1, atol=1e-2)


def test_blocks_of_a_branch_follow_each_other_and_only_the_first_is_injected():
    f, z0, args = problem(one_branch(blocks_per_branch=(2,)))
    single, _, _ = problem(one_branch())
    rename = lambda j: {"branches_0_blocks_0": args.params[f"branches_0_blocks_{j}"]}  # noqa: E731
    single, z = jax.jit(single), states_like(z0)
    first = single(z, args._replace(params=rename(0)))
    second = single(first, args._replace(params=rename(1), x=jnp.zeros_like(args.x)))
    np.testing.assert_allclose(jax.jit(f)(z, args)[0], second[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("big", "sizes"), [(0, (3, 3)), (1, (5, 3)), (2, (5, 5)), (3, (5, 5))])
def test_big_kernels(big, sizes):
    f, z0, args = problem(one_branch(big_kernels=(big,)))
    block = args.params["branches_0_blocks_0"]
    assert tuple(block[name]["kernel"].shape[0] for name in ("conv1", "conv2")) == sizes
    assert jax.eval_shape(f, z0, args)[0].shape == z0[0].shape


@pytest.mark.parametrize(
    ("switch", "entries"),
    [
        # Scales and biases: GN1 of 2·(8 + 16), GN2 and GN3 of 2·2·(4 + 8) entries.
        ("block_gn_affine", 2 * (8 + 16) + 2 * 2 * (4 + 8)),
        ("fuse_gn_affine", 2 * (4 + 8)),
        ("post_gn_affine", 2 * (4 + 8)),
    ],
)
def test_affine_switches(switch, entries):
    without = dataclasses.replace(SMALL, **{switch: False})
    assert num_cell_params(SMALL) - num_cell_params(without) == entries


def test_weight_norm_adds_one_length_per_output_channel():
    without = dataclasses.replace(SMALL, weight_norm=False)
    assert num_cell_params(SMALL) - num_cell_params(without) == (8 + 16) + (4 + 8) + (4 + 8)


def test_every_branch_reaches_every_other():
    three = {
        "branch_channels": (4, 4, 8),
        "blocks_per_branch": (1, 2, 1),
        "big_kernels": (0, 1, 0),
        "head_channels": (2, 2, 2),
    }
    f, z0, args = problem(dataclasses.replace(SMALL, **three))
    assert [z.shape[1:] for z in z0] == [(8, 8, 4), (4, 4, 4), (2, 2, 8)]
    f, z = jax.jit(f), states_like(z0)
    base = f(z, args)
    for j in range(3):
        moved = f(tuple(3 * a if i == j else a for i, a in enumerate(z)), args)
        assert all(jnp.abs(a - b).max() > 1e-3 for a, b in zip(base, moved, strict=True))


def test_a_sample_does_not_see_the_others():
    f, z0, args = problem(SMALL)
    f, z = jax.jit(f), states_like(z0)
    alone = f(tuple(a[1:2] for a in z), args._replace(x=args.x[1:2]))
    for a, b in zip(f(z, args), alone, strict=True):
        np.testing.assert_allclose(a[1:2], b, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_mean_and_scales_by_its_inverse():
    config = dataclasses.replace(SMALL, dropout=0.25, blocks_per_branch=(2, 1))
    masks = dropout_masks(jax.random.key(0), config, 20_000, jnp.float32)
    assert [[m.shape for m in branch] for branch in masks] == [
        [(20_000, 1, 1, 4)] * 2,
        [(20_000, 1, 1, 8)],
    ]
    for mask in jax.tree.leaves(masks):
        assert set(np.unique(mask)) == {0.0, np.float32(1 / 0.75)}
        # The standard error is √(0.25/0.75/80000) = 0.002 at most.
        np.testing.assert_allclose(mask.mean(), 1, atol=0.01)


def test_dropout_draws_differ_by_sample_channel_block_and_branch():
    config = dataclasses.replace(
        SMALL, dropout=0.5, branch_channels=(8, 8), blocks_per_branch=(2, 2)
    )
    masks = jax.tree.leaves(dropout_masks(jax.random.key(0), config, 64, jnp.float32))
    for i, mask in enumerate(masks):
        assert len(np.unique(mask.reshape(64, 8), axis=0)) > 32
        assert all((mask != other).any() for other in masks[:i])


def test_dropout_is_drawn_once_per_solve_and_off_in_evaluation():
    config = dataclasses.replace(SMALL, dropout=0.5)
    f, z0, args = problem(config, train=True, key=0)
    f, z = jax.jit(f), states_like(z0)
    for a, b in zip(f(z, args), f(z, args), strict=True):
        np.testing.assert_array_equal(a, b)
    _, _, other = problem(config, train=True, key=1)
    pairs = zip(jax.tree.leaves(args.masks), jax.tree.leaves(other.masks), strict=True)
    assert any((a != b).any() for a, b in pairs)
    assert problem(config).args.masks is None


def test_dropout_multiplies_what_the_second_convolution_returns():
    config = one_branch(dropout=0.5)
    f, z0, args = problem(config, train=True, key=0)
    nothing = jax.tree.map(jnp.zeros_like, args.masks)
    silent = jax.tree.map(lambda x: x, args.params)
    kernel = silent["branches_0_blocks_0"]["conv2"]["kernel"]
    silent["branches_0_blocks_0"]["conv2"]["kernel"] = jnp.zeros_like(kernel)
    f, z = jax.jit(f), states_like(z0)
    [masked] = f(z, args._replace(masks=nothing))
    [expected] = f(z, args._replace(masks=None, params=silent))
    np.testing.assert_allclose(masked, expected, rtol=1e-6, atol=1e-6)


def test_initial_values_are_the_originals():
    config = ModelConfig(expansion=2)
    cell = init_cell(jax.random.key(0), config)
    conv = cell["branches_0_blocks_0"]["conv1"]
    bound = (24 * 9) ** -0.5
    assert 0.95 * bound < jnp.abs(conv["v"]).max() <= bound
    np.testing.assert_allclose(conv["v"].std(), bound / 3**0.5, rtol=0.05)
    lengths = np.linalg.norm(conv["v"].reshape(-1, 48), axis=0)
    np.testing.assert_allclose(conv["g"], lengths, rtol=1e-5)
    fused = cell["fuse_layers_1_0"]["net_0"]["conv"]["kernel"]
    np.testing.assert_allclose(fused.std(), 0.01, rtol=0.05)
    assert set(cell["post_fuse_layers_1"]["conv"]) == {"g", "v"}


def test_without_weight_norm_all_kernels_are_plain_and_small():
    cell = init_cell(jax.random.key(0), ModelConfig(expansion=2, weight_norm=False))
    conv = cell["branches_0_blocks_0"]["conv1"]
    assert set(conv) == {"kernel"}
    np.testing.assert_allclose(conv["kernel"].std(), 0.01, rtol=0.05)
