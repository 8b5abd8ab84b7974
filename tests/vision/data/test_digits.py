"""The digits builder: the right rows, and a preparation that survives races and kills."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdeq_jax.vision.data import digits, embedded

FIXTURE = Path(__file__).parents[2] / "fixtures" / "digits_tiny.npz"

PREPARE = """
import random
import sys
from mdeq_jax.vision.data import digits, embedded
random.seed(0)
print("ready", flush=True)
sys.stdin.readline()
print(len(embedded.load_split(digits.Digits, sys.argv[1], "train")))
"""

PREPARE_AND_DIE = """
import os
import signal
import sys
from mdeq_jax.vision.data import digits, embedded
generate = digits.Digits._generate_examples
def die_midway(self, images, labels, rows):
    for position, example in generate(self, images, labels, rows):
        if len(rows) == 360 and position == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        yield position, example
digits.Digits._generate_examples = die_midway
embedded.load_split(digits.Digits, sys.argv[1], "train")
"""


def start(program, directory):
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_splits_are_the_rows_of_their_definition(tmp_path):
    order = np.random.RandomState(0).permutation(1797)
    indices = {
        split: [
            example["index"] for example in embedded.load_split(digits.Digits, str(tmp_path), split)
        ]
        for split in ("train", "test")
    }
    fixture = np.load(FIXTURE)
    np.testing.assert_array_equal(indices["test"], fixture["test_index"])
    np.testing.assert_array_equal(indices["train"], order[:1437])
    labels = [
        example["label"] for example in embedded.load_split(digits.Digits, str(tmp_path), "test")
    ]
    np.testing.assert_array_equal(labels, fixture["labels"])


def test_features_are_raw(tmp_path):
    example = embedded.load_split(digits.Digits, str(tmp_path), "train")[0]
    assert example["image"].shape == (8, 8, 1)
    assert example["image"].dtype == np.uint8
    images = [e["image"] for e in embedded.load_split(digits.Digits, str(tmp_path), "train")]
    assert (np.min(images), np.max(images)) == (0, 16)


def test_preparation_is_silent_and_leaves_only_the_data_set(tmp_path, capfd):
    embedded.load_split(digits.Digits, str(tmp_path), "train")
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]
    formats = {path.suffix for path in (tmp_path / "digits" / "1.0.0").iterdir()}
    assert formats == {".json", ".array_record-00000-of-00001"}


def test_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    program = (
        "from mdeq_jax.vision.data import digits, embedded\n"
        "embedded.load_split(digits.Digits, None, 'train')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert (tmp_path / "digits" / "1.0.0" / "dataset_info.json").exists()


@pytest.mark.slow
def test_processes_that_prepare_at_once(tmp_path):
    processes = [start(PREPARE, tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "1437\n"), err
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_an_interrupted_preparation_is_not_seen(tmp_path):
    process = start(PREPARE_AND_DIE, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "digits" / "1.0.0").exists()
    assert len(embedded.load_split(digits.Digits, str(tmp_path), "test")) == 360


def test_a_folder_that_cannot_be_written(tmp_path):
    # A parent that is a file stands for missing permissions, which do not bind for root.
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"digits.*file/tfds.*data\.dir"):
        embedded.load_split(digits.Digits, str(tmp_path / "file" / "tfds"), "train")


def test_a_write_that_fails(tmp_path, monkeypatch):
    def fail(self, *, file_format):
        raise RuntimeError('Failed to finalize writing of split "train": No space left on device')

    monkeypatch.setattr(digits.Digits, "download_and_prepare", fail)
    with pytest.raises(ValueError, match=r"No space left on device.*data\.dir"):
        embedded.load_split(digits.Digits, str(tmp_path), "train")
    assert list(tmp_path.iterdir()) == [tmp_path / "digits"]


def test_a_prepared_data_set_is_read_without_writing(tmp_path, monkeypatch):
    embedded.load_split(digits.Digits, str(tmp_path), "train")

    def refuse(*_, **__):
        raise AssertionError("prepared again")

    monkeypatch.setattr(embedded, "_prepare", refuse)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert len(list(embedded.load_split(digits.Digits, str(tmp_path), "train"))) == 1437
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
