"""`python -m mdeq_jax.commands.predict` on real photographs with small random models."""

import csv
import dataclasses
import functools
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from folders import grey_png
from invoke import invoke
from sklearn.datasets import load_sample_images

from benchmarks.camera_pan import camera_pan
from mdeq_jax.commands.predict import run
from mdeq_jax.commands.tables import Table
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.training.weights import Trained
from mdeq_jax.vision.config import DataConfig, finalize
from mdeq_jax.vision.data import find_dataset
from mdeq_jax.vision.data.cityscapes_labels import LABEL_IDS, PALETTE
from mdeq_jax.vision.experiment import create_experiment
from mdeq_jax.vision.model import create_model
from mdeq_jax.vision.predict.images import model_input
from mdeq_jax.vision.predict.outputs import top_columns, top_row
from mdeq_jax.vision.predict.predictor import FramePredictor, Predictor
from mdeq_jax.vision.segment import forward_padded
from mdeq_jax.vision.torch_files.convert import import_torch

ROOT = Path(__file__).parents[3]

SMALL = {
    "branch_channels": (8, 8),
    "blocks_per_branch": (1, 1),
    "big_kernels": (0, 0),
    "num_groups": 4,
    "expansion": 1,
    "dropout": 0.0,
}
SEGMENTATION = {
    "model": {**SMALL, "task": "segmentation", "num_classes": 19, "downsample_times": 1},
    "solver": {"forward": {"max_steps": 12}},
    "data": {"name": "cityscapes", "image_size": (32, 64)},
}
CLASSIFICATION = {
    "model": {**SMALL, "head_channels": (4, 4), "final_channels": 8},
    "solver": {"forward": {"max_steps": 12}},
}


def photographs(height, width):
    return [cv2.resize(image, (width, height)) for image in load_sample_images().images]


def seen(image):
    """What a model of Cityscapes is given of an image."""
    return model_input(image, "segmentation", find_dataset(DataConfig(name="cityscapes")))


def random_model(nested):
    """A model with the variables that training starts from, and its experiment."""
    config = finalize(nested)
    images = jnp.zeros((1, *config.data.image_size, 3))
    variables = jax.jit(create_model(config.model).init)(jax.random.key(0), images)
    return Trained(variables, config, 0), create_experiment(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of both models, and photographs of two sizes."""
    root = tmp_path_factory.mktemp("predict")
    for name, nested in (("seg", SEGMENTATION), ("cls", CLASSIFICATION)):
        trained, _ = random_model(nested)
        folder = epath.Path(root / name)
        write_checkpoint(folder, trained.variables, dataclasses.asdict(trained.config), 0)
        (root / f"{name}.py").write_text(
            "from mdeq_jax.vision.config import default_config\n\n"
            "def get_config():\n"
            "    config = default_config()\n"
            f"    config.update({nested!r})\n"
            "    return config\n"
        )
    (root / "photos/sub").mkdir(parents=True)
    china, flower = photographs(45, 70)
    cv2.imwrite(str(root / "photos/china_000000_leftImg8bit.png"), china[..., ::-1])
    cv2.imwrite(str(root / "photos/sub/flower.jpg"), flower[..., ::-1])
    return root


def predict(folder, model, *arguments, output="out"):
    """Run the command in this process; its exit code."""
    arguments = (f"--checkpoint={folder / model}", f"--output={folder / output}", *arguments)
    return invoke(run, f"--config={folder / model}.py", *arguments)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_label_maps_of_photographs(folder, capsys):
    iterations = "--config.train.spectral_radius_iterations=2"
    assert predict(folder, "seg", f"--input={folder / 'photos'}", iterations, output="maps") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["images"] == 2
    assert 1 <= result["solver_steps"] <= 12
    assert result["spectral_radius"] > 0
    trained, experiment = random_model(SEGMENTATION)
    for name, suffix in (("china_000000_leftImg8bit", "png"), ("sub/flower", "jpg")):
        image = cv2.imread(str(folder / f"photos/{name}.{suffix}"))[..., ::-1]
        ids = cv2.imread(str(folder / f"maps/ids/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert ids.shape == image.shape[:2]
        labels = Predictor(trained, experiment)(seen(image)).output
        assert (LABEL_IDS[labels] == ids).mean() > 0.99  # compiled otherwise: ties may fall
        classes = np.searchsorted(LABEL_IDS, ids)
        colour = cv2.imread(str(folder / f"maps/colour/{name}.png"))[..., ::-1]
        np.testing.assert_array_equal(colour, PALETTE[classes])
        mixed = cv2.imread(str(folder / f"maps/overlay/{name}.png"))[..., ::-1]
        np.testing.assert_allclose(mixed, image / 2 + PALETTE[classes] / 2, atol=1)
    rows = rows_of(folder / "maps/solver.csv")
    assert [row["image"] for row in rows] == ["china_000000_leftImg8bit", "sub/flower"]
    assert all(float(row["spectral_radius"]) > 0 for row in rows)


@pytest.mark.slow
def test_sizes_that_are_padded_alike_share_a_compiled_function(monkeypatch):
    traced = []
    trained, experiment = random_model(SEGMENTATION)
    predict = experiment.predict

    def counted(variables, batch, layer, carry):
        traced.append(batch["image"].shape)
        return predict(variables, batch, layer, carry)

    monkeypatch.setattr(experiment, "predict", counted)
    predict_one, image = Predictor(trained, experiment), seen(photographs(45, 70)[0])
    whole = [
        predict_one(image[:height, :width]) for height, width in ((30, 45), (29, 46), (32, 48))
    ]
    assert traced == [(1, 32, 48, 3)]
    assert [prediction.output.shape for prediction in whole] == [(30, 45), (29, 46), (32, 48)]
    config = experiment.config
    apply = functools.partial(experiment.model.apply, trained.variables)
    forward = functools.partial(apply, solver=config.solver.forward.build())
    images, divisor = jnp.asarray(image[None, :30, :45]), config.model.size_divisor
    logits, _ = forward_padded(forward, images, divisor)
    assert (whole[0].output == logits.argmax(-1)[0]).mean() > 0.99  # compiled otherwise


def test_a_data_set_that_is_not_known(folder, capsys):
    photos = f"--input={folder / 'photos'}"
    assert predict(folder, "seg", photos, "--config.data.name=imagenet") == 2
    err = capsys.readouterr().err
    assert "config.data.name is 'imagenet'" in err
    assert "Did you mean imagenet2012?" in err


def test_a_broken_image_loses_nothing(folder, capsys):
    whole = (folder / "photos/sub/flower.jpg").read_bytes()
    (folder / "broken").mkdir()
    (folder / "broken/a.jpg").write_bytes(whole[:500])
    (folder / "broken/b.jpg").write_bytes(whole)
    (folder / "broken/c.png").write_bytes(grey_png(60_000, 60_000, rows=1))
    (folder / "broken/d.png").symlink_to("nowhere")
    assert predict(folder, "cls", f"--input={folder / 'broken'}", output="top") == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert "3 of 4 images could not be read" in last
    assert "a.jpg is not an image, or breaks off; copy or save it again." in last
    assert "c.png is damaged, or has more than" in last
    assert "d.png cannot be read" in last
    assert "Traceback" not in err
    (row,) = rows_of(folder / "top/top5.csv")
    assert row["image"] == "b"
    chances = [float(row[f"probability_{rank}"]) for rank in range(1, 6)]
    assert chances == sorted(chances, reverse=True)
    assert 0.5 < sum(chances) <= 1
    assert len({row[f"class_{rank}"] for rank in range(1, 6)}) == 5


def test_an_input_that_does_not_exist(folder, capsys):
    assert predict(folder, "seg", "--input=nowhere.png") == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: nowhere.png does not exist; --input")
    assert not (folder / "out").exists()


def test_a_row_of_the_table(tmp_path):
    row = top_row("cat", np.log([0.1, 0.6, 0.3]), ("a", "b", "c"))
    table = Table(tmp_path / "top5.csv", top_columns(3))
    table.add(row)
    (read,) = rows_of(tmp_path / "top5.csv")
    assert read == {
        "image": "cat",
        "class_1": "b",
        "probability_1": "0.600000",
        "class_2": "c",
        "probability_2": "0.300000",
        "class_3": "a",
        "probability_3": "0.100000",
    }


def contracting_model():
    """Its injection is large, as a trained one's is, so that every solve converges."""
    one = {"branch_channels": (8,), "blocks_per_branch": (1,), "big_kernels": (0,)}
    trained, experiment = random_model(
        {
            **SEGMENTATION,
            "model": {**SEGMENTATION["model"], **one},
            "solver": {"forward": {"max_steps": 40, "tol": 1e-4}},
        }
    )

    def enlarge(path, leaf):
        return 50 * leaf if path[1].key == "stem" and path[-1].key == "scale" else leaf

    variables = jax.tree_util.tree_map_with_path(enlarge, trained.variables)
    return trained._replace(variables=variables), experiment


def test_a_film_from_warm_starts():
    """Every frame is solved as well as from a cold start, in fewer steps if little has changed."""
    trained, experiment = contracting_model()
    warm, cold = FramePredictor(trained, experiment, compare=True), Predictor(trained, experiment)
    frame = seen(photographs(32, 48)[0])
    inputs = [frame, 1.001 * frame, 1.002 * frame]
    films = [warm(image) for image in inputs]
    for film, image in zip(films, inputs, strict=True):
        assert film.statistics["converged"] == 1
        alone = cold(image)
        assert film.statistics["cold_solver_steps"] == alone.statistics["solver_steps"]
        assert (film.output == alone.output).mean() > 0.99
    first, *later = (film.statistics for film in films)
    assert first["solver_steps"] == first["cold_solver_steps"]
    assert all(frame["solver_steps"] < frame["cold_solver_steps"] for frame in later)
    again = warm(inputs[-1]).statistics
    assert again["solver_steps"] <= 1  # the same frame: the equilibrium is there already
    other = warm(inputs[-1][:, :32]).statistics
    assert other["solver_steps"] == other["cold_solver_steps"]  # another size starts anew


@pytest.mark.slow
def test_a_camera_pan_takes_fewer_steps():
    """By the authors' small segmentation model."""
    fixtures = ROOT / "tests" / "fixtures"
    config = finalize(
        {
            "model": json.loads((fixtures / "seg4.json").read_text()),
            "solver": {"forward": {"max_steps": 40, "tol": 1e-4}},
            "data": {"name": "cityscapes", "image_size": (32, 64)},
        }
    )
    trained = Trained(import_torch(fixtures / "seg4.pkl", config.model), config, 0)
    predict_next = FramePredictor(trained, create_experiment(config), compare=True)
    pan = camera_pan(photographs(120, 180)[0], (32, 64), step=2, frames=5)
    first, *later = (predict_next(seen(frame)).statistics for frame in pan)
    assert first["solver_steps"] == first["cold_solver_steps"]
    assert all(frame["solver_steps"] < frame["cold_solver_steps"] for frame in later)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"inference": {"flip": True}}, "--warm-start is for one pass"),
        ({"train": {"pretrain_steps": 5}}, "is of step 0, where the cell is still unrolled"),
    ],
)
def test_films_that_are_refused(sections, message):
    config = finalize({**SEGMENTATION, **sections})
    with pytest.raises(ValueError, match=message):
        FramePredictor(Trained({}, config, 0), create_experiment(config), compare=False)


def test_a_pan_turns_round_at_the_border():
    photo = np.arange(10, dtype=np.uint8)[None, :, None].repeat(3, axis=0).repeat(3, axis=2)
    frames = list(camera_pan(photo, (1, 4), step=2, frames=8))
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 2, 4, 6, 4, 2, 0, 2]
    with pytest.raises(ValueError, match=r"frames are of size \(4, 4\).*smaller --size"):
        next(camera_pan(photo, (4, 4), step=2, frames=8))


def test_a_window_as_wide_as_the_photograph_stays():
    photo = np.zeros((3, 10, 3), np.uint8)
    shapes = {frame.shape for frame in camera_pan(photo, (2, 10), step=3, frames=8)}
    assert shapes == {(2, 10, 3)}
