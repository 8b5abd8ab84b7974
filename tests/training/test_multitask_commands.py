"""train.py and eval.py with several heads, and from another model's weights."""

import json

import pytest
from tiny import call, last_json

pytestmark = pytest.mark.slow

CONFIG = "digit_scenes_multitask"
MULTITASK = {
    "data__batch_size": "16",
    "data__eval_batch_size": "40",
    "model__extra_heads": "('classification', 'scales')",
    "train__steps": "6",
    "train__pretrain_steps": "3",
    "train__log_every": "3",
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Folder of the data sets, which are written once."""
    return tmp_path_factory.mktemp("scratch")


def test_training_and_evaluation(scratch, tmp_path):
    workdir = tmp_path / "run"
    code, out, err = call("train.py", scratch, f"--workdir={workdir}", config=CONFIG, **MULTITASK)
    assert code == 0, err
    final = last_json(out)
    assert 0 < final["eval/segmentation_miou"] <= final["eval/segmentation_pixel_accuracy"] <= 1
    assert 0 <= final["eval/classification_accuracy"] <= 1
    assert "eval/classification_accuracy" in err
    assert "eval/segmentation_iou/9" not in err
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    trained = next(line for line in lines if "train/loss" in line)
    parts = [trained[f"train/{name}_loss"] for name in ("segmentation", "classification")]
    assert trained["train/loss"] == pytest.approx(sum(parts) + 0.1 * trained["train/scale_0_loss"])

    checkpoint = f"--checkpoint={workdir}"
    code, out, err = call("eval.py", scratch, checkpoint, config=CONFIG, **MULTITASK)
    assert code == 0, err
    again = last_json(out)
    assert {name: again[name] for name in again if "eval/" in name} == {
        name: final[name] for name in final if "eval/" in name
    }


def test_either_task_alone(scratch, tmp_path):
    alone = {
        **MULTITASK,
        "model__task": "classification",
        "model__extra_heads": "()",
        "loss__class_weights": "None",
    }
    workdir = tmp_path / "run"
    code, out, err = call("train.py", scratch, f"--workdir={workdir}", config=CONFIG, **alone)
    assert code == 0, err
    assert 0 <= last_json(out)["eval/accuracy"] <= 1


def test_scenes_start_from_a_classifier_of_digits(scratch, tmp_path):
    steps = {"train__steps": "2", "train__pretrain_steps": "1"}
    classifier, scenes = tmp_path / "digits", tmp_path / "scenes"
    code, _, err = call("train.py", scratch, f"--workdir={classifier}", **steps)
    assert code == 0, err
    code, _, err = call(
        "train.py",
        scratch,
        f"--workdir={scenes}",
        config="digit_scenes",
        init_from=str(classifier),
        data__batch_size="16",
        data__eval_batch_size="40",
        **steps,
    )
    assert code == 0, err
    listed = ("  params/", "  batch_stats/")
    left = [line.split()[0] for line in err.splitlines() if line.startswith(listed)]
    # A small model's stem has its last layer only where it halves the image.
    assert {"/".join(name.split("/")[1:3]) for name in left} == {
        "head/last_layer",
        "head/pixel_classifier",
        "stem/stage0",
    }
