"""Generated scenes: their flow against its closed form, their images against their flow."""

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from mdeq_jax.flow.data import shapes
from mdeq_jax.flow.data.planes import Layer, motion, render
from mdeq_jax.flow.data.shapes import draw_layers, example, film, scene

SIZE = (48, 64)


def generator(seed=0):
    return np.random.default_rng(seed)


def plane(colour=0, **fields):
    """A layer of one colour that does not move, with fields replaced."""
    photograph = np.full((4, 4, 3), colour, np.uint8)
    return Layer(photograph, anchor=0, zoom=1, centre=0)._replace(**fields)


def square(half, **fields):
    """A white square of sides of 2·half pixels."""
    normals = np.array([1, 1j, -1, -1j])
    return plane(255, normals=normals, distances=np.full(4, half), **fields)


def test_the_flow_of_one_motion_is_its_affine_map():
    turn = 1.02 * np.exp(0.05j)
    layers = [plane(centre=20 + 10j, velocity=1.5 - 2j, turn=turn)]
    for t in range(3):
        # The centre moves in a straight line; around it, x and y are turned and scaled.
        centre = np.array([20 + 1.5 * t, 10 - 2 * t])
        cos, sin = 1.02 * np.cos(0.05), 1.02 * np.sin(0.05)
        linear = np.array([[cos, -sin], [sin, cos]]) - np.eye(2)
        x, y = np.meshgrid(np.arange(64), np.arange(48))
        expected = (np.stack([x, y], -1) - centre) @ linear.T + [1.5, -2]
        np.testing.assert_allclose(motion(layers, SIZE, t)["flow"], expected, atol=1e-5)


def test_flow_and_occlusion_of_a_moving_square():
    # It covers the pixels 4…8 of rows 3…7 and moves by 3 to the right and 1 down.
    layers = [plane(), square(2.5, centre=6 + 5j, velocity=3 + 1j)]
    found = motion(layers, (12, 16), 0)
    flow, occluded = np.zeros((12, 16, 2)), np.zeros((12, 16), bool)
    flow[3:8, 4:9] = 3, 1
    # The square hides the pixels 7…11 of rows 4…8 of the second image, and those of the first
    # that it covers already are not occluded: they move along.
    occluded[4:9, 7:12] = True
    occluded[3:8, 4:9] = False
    np.testing.assert_array_equal(found["flow"], flow)
    np.testing.assert_array_equal(found["occluded"], occluded)
    assert found["valid"].all()


def test_what_leaves_the_image_is_occluded():
    occluded = motion([plane(velocity=-2 + 1j)], (4, 6), 0)["occluded"]
    expected = np.zeros((4, 6), bool)
    expected[:, :2] = expected[3] = True
    np.testing.assert_array_equal(occluded, expected)


def test_the_nearest_layer_owns_a_pixel():
    far, near = square(2.5, centre=5 + 5j, velocity=1), square(1.5, centre=5 + 5j, velocity=2j)
    flow = motion([plane(), far, near], (11, 11), 0)["flow"]
    assert flow[5, 5].tolist() == [0, 2]
    assert flow[5, 7].tolist() == [1, 0]
    assert flow[5, 8].tolist() == [0, 0]
    swapped = motion([plane(), near, far], (11, 11), 0)["flow"]
    assert swapped[5, 5].tolist() == [1, 0]


def test_a_side_between_pixel_centres_mixes_colours():
    # Sides at 2.75 and 7.25: the pixels at 3 and 7 are 0.25 inside, those at 2 and 8 0.75 outside.
    image = render([plane(), square(2.25, centre=5 + 5j)], (11, 11), 0)
    half = np.rint(0.75 * 255)
    assert image[5, :, 0].tolist() == [0, 0, 0, half, 255, 255, 255, half, 0, 0, 0]


def warped(image, flow):
    x, y = np.meshgrid(*map(np.arange, (image.shape[1], image.shape[0])))
    places = (flow + np.stack([x, y], -1)).astype(np.float32)
    return cv2.remap(image, places, None, cv2.INTER_LINEAR)


def away_from_edges(flow, occluded):
    """Pixels that are not occluded, nor within 2 pixels of a jump of the flow or of the border."""
    steps = np.abs(np.diff(flow, axis=0))[:, :-1] + np.abs(np.diff(flow, axis=1))[:-1]
    edges = np.pad(steps.max(-1) > 0.3, (0, 1), constant_values=True) | occluded
    edges[0] = edges[:, 0] = True
    return cv2.dilate(edges.astype(np.uint8), np.ones((5, 5))) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_second_image_warped_back_is_the_first(seed):
    made = scene(generator(seed), SIZE, max_motion=4, objects=3)
    safe = away_from_edges(made["flow"], made["occluded"])
    assert safe.mean() > 0.3

    def error(flow):
        difference = warped(made["second"], flow) - made["first"].astype(float)
        return np.abs(difference)[safe].mean()

    # In grey levels. Interpolating twice smooths; that alone is the error of the true flow.
    assert error(made["flow"]) < 3
    for wrong in (-made["flow"], 0 * made["flow"]):
        assert error(wrong) > 3 * error(made["flow"])
    assert error(made["flow"][..., ::-1]) > 2 * error(made["flow"])


def test_frames_and_flow_of_a_film_are_those_of_its_pairs():
    made = film(generator(3), SIZE, frames=4)
    pair = scene(generator(3), SIZE)
    assert made["frames"].shape == (4, *SIZE, 3)
    assert made["flow"].shape == (3, *SIZE, 2)
    np.testing.assert_array_equal(made["frames"][0], pair["first"])
    np.testing.assert_array_equal(made["frames"][1], pair["second"])
    np.testing.assert_array_equal(made["flow"][0], pair["flow"])
    # A later pair is the scene of layers that have moved on.
    layers = [
        layer._replace(
            centre=layer.place(0, 2),
            zoom=layer.zoom / layer.turn**2,
            normals=layer.normals * (layer.turn / abs(layer.turn)) ** 2,
            distances=layer.distances * abs(layer.turn) ** 2,
        )
        for layer in draw_layers(generator(3), SIZE)
    ]
    later = motion(layers, SIZE, 0)
    np.testing.assert_allclose(made["flow"][2], later["flow"], atol=1e-4)
    assert (made["occluded"][2] == later["occluded"]).mean() > 0.999
    for t in range(2):
        apart = made["frames"][2 + t].astype(int) - render(layers, SIZE, t)
        assert np.abs(apart).max() <= 2


@pytest.mark.parametrize("max_motion", [0, 0.5, 6, 20])
def test_no_pixel_moves_further_than_the_largest_motion(max_motion):
    speeds = [
        np.linalg.norm(scene(generator(seed), SIZE, max_motion)["flow"], axis=-1).max()
        for seed in range(20)
    ]
    assert max(speeds) <= max_motion + 1e-5
    assert max(speeds) >= 0.6 * max_motion


def test_examples_depend_on_number_seed_and_split_alone():
    first = example(5, 1, "train", SIZE)
    again = example(5, 1, "train", SIZE)
    assert {name: (a.shape, a.dtype.name) for name, a in first.items()} == {
        "first": ((*SIZE, 3), "uint8"),
        "second": ((*SIZE, 3), "uint8"),
        "flow": ((*SIZE, 2), "float32"),
        "valid": (SIZE, "bool"),
        "occluded": (SIZE, "bool"),
    }
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    for other in (example(6, 1, "train", SIZE), example(5, 2, "train", SIZE)):
        assert (other["flow"] != first["flow"]).any()


def test_objects_are_as_many_as_asked_for():
    for objects in (0, 1, 7):
        assert len(draw_layers(generator(), SIZE, objects=objects)) == 1 + objects
    flow = scene(generator(), SIZE, objects=0)["flow"]
    # Without objects the flow is affine: its second differences vanish.
    np.testing.assert_allclose(np.diff(flow, 2, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.diff(flow, 2, axis=1), 0, atol=1e-5)


def test_the_splits_are_the_two_halves_of_the_photographs():
    train, test = map(shapes.photographs, ("train", "test"))
    for left, right, whole in zip(train, test, load_sample_images().images, strict=True):
        half_size = cv2.resize(whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(np.hstack([left.pixels, right.pixels]), half_size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (7, 8)}, "height of a scene is 7"),
        ({"size": (8, 8.5)}, "width of a scene is 8.5"),
        ({"max_motion": -1}, "max_motion is -1"),
        ({"max_motion": np.nan}, "max_motion is nan"),
        ({"objects": -1}, "objects is -1"),
        ({"split": "val"}, "split is 'val'; it must be one of 'train', 'test'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        scene(generator(), **{"size": SIZE, **arguments})


def test_a_film_has_two_frames_at_least():
    with pytest.raises(ValueError, match="frames is 1"):
        film(generator(), SIZE, frames=1)
