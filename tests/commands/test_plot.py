"""`python -m mdeq_jax.commands.plot` on a small random model."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath
from invoke import invoke
from PIL import Image

from mdeq_jax.commands.plot import run
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.model import create_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viz")
    model = {"branch_channels": (8, 8), "head_channels": (4, 4), "expansion": 1, "num_groups": 4}
    solver = {name: {"max_steps": 5} for name in ("forward", "backward")}
    data = {"dir": str(folder / "data")}
    config = finalize({"model": model, "solver": solver, "data": data})
    images = np.zeros((1, 8, 8, 3), np.float32)
    variables = create_model(config.model).init(jax.random.key(0), images)
    path = epath.Path(folder / "checkpoint")
    path.mkdir()
    write_checkpoint(path, variables, dataclasses.asdict(config), step=1)
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("traces", "--images=8"), marks=pytest.mark.slow),
        ("formation", "--image=3", "--max-steps=4"),
        ("steps", "--images=130"),  # more than a batch
        pytest.param(("radius", "--images=8", "--iterations=3"), marks=pytest.mark.slow),
    ],
)
def test_a_picture(checkpoint, tmp_path, command, capsys):
    output = tmp_path / "picture.png"
    assert invoke(run, *command, f"--checkpoint={checkpoint}", f"--output={output}") == 0
    assert json.loads(capsys.readouterr().out) == {"wrote": str(output)}
    with Image.open(output) as picture:
        assert picture.width > 800


def test_an_animation(checkpoint, tmp_path):
    output = tmp_path / "formation.gif"
    assert invoke(run, "formation", f"--checkpoint={checkpoint}", f"--output={output}") == 0
    with Image.open(output) as animation:
        assert animation.n_frames == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["steps", "--checkpoint=nowhere", "--output=a.png"], "nowhere is not a folder"),
        (["curves", "--workdir=nowhere", "--output=a.png"], "there is no nowhere"),
        (["formation", "--image=360", "--output=a.png"], "--image is 360, but images are 0 to 359"),
        (["formation", "--output=a.jpeg2"], "jpeg2"),
    ],
)
def test_what_cannot_be_drawn(checkpoint, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    if options[0] == "formation":
        options = [*options, f"--checkpoint={checkpoint}"]
    assert invoke(run, *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [[], ["picture", "--output=a.png"], ["steps", "--output=a.png", "--images=0"]]
)
def test_usage(options):
    assert invoke(run, *options) == 2
