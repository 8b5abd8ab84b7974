"""Augmentation of image pairs: what happens to flow follows from what happens to the image."""

import dataclasses

import numpy as np
import pytest
from flow_layouts import assert_same, random_flow, random_image, random_valid

from mdeq_jax.flow.data.augmentation import RECIPES, Recipe, augment, flip, resize

SIZE = (40, 56)
MATRIX, SHIFT = np.array([[0.05, -0.02], [0.03, 0.04]]), np.array([1.5, -0.75])


def generator(seed=0):
    return np.random.default_rng(seed)


def centres(size):
    """Return (x, y) of the pixels' centres, the image's upper left corner being (0, 0)."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.stack([x, y], axis=-1)


def affine_flow(points):
    """Return the flow that takes p to p + MATRIX p + SHIFT."""
    return points @ MATRIX.T + SHIFT


def dense_example(size=SIZE):
    return {
        "first": random_image(1, size),
        "second": random_image(2, size),
        "flow": affine_flow(centres(size)).astype(np.float32),
        "valid": np.ones(size, bool),
    }


def sparse_example(size=SIZE):
    valid = random_valid(3, size)
    return {**dense_example(size), "flow": random_flow(4, size) * valid[..., None], "valid": valid}


def position_example(size=SIZE):
    """Return an example whose images hold 4 times each pixel's x and y."""
    image = np.dstack([4 * (centres(size) - 0.5), np.zeros(size)]).astype(np.uint8)
    return {**dense_example(size), "first": image, "second": image}


def test_nothing_is_switched_on_by_default():
    for example in (dense_example(), sparse_example()):
        for sparse in (False, True):
            assert_same(augment(example, Recipe(sparse=sparse), SIZE, generator()), example)


@pytest.mark.parametrize("name", RECIPES)
def test_the_generator_determines_the_example(name):
    make = sparse_example if RECIPES[name].sparse else dense_example
    results = [augment(make(), RECIPES[name], (24, 32), generator(seed)) for seed in (5, 5, 6)]
    assert_same(results[0], results[1])
    assert (results[0]["first"] != results[2]["first"]).any()


@pytest.mark.parametrize("name", RECIPES)
def test_the_source_is_not_changed(name):
    example, expected = dense_example(), dense_example()
    for seed in range(4):
        augment(example, RECIPES[name], (24, 32), generator(seed))
    assert_same(example, expected)


@pytest.mark.parametrize("size", [(80, 112), (52, 60), (30, 56), (33, 41)])
def test_affine_flow_is_right_at_another_size(size):
    """With p' = S p, flow is S (A p + b) = S A S⁻¹ p' + S b."""
    found = resize(dense_example(), size, sparse=False)
    scale = np.array([size[1] / SIZE[1], size[0] / SIZE[0]])
    inside = slice(1, -1), slice(1, -1)  # bilinear interpolation does not extrapolate
    expected = scale * affine_flow(centres(size) / scale)
    np.testing.assert_allclose(found["flow"][inside], expected[inside], atol=2e-5)
    assert found["valid"].all()
    assert found["flow"].dtype == np.float32


def test_image_and_dense_flow_move_alike():
    """Flow that is a multiple of the image stays so, up to the image's rounding."""
    example = dense_example()
    example["flow"] = example["first"][..., :2].astype(np.float32)
    found = resize(example, (60, 90), sparse=False)
    unscaled = found["flow"] / [90 / 56, 60 / 40]
    np.testing.assert_allclose(unscaled, found["first"][..., :2], atol=1.01)


def test_dense_flow_beside_unknown_flow_is_unknown():
    example = dense_example()
    example["valid"][10, 20] = False
    example["flow"][10, 20] = 0
    found = resize(example, (80, 112), sparse=False)
    expected = np.ones((80, 112), bool)
    expected[19:23, 39:43] = False
    np.testing.assert_array_equal(found["valid"], expected)
    inside = expected & (np.pad(np.ones((78, 110), bool), 1))
    truth = 2 * affine_flow(centres((80, 112)) / 2)
    np.testing.assert_allclose(found["flow"][inside], truth[inside], atol=2e-5)
    assert not found["flow"][~expected].any()


@pytest.mark.parametrize("size", [(80, 112), (61, 77), (41, 57)])
def test_sparse_flow_is_moved_and_scaled_exactly(size):
    example = sparse_example()
    found = resize(example, size, sparse=True)
    scale = np.array([size[1] / SIZE[1], size[0] / SIZE[0]])
    rows, columns = np.nonzero(example["valid"])
    x, y = np.floor(scale[:, None] * (np.array([columns, rows]) + 0.5)).astype(int)
    assert found["valid"].sum() == example["valid"].sum()
    assert found["valid"][y, x].all()
    expected = example["flow"][rows, columns] * scale.astype(np.float32)
    np.testing.assert_array_equal(found["flow"][y, x], expected)
    assert not found["flow"][~found["valid"]].any()


@pytest.mark.parametrize("size", [(20, 28), (13, 17)])
def test_sparse_flow_at_a_smaller_size_comes_from_its_own_area(size):
    example = sparse_example()
    example["flow"] = centres(SIZE).astype(np.float32) * example["valid"][..., None]
    found = resize(example, size, sparse=True)
    distance = np.abs(found["flow"] - centres(size))[found["valid"]]
    assert distance.max() <= 0.5 + 1e-5
    assert found["valid"].mean() > example["valid"].mean()


@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("vertical", [False, True])
def test_affine_flow_is_right_after_a_flip(horizontal, vertical):
    """With p' = c + M p, flow is M (A p + b)."""
    found = flip(dense_example(), horizontal=horizontal, vertical=vertical)
    mirror = np.array([-1 if horizontal else 1, -1 if vertical else 1])
    corner = np.array([SIZE[1] * horizontal, SIZE[0] * vertical])
    expected = mirror * affine_flow((centres(SIZE) - corner) * mirror)
    np.testing.assert_allclose(found["flow"], expected, atol=1e-5)
    image = random_image(1, SIZE)
    image = image[:, ::-1] if horizontal else image
    np.testing.assert_array_equal(found["first"], image[::-1] if vertical else image)


@pytest.mark.parametrize("overhang", [((0, 0), (0, 0)), ((5, 20), (50, 50))])
def test_the_crop_is_one_for_images_and_flow(overhang):
    corners = set()
    for seed in range(100):
        found = augment(position_example(), Recipe(overhang=overhang), (36, 50), generator(seed))
        left, top = found["first"][0, 0, :2] // 4
        corners.add((int(top), int(left)))
        window = slice(top, top + 36), slice(left, left + 50)
        assert_same(found, {k: array[window] for k, array in position_example().items()})
    assert {top for top, _ in corners} == set(range(5))
    assert {0, 6} <= {left for _, left in corners} <= set(range(7))


def test_overhang_makes_crops_at_edges_likelier():
    """Of 21 places 5 and 11 lie beyond the upper and the lower edge, and are moved to it."""
    recipe, example = Recipe(overhang=((5, 11), (0, 0))), position_example((12, 8))
    tops = [
        augment(example, recipe, (8, 8), generator(seed))["first"][0, 0, 1] // 4
        for seed in range(2000)
    ]
    shares = np.bincount(tops, minlength=5) / len(tops)
    np.testing.assert_allclose(shares, np.array([6, 1, 1, 1, 12]) / 21, atol=0.03)


def test_a_smaller_image_is_scaled_up_in_proportion():
    recipe = Recipe()
    found = augment(position_example(), recipe, (80, 60), generator())
    assert found["flow"].shape == (80, 60, 2)
    step = np.diff(found["first"][..., 0].astype(float)).mean()
    assert step == pytest.approx(4 / 2, rel=0.05)  # both axes by 80 / 40
    found = augment(
        sparse_example(), dataclasses.replace(recipe, sparse=True), (41, 57), generator()
    )
    assert found["valid"].shape == (41, 57)


@pytest.mark.parametrize(
    ("recipe", "least", "most"),
    [
        (Recipe(scale=(0.5, 1.0), scale_probability=1.0, stretch=0.0), 0.5, 1.0),
        (Recipe(scale=(0.0, 0.0), scale_probability=1.0, stretch_probability=1.0), -0.2, 0.2),
        (Recipe(scale=(-3.0, -3.0), scale_probability=1.0), -1.0, -1.0),
        (Recipe(scale=(2.0, 2.0), scale_probability=0.0, stretch_probability=1.0), 0.0, 0.0),
    ],
)
def test_scales(recipe, least, most):
    """The scale of the flow says by how much the pair was scaled; the crop is half as large."""
    example = {**dense_example(), "flow": np.ones((*SIZE, 2), np.float32)}
    crop = (20, 28)
    logarithms = np.log2(
        [augment(example, recipe, crop, generator(seed))["flow"][0, 0] for seed in range(200)]
    )
    assert logarithms.min() == pytest.approx(least, abs=0.05)
    assert logarithms.max() == pytest.approx(most, abs=0.05)
    alike = np.abs(logarithms[:, 0] - logarithms[:, 1]).max() < 0.05
    assert alike == (not recipe.stretch_probability or not recipe.scale_probability)


def test_flips_are_as_frequent_as_asked_for():
    recipe = Recipe(flips=(0.5, 0.1))
    example = {**dense_example((8, 8)), "flow": np.ones((8, 8, 2), np.float32)}
    signs = [
        augment(example, recipe, (8, 8), generator(seed))["flow"][0, 0] for seed in range(2000)
    ]
    np.testing.assert_allclose(np.mean(np.array(signs) < 0, axis=0), [0.5, 0.1], atol=0.03)


def test_margin_is_room_for_the_crop_of_a_scaled_pair():
    recipe = Recipe(scale=(-3, -3), scale_probability=1.0, margin=8)
    example = {**dense_example(), "flow": np.ones((*SIZE, 2), np.float32)}
    found = augment(example, recipe, (20, 28), generator())
    np.testing.assert_allclose(found["flow"], 28 / 40, rtol=0.02)  # (20 + 8) / 40 > (28 + 8) / 56


def test_the_recipes_are_those_of_upstream():
    scales = {name: recipe.scale for name, recipe in RECIPES.items()}
    assert scales == {
        "chairs": (-0.1, 1.0),
        "things": (-0.4, 0.8),
        "sintel": (-0.2, 0.6),
        "sintel_kitti": (-0.3, 0.5),
        "sintel_hd1k": (-0.5, 0.2),
        "kitti": (-0.2, 0.4),
    }
    for recipe in RECIPES.values():
        assert recipe.jitter[0] == (0.3 if recipe.sparse else 0.4)
    assert RECIPES["kitti"].flips == (0, 0)
    assert RECIPES["chairs"].flips == (0.5, 0.1)
