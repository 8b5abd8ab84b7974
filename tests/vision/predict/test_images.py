"""Which images are predicted, and what the model is given of them."""

from pathlib import Path

import numpy as np
import pytest

from mdeq_jax.vision.config import DataConfig
from mdeq_jax.vision.data import find_dataset
from mdeq_jax.vision.predict.images import find_images, model_input

CITYSCAPES = find_dataset(DataConfig(name="cityscapes"))


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_with_all_below_in_order(tmp_path):
    make_files(tmp_path, "b/2.png", "b/10.jpg", "a.PNG", "notes.txt", ".hidden.png")
    found = find_images([str(tmp_path)], Path("out"))
    assert list(found) == ["a", "b/10", "b/2"]
    assert found["b/10"] == tmp_path / "b/10.jpg"


def test_what_systems_add_is_not_predicted(tmp_path):
    hidden = (".thumbs/x.png", "b/.thumbs/deep/x.png", "__MACOSX/._a.png", "b/._1.png")
    make_files(tmp_path, "a.png", "b/1.webp", "c.png/1.jpg", *hidden)
    assert list(find_images([str(tmp_path)], Path("out"))) == ["a", "b/1", "c.png/1"]


def test_a_folder_that_is_itself_hidden(tmp_path):
    make_files(tmp_path, ".cache/a.png")
    assert list(find_images([str(tmp_path / ".cache")], Path("out"))) == ["a"]


def test_images_by_name(tmp_path):
    make_files(tmp_path, "b/2.png", "x/1.data", "c/3.png")
    sources = [str(tmp_path / "b/2.png"), str(tmp_path / "x/1.data"), str(tmp_path / "c")]
    assert list(find_images(sources, Path("out"))) == ["2", "1", "3"]


@pytest.mark.parametrize(
    ("sources", "output", "message"),
    [
        (["gone.png"], "out", "gone.png does not exist; --input takes images and folders"),
        (["empty"], "out", "empty holds no image .*put images there"),
        (["twins"], "out", "twins holds images that differ by their suffix"),
        (["a/1.png", "b"], "out", r"b/1.jpg and .*a/1.png would have .* '1'"),
        (["a"], "a/out", "out lies in .*; use another --output"),
    ],
)
def test_inputs_that_are_refused(tmp_path, sources, output, message):
    make_files(tmp_path, "a/1.png", "b/1.jpg", "twins/x.png", "twins/x.jpg", "empty/readme")
    with pytest.raises(ValueError, match=message):
        find_images([str(tmp_path / source) for source in sources], tmp_path / output)


def test_segmentation_sees_the_image_at_its_size():
    image = np.zeros((5, 7, 3), np.uint8)
    image[2, 3] = (255, 128, 0)
    pixels = model_input(image, "segmentation", CITYSCAPES)
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.float32
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(pixels[2, 3], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("digits", (8, 8), (3 / 16 - 0.3) / 0.38),  # its greys are sixteenths
        ("cifar10", (32, 32), (0.2 - 0.4914) / 0.2023),
        ("imagenet2012", (64, 64), (0.2 - 0.485) / 0.229),
        ("digit_scenes", (64, 64), (0.2 - 0.485) / 0.229),
    ],
)
def test_a_classifier_sees_the_pixels_that_it_was_trained_on(name, size, expected):
    image = np.full((90, 70, 3), 51, np.uint8)
    dataset = find_dataset(DataConfig(name=name, image_size=size))
    pixels = model_input(image, "classification", dataset)
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (40, 64), (65, 16), (3, 5)])
def test_a_classifier_sees_the_middle_at_its_own_size(shape):
    """The digit fills the middle square; what lies beside it is not seen."""
    side = min(shape)
    top, left = ((n - side) // 2 for n in shape)
    image = np.full((*shape, 3), 255, np.uint8)
    image[top : top + side, left : left + side] = 51
    pixels = model_input(image, "classification", find_dataset(DataConfig()))
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, (3 / 16 - 0.3) / 0.38, rtol=1e-5)
