"""train.py and eval.py on label maps, as a user runs them."""

import json
import shutil

import cv2
import numpy as np
import pytest
from folders import cityscapes_files, write_archives, write_seg_folder
from invoke import invoke
from tiny import call, last_json, run

from mdeq_jax.commands import cityscapes_archives
from mdeq_jax.vision.data.cityscapes_labels import LABEL_IDS

pytestmark = pytest.mark.slow

SCENES = {
    "data__name": "digit_scenes",
    "data__image_size": "(64, 64)",
    "data__batch_size": "16",
    "data__eval_batch_size": "40",
    "model__task": "segmentation",
    "model__num_classes": "11",
    "model__downsample_times": "2",
    "loss__class_weights": f"{(0.3, *[1.0] * 10)}",
    "train__steps": "30",
    "train__eval_every": "24",
}


def test_training_and_evaluation(tmp_path):
    workdir, output = tmp_path / "run", tmp_path / "labels.npz"
    code, out, err = call("train.py", tmp_path, f"--workdir={workdir}", **SCENES)
    assert code == 0, err
    final = last_json(out)
    assert 0 < final["eval/miou"] <= final["eval/pixel_accuracy"] <= 1
    assert {"eval/iou/background", "eval/iou/9", "eval/mean_accuracy"} <= final.keys()
    assert "pixel_accuracy" in err
    assert "eval/miou" in err
    assert "eval/iou/9" not in err  # of single classes there is too much for a line
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    scores = [line["eval/miou"] for line in lines if "eval/miou" in line]
    assert len(scores) == 2
    (best,) = (workdir / "best").iterdir()
    assert int(best.name) == (24, 30)[int(np.argmax(scores))]

    arguments = ("eval.py", tmp_path, f"--checkpoint={workdir}")
    code, out, err = call(*arguments, f"--output={output}", **SCENES)
    assert code == 0, err
    again = last_json(out)
    assert {name: again[name] for name in again if "eval/" in name} == {
        name: final[name] for name in final if "eval/" in name
    }
    assert np.load(output)["labels"].shape == (200, 64, 64)
    augmented = {"inference__flip": "True", "inference__scales": "(1.0, 1.5)"}
    code, out, err = call(*arguments, inference__window="(64, 64)", **augmented, **SCENES)
    assert code == 0, err
    assert last_json(out)["eval/examples"] == 200
    assert last_json(out)["eval/loss"] != final["eval/loss"]


def test_images_of_a_size_that_does_not_divide(tmp_path):
    write_seg_folder(tmp_path / "streets")
    streets = {"data__name": "seg_folder", "data__root": str(tmp_path / "streets")}
    streets |= {"data__image_size": "(32, 32)", "data__eval_image_size": "(50, 50)"}
    streets |= {"data__batch_size": "8", "model__num_classes": "3"}
    streets |= {"loss__class_weights": "None", "train__steps": "2"}
    workdir = tmp_path / "run"
    code, out, err = call("train.py", tmp_path, f"--workdir={workdir}", **SCENES | streets)
    assert code == 0, err
    assert last_json(out)["eval/examples"] == 3
    assert (workdir / "solver_trace.png").exists()


def test_from_the_archives_of_cityscapes_to_predictions(tmp_path):
    images, annotations = cityscapes_files()
    write_archives(tmp_path / "archives", images, annotations)
    root, workdir, output = tmp_path / "root", tmp_path / "run", tmp_path / "out"
    flags = (f"--archives={tmp_path / 'archives'}", "--partial", f"--root={root}")
    assert invoke(cityscapes_archives.run, *flags) == 0
    streets = {"data__root": str(root), "data__batch_size": "4", "data__threads": "1"}
    streets |= {"data__image_size": "(32, 32)", "data__eval_image_size": "(32, 64)"}
    streets |= {"train__steps": "2", "train__pretrain_steps": "1"}

    def command(script, *flags):
        code, out, err = run(script, tmp_path, *flags, config="cityscapes_small", **streets)
        assert code == 0, err
        return last_json(out)

    final = command("train.py", f"--workdir={workdir}")
    assert final["eval/examples"] == 2
    assert {"eval/miou", "eval/iou/road", "eval/iou/bicycle"} <= final.keys()
    shutil.rmtree(root / "cityscapes/leftImg8bit/train")  # evaluation does not need it
    assert command("eval.py", f"--checkpoint={workdir}")["eval/loss"] == final["eval/loss"]
    flags = (f"--checkpoint={workdir}", f"--input={root / 'cityscapes/leftImg8bit/val'}")
    assert command("mdeq_jax/commands/predict.py", *flags, f"--output={output}")["images"] == 2
    ids = cv2.imread(
        str(output / "ids/frankfurt/frankfurt_000000_000019_leftImg8bit.png"), cv2.IMREAD_UNCHANGED
    )
    assert ids.shape == (32, 64)
    assert set(np.unique(ids)) <= {*LABEL_IDS}


def test_a_model_of_another_task(tmp_path):
    options = {**SCENES, "data__name": "digits", "data__image_size": "(8, 8)"}
    code, _, err = call("train.py", tmp_path, f"--workdir={tmp_path}", **options)
    assert code == 2
    assert "model.task is 'segmentation', but data set 'digits' is for classification" in err
