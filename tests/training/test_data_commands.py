"""train.py, eval.py and predict on CIFAR-10, ImageNet and a folder, as a user runs them."""

import subprocess
import sys
import time

import pytest
from archives import (
    Cifar10,
    Imagenet2012,
    imagenet_files,
    jpeg,
    photograph,
    prepare_without_tensorflow,
    write_imagenet_archives,
)
from tiny import ROOT, call, last_json, recorded_step, run, start

pytestmark = pytest.mark.slow

SHORT = {
    "data__batch_size": "24",
    "data__eval_batch_size": "24",
    "data__image_size": "(32, 32)",
    "optim__name": "adam",
    "optim__learning_rate": "0.001",
    "solver__forward__stop_mode": "rel",
    "train__steps": "20",
    "train__pretrain_steps": "5",
    "train__checkpoint_seconds": "0",
}


def write_folder(root):
    for split, count in (("train", 40), ("val", 10)):
        for label in range(3):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                content = jpeg(photograph((label, number), (48, 40)))
                (folder / f"{number}.jpg").write_bytes(content)


def check_commands(scratch, config, examples, **overrides):
    """Train 20 steps, and evaluate."""
    overrides = SHORT | overrides
    workdir = scratch / "a"
    code, out, err = call("train.py", scratch, f"--workdir={workdir}", config=config, **overrides)
    assert code == 0, err
    final = last_json(out)
    assert final["steps"] == 20
    assert final["eval/examples"] == examples
    checkpoint = f"--checkpoint={workdir}"
    code, out, err = call("eval.py", scratch, checkpoint, config=config, **overrides)
    assert code == 0, err
    assert last_json(out)["eval/loss"] == final["eval/loss"]


def interrupt_and_resume(scratch, config, resumed_with, **overrides):
    """Train 20 steps, and again with a signal and other workers in between."""
    overrides = SHORT | overrides
    whole = f"--workdir={scratch / 'a'}"
    code, out, err = run("train.py", scratch, whole, config=config, **overrides)
    assert code == 0, err
    final = last_json(out)
    cut = scratch / "b"
    disturbed = ("train.py", scratch, f"--workdir={cut}")
    process = start(*disturbed, config=config, **overrides)
    while recorded_step(cut) < 5:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.terminate()
    assert last_json(process.communicate(timeout=120)[0])["interrupted"]
    code, out, err = run(*disturbed, config=config, **overrides | resumed_with)
    assert code == 0, err
    again = last_json(out)
    assert 5 <= again["resumed_from_step"] < 20
    assert again["params_sha256"] == final["params_sha256"]


def test_cifar10(tmp_path):
    prepare_without_tensorflow(Cifar10, tmp_path / "data")
    check_commands(tmp_path, "cifar10_tiny", 60, data__augment="True")


def test_imagenet2012(tmp_path):
    prepare_without_tensorflow(Imagenet2012, tmp_path / "data")
    check_commands(tmp_path, "imagenet_small", 60)


def test_imagenet2012_from_its_archives(tmp_path):
    """Prepared by the stock builder, where TensorFlow is installed."""
    pytest.importorskip("tensorflow")
    write_imagenet_archives(tmp_path / "archives", imagenet_files())
    command = [
        sys.executable,
        "-m",
        "mdeq_jax.commands.prepare",
        "--name=imagenet2012",
        "--partial",
    ]
    command += [f"--source={tmp_path / 'archives'}", f"--data-dir={tmp_path / 'data'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples" in done.stderr  # its progress
    check_commands(tmp_path, "imagenet_small", 60)


def test_a_folder(tmp_path):
    write_folder(tmp_path / "own")
    own = {"data__name": "folder", "data__root": str(tmp_path / "own"), "model__num_classes": "3"}
    (tmp_path / "moved").symlink_to(tmp_path / "own")
    moved = {"data__root": f"{tmp_path / 'moved'}/", "data__workers": "1"}
    interrupt_and_resume(tmp_path, "imagenet_small", moved, **own)
    flags = (f"--checkpoint={tmp_path / 'a'}", f"--input={tmp_path / 'own/val'}")
    code, out, err = call(
        "predict",
        tmp_path,
        *flags,
        f"--output={tmp_path / 'out'}",
        config="imagenet_small",
        **SHORT | own,
    )
    assert code == 0, err
    assert last_json(out)["images"] == 30
    table = (tmp_path / "out/top5.csv").read_text().splitlines()
    assert len(table) == 31
    assert table[0].startswith("image,class_1,probability_1")
    assert "class_" in table[1]


def test_a_folder_that_lacks_a_class(tmp_path):
    write_folder(tmp_path / "own")
    own = {"data__name": "folder", "data__root": str(tmp_path / "own")}
    code, _, err = call(
        "train.py", tmp_path, f"--workdir={tmp_path / 'a'}", config="imagenet_small", **SHORT | own
    )
    assert code == 2
    assert "config.model.num_classes is 1000, but data set 'folder' has 3 classes" in err
