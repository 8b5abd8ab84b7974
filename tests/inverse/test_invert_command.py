"""The command `invert`: the files that it writes, and what it says of wrong input."""

import csv
import dataclasses
import json

import cv2
import numpy as np
import pytest
from etils import epath
from generators import SMALL, small
from invoke import invoke

from mdeq_jax.commands import invert as command
from mdeq_jax.images.files import read_image
from mdeq_jax.inverse.generation.corruption import draw_corruption
from mdeq_jax.inverse.generation.data import load_images
from mdeq_jax.inverse.generation.pictures import fit
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.training.weights import Trained, state_of


@pytest.fixture(scope="module")
def trained():
    return Trained(small()[1], SMALL, 2)


@pytest.fixture
def digits(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    for name, image in zip("ab", load_images(SMALL.data, "test"), strict=False):
        cv2.imwrite(str(folder / f"{name}.png"), np.rint(255 * image).astype(np.uint8))
    return folder


def table(output):
    with (output / "psnr.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_noise_from_the_command_line(trained, digits, tmp_path, capsys):
    checkpoint, output = epath.Path(tmp_path / "checkpoint"), tmp_path / "out"
    write_checkpoint(checkpoint, state_of(trained.variables), dataclasses.asdict(SMALL), 0)
    arguments = f"--checkpoint={checkpoint}", f"--input={digits}", f"--output={output}"
    assert invoke(command.run, *arguments, "--task=denoise", "--noise=0.3", "--steps=2") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["images"], result["solver_steps"]) == (2, 2)
    rows = table(output)
    assert [row["image"] for row in rows] == ["a", "b"]
    for number, row in enumerate(rows):
        noise = 0.3 * draw_corruption(0, number, (8, 8, 1), (1, 1)).noise
        np.testing.assert_allclose(
            float(row["psnr_corrupted"]), -10 * np.log10(np.square(noise).mean()), rtol=1e-4
        )
        before, corrupted, after = (
            read_image(output / folder / f"{row['image']}.png")[..., :1] / 255
            for folder in ("before", "corrupted", "after")
        )
        np.testing.assert_allclose(corrupted, (before + noise).clip(0, 1), atol=0.003)
        restored = -10 * np.log10(np.square(after - before).mean())
        np.testing.assert_allclose(float(row["psnr_restored"]), restored, atol=0.1)
        panels = read_image(output / f"compared/{row['image']}.png")
        assert panels.shape == (128, 3 * 128, 3)
        np.testing.assert_array_equal(panels[::16, 128:256:16, :1] / 255, corrupted)


def test_a_hidden_box(trained, digits, tmp_path, caplog):
    large = tmp_path / "large.png"
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 255  # its middle is white
    cv2.imwrite(str(large), picture)
    output = tmp_path / "out"
    result = command.main(trained, [str(digits / "a.png"), str(large)], output, "inpaint")
    assert (result["task"], result["images"]) == ("inpaint", 2)
    assert "1 of 2 images are cut to their middle and scaled to 8×8" in caplog.text
    hidden = 3 * 5 / 64  # white pixels that are black
    found = float(table(output)[1]["psnr_corrupted"])
    np.testing.assert_allclose(found, -10 * np.log10(hidden), rtol=1e-5)
    assert (read_image(output / "corrupted/large.png") == 0).sum() == 3 * 3 * 5


def test_an_image_of_the_right_size_is_kept():
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    np.testing.assert_array_equal(fit(grey.repeat(3, axis=2), (8, 8)), np.float32(grey) / 255)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("digits", {"noise": -0.1}, r"--noise is -0\.1; it must be a number above 0"),
        ("digits", {"box": (3, 9)}, r"box is 3×9, but the images are 8×8"),
        ("empty", {}, r"empty holds no image"),
        ("nowhere", {}, r"nowhere does not exist"),
        ("broken.png", {}, r"broken\.png is not an image"),
    ],
)
def test_what_is_wrong_is_named(trained, digits, tmp_path, inputs, options, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        command.main(trained, [str(tmp_path / inputs)], output, "denoise", **options)
    assert not output.exists()


@pytest.mark.parametrize("box", [["3"], ["3", "x"], ["1", "2", "3"]])
def test_a_box_that_is_none(box):
    with pytest.raises(ValueError, match=rf"--box is {','.join(box)}; give height and width"):
        command._box(box)
