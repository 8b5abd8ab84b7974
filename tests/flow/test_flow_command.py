"""The command `flow`: the files that it writes, and what it says of wrong input."""

import csv
import dataclasses
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from etils import epath
from flow_damped import CONFIG, SIZE, damped, stream
from flow_layouts import make_kitti, make_sintel, random_flow, random_image, write_image
from invoke import invoke
from PIL import Image

from mdeq_jax.commands import flow as command
from mdeq_jax.flow import outputs
from mdeq_jax.flow.data.formats import read_flow
from mdeq_jax.flow.data.shapes import film
from mdeq_jax.flow.outputs import FilmFiles
from mdeq_jax.flow.pictures import draw_flow
from mdeq_jax.flow.stream import FlowPrediction
from mdeq_jax.images.files import read_image
from mdeq_jax.images.video import read_video
from mdeq_jax.training.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def frames():
    return film(np.random.default_rng(0), SIZE, 4, max_motion=2.0)["frames"]


@pytest.fixture
def checkpoint(tmp_path):
    trained, _ = damped()
    folder = tmp_path / "checkpoint"
    write_checkpoint(epath.Path(folder), trained.variables, dataclasses.asdict(CONFIG), 0)
    return folder


class FakeStream:
    """Takes any frames, and returns a flow that their first pixels determine."""

    compare = True

    def __init__(self):
        self.modes, self.new_scenes = [], []

    def make(self, mode):
        self.modes.append(mode)
        return self

    def __call__(self, first, second, *, new_scene):
        self.new_scenes.append(new_scene)
        flow = np.full((*first.shape[:2], 2), [first[0, 0, 0], second[0, 0, 1]], np.float32)
        cold = 3 + int(not new_scene)
        return FlowPrediction(flow, 3, 1e-3, True, not new_scene, cold)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_frames(frames, tmp_path, capsys):
    source, output = tmp_path / "frames", tmp_path / "out"
    source.mkdir()
    for name, frame in zip(("f1", "f2", "f10"), frames, strict=False):
        Image.fromarray(frame).save(source / f"{name}.png")
    predict = stream(warm_start=True, compare=True)
    pairs = itertools.pairwise(frames[:3])
    truth = [predict(*pair, new_scene=i == 0) for i, pair in enumerate(pairs)]
    result = command.main(output, lambda mode: predict, inputs=[str(source)])
    names = ("colour/f1.png", "colour/f2.png", "flow.gif", "flow/f1.flo", "flow/f2.flo")
    assert written(output) == [*names, "solver.csv"]
    largest = max(np.linalg.norm(found.flow, axis=-1).max() for found in truth)
    for name, found in zip(("f1", "f2"), truth, strict=True):
        np.testing.assert_array_equal(read_flow(output / f"flow/{name}.flo").flow, found.flow)
        colours = read_image(output / f"colour/{name}.png")
        np.testing.assert_array_equal(colours, draw_flow(found.flow, float(largest)))
    with Image.open(output / "flow.gif") as animation:
        assert (animation.n_frames, animation.size) == (2, (128, 64))
    rows = rows_of(output / "solver.csv")
    assert [row["frame"] for row in rows] == ["f1", "f2"]
    assert [int(row["solver_steps"]) for row in rows] == [found.solver_steps for found in truth]
    saved = truth[1].cold_solver_steps - truth[1].solver_steps
    expected = {"frames": 3, "pairs": 2, "converged": 1, "warm": 0.5, "steps_saved": saved}
    assert expected.items() <= result.items()
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_video_from_the_command_line(frames, checkpoint, tmp_path, capsys):
    video, output = tmp_path / "film.avi", tmp_path / "out"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for frame in frames[:3]:
        writer.write(frame[..., ::-1])
    writer.release()
    flags = f"--checkpoint={checkpoint}", f"--input={video}", f"--output={output}"
    assert invoke(command.run, *flags, "--warm-start", "--steps=4") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["frames"] == 3
    assert result["solver_steps"] == 4
    assert result["wall_s"] > 0
    assert "cold_solver_steps" not in result
    predict = stream(warm_start=True, steps=4)
    for number, pair in enumerate(itertools.pairwise(read_video(video)), start=1):
        expected = predict(*pair, new_scene=number == 1).flow
        found = read_flow(output / f"flow/{number:06}.flo").flow
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_films_that_are_interrupted(tmp_path, caplog):
    """By a change of size, by a frame that cannot be read, and by the end of a folder."""
    source, output, fake = tmp_path / "frames", tmp_path / "out", FakeStream()
    small, large = (8, 16), (24, 32)
    for number, size in enumerate((small, small, large, large, large, large), start=1):
        write_image(source / f"a{number}.png", number, size)
    for number in (1, 2):
        write_image(source / f"sub/b{number}.png", number, small)
    (source / "a5.png").write_bytes(b"no image")
    write_image(source / "a7.png", 7, large)
    with pytest.raises(ValueError, match=r"1 of 9 frames .*a5\.png is not.*4 pairs of others"):
        command.main(output, fake.make, inputs=[str(source)])
    assert [row["frame"] for row in rows_of(output / "solver.csv")] == ["a1", "a3", "a6", "sub/b1"]
    assert fake.new_scenes == [True] * 4
    assert "no flow from a2 to a3: their sizes are (8, 16) and (24, 32)" in caplog.text
    assert (output / "flow/sub/b1.flo").is_file()
    assert read_flow(output / "flow/a3.flo").flow.shape == (*large, 2)
    with Image.open(output / "flow.gif") as animation:
        assert animation.size == (2 * 16, 8)


def test_a_submission_to_sintel(tmp_path):
    make_sintel(tmp_path)
    fake, output = FakeStream(), tmp_path / "out"
    result = command.main(output, fake.make, submission="sintel", root=str(tmp_path))
    pairs = ("alley_1/frame0001", "alley_1/frame0002", "market_2/frame0001")
    files = [f"flow/{render}/{pair}.flo" for render in ("clean", "final") for pair in pairs]
    assert written(output) == [*files, "solver.csv"]
    assert fake.modes == ["sintel"]
    assert fake.new_scenes == [True, False, True] * 2
    assert result["pairs"] == 6
    assert result["steps_saved"] == 1
    expected = random_image(2)[0, 0, 0], random_image(3)[0, 0, 1]
    assert tuple(read_flow(output / files[1]).flow[0, 0]) == expected


def test_a_submission_to_kitti(tmp_path):
    make_kitti(tmp_path)
    fake, output = FakeStream(), tmp_path / "out"
    command.main(output, fake.make, submission="kitti", root=str(tmp_path))
    assert written(output) == ["flow/000000_10.png", "flow/000001_10.png", "solver.csv"]
    assert fake.modes == ["kitti"]
    assert fake.new_scenes == [True, True]
    assert read_flow(output / "flow/000001_10.png").flow[0, 0, 0] == random_image(11)[0, 0, 0]


def test_the_animation_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_MOST_PICTURES", 4)
    files = FilmFiles(tmp_path, max_flow=20.0)
    for number in range(11):
        files.add(f"{number}", np.full((640, 320, 3), 20 * number, np.uint8), random_flow(number))
    files.draw()
    assert len([*(tmp_path / "colour").iterdir()]) == 11
    np.testing.assert_array_equal(
        read_image(tmp_path / "colour/3.png"), draw_flow(random_flow(3), 20.0)
    )
    with Image.open(tmp_path / "flow.gif") as animation:
        assert animation.size == (2 * 160, 320)
        assert animation.n_frames == 3
        shown = [frame.convert("RGB").getpixel((5, 5))[0] for frame in _each(animation)]
    np.testing.assert_allclose(shown, [0, 80, 160], atol=3)


def _each(animation):
    for number in range(animation.n_frames):
        animation.seek(number)
        yield animation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["one"]}, r"--input has 1 frame\(s\), .*at least two"),
        ({"inputs": ["one/a.png"]}, r"a\.png is a single image.*give the folder"),
        ({"inputs": ["empty"]}, r"empty holds no image"),
        ({"inputs": ["nowhere"]}, r"nowhere does not exist"),
        ({"inputs": ["nowhere.mp4"]}, r"nowhere\.mp4 does not exist"),
        ({"inputs": ["text.mp4"]}, r"text\.mp4 is not a video"),
        ({"inputs": ["one", "text.mp4"]}, r"text\.mp4 is a video, .*alone"),
        ({"inputs": ["."]}, r"out lies in .*another --output"),
        ({"inputs": ["small"]}, r"frames are 8×64; .*16×16.*Enlarge"),
        ({"inputs": ["one"], "max_flow": 0.0}, r"largest flow .* is 0\.0"),
        ({"inputs": ["one"], "submission": "kitti", "root": "."}, r"either --input, or"),
        ({"submission": "kitti"}, r"--submission and --root"),
        ({"submission": "sintel", "root": "one"}, r"has no Sintel/test/clean"),
        ({}, r"either --input, or --submission"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_image(Path("one/a.png"), 1)
    for name in ("a", "b"):
        write_image(Path(f"small/{name}.png"), 1, (64, 8))
    Path("empty").mkdir()
    Path("text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=message):
        command.main(Path("out"), lambda mode: stream(), **options)


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    options = {"warm_start": True, "compare": False, "steps": None}
    with pytest.raises(ValueError, match=r"pairs of KITTI are no film"):
        command.load_stream(str(checkpoint), "kitti", **options)
    other = tmp_path / "other"
    write_checkpoint(epath.Path(other), {"params": {}, "batch_stats": {}}, {"app": "regression"}, 0)
    with pytest.raises(ValueError, match=r"application 'regression'; give one of 'flow'"):
        command.load_stream(str(other), "sintel", **options)
