"""Pictures and animations of flow."""

import numpy as np
import pytest
from PIL import Image

from mdeq_jax.flow.pictures import draw_flow, save_animation


def colour(x, y, largest=1.0):
    return draw_flow(np.array([[[x, y]]], np.float32), largest)[0, 0].tolist()


def test_the_colours_of_the_wheel():
    # Middlebury's wheel: right is red, left is cyan, down is yellow, up is blue to violet.
    assert colour(1, 0) == [255, 0, 0]
    red, green, blue = colour(-1, 0)
    assert red == 0
    assert min(green, blue) > 180
    red, green, blue = colour(0, 1)
    assert min(red, green) > 180
    assert blue == 0
    red, green, blue = colour(0, -1)
    assert blue == 255
    assert green == 0
    assert colour(0, 0) == [255, 255, 255]


def test_the_saturation_is_the_length():
    assert colour(0.5, 0) == [255, 127, 127]
    assert colour(1, 0, largest=2) == colour(0.5, 0)
    # Beyond the largest length the colour darkens.
    assert max(colour(3, 0)) < 200


def test_frames_of_a_film_share_a_scale():
    film = np.zeros((2, 3, 4, 2), np.float32)
    film[0, ..., 0], film[1, ..., 0] = 1, 2
    pictures = draw_flow(film)
    assert pictures.shape == (2, 3, 4, 3)
    assert pictures[0, 0, 0].tolist() == [255, 127, 127]
    assert pictures[1, 0, 0].tolist() == [255, 0, 0]
    # A frame alone takes its own.
    assert draw_flow(film[0])[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_longest_flow_is_not_beyond_the_scale(dtype):
    flow = np.random.default_rng(0).normal(size=(40, 50, 2)).astype(dtype)
    picture = draw_flow(flow)
    longest = np.unravel_index(np.linalg.norm(flow, axis=-1).argmax(), (40, 50))
    assert picture[longest].max() >= 250


def test_the_scale_must_be_above_0():
    with pytest.raises(ValueError, match="largest is 0"):
        draw_flow(np.zeros((1, 1, 2)), largest=0)


def test_an_animation_comes_back(tmp_path):
    path = tmp_path / "film.gif"
    pictures = [np.full((6, 8, 3), grey, np.uint8) for grey in (0, 100, 200)]
    save_animation(path, iter(pictures), frames_per_s=5)
    with Image.open(path) as film:
        assert film.n_frames == 3
        assert film.size == (8, 6)
        assert film.info["loop"] == 0
        for number, picture in enumerate(pictures):
            film.seek(number)
            assert film.info["duration"] == 200
            np.testing.assert_array_equal(film.convert("RGB"), picture)


PICTURE = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "pictures", "speed", "message"),
    [
        ("film.mp4", [PICTURE], 10, r"film.mp4 is no GIF file; let its name end in \.gif"),
        ("film.gif", [], 10, "found none"),
        ("film.gif", [PICTURE, PICTURE[:1]], 10, "found 3×1, 3×2"),
        ("film.gif", [PICTURE], 0, "frames_per_s is 0"),
    ],
)
def test_animations_that_cannot_be_written(tmp_path, name, pictures, speed, message):
    with pytest.raises(ValueError, match=message):
        save_animation(tmp_path / name, pictures, speed)
    assert list(tmp_path.iterdir()) == []
