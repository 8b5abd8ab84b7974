"""The estimate of a step's memory against the compiled step, and what is said of too little."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from tiny import OVERRIDES, ROOT

from mdeq_jax.commands import cli
from mdeq_jax.training.advice import (
    evaluation_advice,
    out_of_memory,
    prediction_advice,
    training_advice,
)
from mdeq_jax.training.memory import evaluation_memory, measure, training_memory, tree_bytes
from mdeq_jax.training.optim import create_optimizer
from mdeq_jax.training.sections import with_values
from mdeq_jax.training.state import create_state
from mdeq_jax.training.steps import AXIS, create_mesh, make_eval_step, make_train_step
from mdeq_jax.vision.config import finalize
from mdeq_jax.vision.model import create_model

# Of the compiled step's temporary memory, that the estimate may be away from it.
BOUND = 0.25
DEVICES = jax.device_count()
SMALL = {
    "model.branch_channels": (8, 8),
    "model.head_channels": (4, 4),
    "model.num_groups": 4,
    "model.expansion": 2,
    "data.batch_size": 64 * DEVICES,
    "data.eval_batch_size": 64 * DEVICES,
    "solver.forward.max_steps": 6,
    "solver.backward.max_steps": 6,
}
LONG = {"solver.forward.max_steps": 40, "solver.backward.max_steps": 40}
SEGMENTATION = {
    "model.task": "segmentation",
    "model.num_classes": 11,
    "model.downsample_times": 2,
    "data.image_size": (32, 32),
    "data.batch_size": 8 * DEVICES,
    "data.eval_batch_size": 8 * DEVICES,
}


def small(**changes):
    return finalize(with_values({}, SMALL | changes))


def one_branch(**changes):
    """A model that is traced in half the time."""
    branches = {"model.branch_channels": (8,), "model.blocks_per_branch": (1,)}
    branches |= {"model.big_kernels": (0,), "model.head_channels": (4,)}
    return finalize(with_values({}, SMALL | branches | changes))


def batch(config, n):
    size = config.data.image_size
    pixels = size if config.model.task == "segmentation" else ()
    return {
        "image": jax.ShapeDtypeStruct((n, *size, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((n, *pixels), jnp.int32),
        "mask": jax.ShapeDtypeStruct((n,), jnp.bool_),
    }


def compiled_training(config):
    """Temporary memory of the training step, and of the unrolled one if that is asked for."""
    model = create_model(config.model, axis_name=AXIS)
    optimizer = create_optimizer(config.optim, 10, 10)
    state = jax.eval_shape(
        lambda: create_state(model, optimizer, (*config.data.image_size, 3), seed=0)
    )
    step = make_train_step(
        model,
        config,
        optimizer,
        create_mesh(),
        unrolled=config.train.unrolled_at(0),
        steps_per_epoch=10,
    )
    return temporary(step, state, batch(config, config.data.batch_size))


def compiled_evaluation(config):
    model = create_model(config.model)
    images = batch(config, config.data.eval_batch_size)
    variables = jax.eval_shape(model.init, jax.random.key(0), images["image"])
    return temporary(make_eval_step(model, config, create_mesh(), unrolled=None), variables, images)


def temporary(step, *arguments):
    return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def estimated_training(config):
    """The estimate of what the compiled step has as temporary: images, and the gradient."""
    sizes = measure(config)
    memory = training_memory(config, sizes, DEVICES)
    return memory.images * memory.image + sizes.parameters


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"solver.backward.max_steps": 40}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"solver.forward.max_steps": 40}, marks=pytest.mark.slow),
        pytest.param(LONG, marks=pytest.mark.slow),
        pytest.param({"solver.forward.name": "picard"}, marks=pytest.mark.slow),
        pytest.param(
            {"solver.forward.name": "anderson", "solver.backward.name": "anderson"},
            marks=pytest.mark.slow,
        ),
        pytest.param({"adjoint.name": "jacobian_free"}, marks=pytest.mark.slow),
        pytest.param({"adjoint.name": "neumann"}, marks=pytest.mark.slow),
        pytest.param({"adjoint.name": "phantom"}, marks=pytest.mark.slow),
        pytest.param({"adjoint.name": "shine"}, marks=pytest.mark.slow),
        pytest.param({"correction.states": 2}, marks=pytest.mark.slow),
        pytest.param({"train.pretrain_steps": 10, "train.num_layers": 4}, marks=pytest.mark.slow),
        pytest.param(SEGMENTATION, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_training_step_takes_about_what_is_estimated(changes):
    config = small(**changes)
    assert estimated_training(config) == pytest.approx(compiled_training(config), rel=BOUND)


@pytest.mark.parametrize(
    "changes",
    [
        {"solver.forward.max_steps": 40},
        pytest.param({"solver.forward.name": "picard"}, marks=pytest.mark.slow),
        pytest.param(SEGMENTATION, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_evaluation_step_takes_about_what_is_estimated(changes):
    config = small(**changes)
    sizes = measure(config)
    memory = evaluation_memory(config, sizes, DEVICES)
    estimate = memory.images * memory.image
    assert estimate == pytest.approx(compiled_evaluation(config), rel=BOUND)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"data.batch_size": 32 * DEVICES}, dict.fromkeys(LONG, 50)], ids=["batch", "steps"]
)
def test_what_a_remedy_saves(change):
    before = dict.fromkeys(LONG, 100)
    before, after = small(**before), small(**before | change)
    saved = compiled_training(before) - compiled_training(after)
    assert saved > 0
    estimate = estimated_training(before) - estimated_training(after)
    assert estimate == pytest.approx(saved, rel=BOUND)


def test_devices_and_microbatches_share_the_images():
    config = small(**{"data.batch_size": 64, "train.accumulate_steps": 2})
    sizes = measure(config)
    memory = training_memory(config, sizes, devices=4)
    assert memory.images == 64 // 4 // 2
    assert memory.total == memory.fixed + 8 * memory.image
    whole = training_memory(small(), sizes, devices=1)
    assert whole.image == memory.image
    assert memory.fixed - whole.fixed == sizes.parameters  # the sum of the gradients


@pytest.mark.slow
def test_sizes_are_of_one_image():
    config = small()
    sizes = measure(config)
    assert tree_bytes(sizes.state) == 4 * (8 * 8 * 8 + 4 * 4 * 8)
    assert measure(small(**LONG | {"data.batch_size": 32})) == sizes
    half = measure(dataclasses.replace(config, dtype="bfloat16"))
    assert half.state == sizes.state
    for name in ("stem", "kept", "cell"):
        assert 0.5 <= getattr(half, name) / getattr(sizes, name) < 0.9, name


def saved_by(advice):
    """The MiB that advice promises, by the overrides that save them; in its order."""
    lines = [line.split(" MiB with ") for line in advice.splitlines() if line.startswith("  ")]
    return {overrides: float(size) for size, overrides in lines}


def test_advice_names_batch_and_steps_and_what_they_save():
    config = one_branch(**dict.fromkeys(LONG, 100))
    sizes, advice = measure(config), training_advice(config)
    memory = training_memory(config, sizes, DEVICES)
    assert f"A training step takes about {memory.total / 2**20:.1f} MiB of a device" in advice
    saved = saved_by(advice)
    # Half of the images, less the sum of the gradients that microbatches need.
    by_half = memory.images / 2 * memory.image - sizes.parameters
    assert saved["--config.train.accumulate_steps=2"] == pytest.approx(by_half / 2**20, abs=0.051)
    steps = "--config.solver.forward.max_steps=50 --config.solver.backward.max_steps=50"
    fifty = memory.images * 50 * tree_bytes(sizes.state)
    assert saved[steps] > fifty / 2**20
    assert not any("dtype" in overrides for overrides in saved)  # on CPU it saves nothing
    assert [*saved.values()] == sorted(saved.values(), reverse=True)


@pytest.mark.slow
def test_advice_on_an_accelerator_names_bfloat16(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert saved_by(training_advice(one_branch()))["--config.dtype=bfloat16"] > 0
    assert "--config.dtype=bfloat16" in saved_by(evaluation_advice(one_branch()))
    already = evaluation_advice(one_branch(dtype="bfloat16"))
    assert "--config.dtype=bfloat16" not in saved_by(already)


@pytest.mark.parametrize(
    ("changes", "there", "not_there"),
    [
        ({"data.batch_size": 3 * DEVICES}, f"data.batch_size={DEVICES}", "accumulate_steps"),
        (
            dict.fromkeys(LONG, 400) | {"data.batch_size": DEVICES},
            "forward.max_steps=200",
            "batch_size",
        ),
        pytest.param(
            {"adjoint.name": "phantom"},
            "--config.adjoint.steps=2",
            "backward.max_steps",
            marks=pytest.mark.slow,
        ),
        ({"train.pretrain_steps": 9}, "--config.train.num_layers=5", "adjoint.steps"),
        pytest.param(
            {"correction.states": 4},
            "accumulate_steps=2",
            "forward.max_steps",  # which must be at least as many
            marks=pytest.mark.slow,
        ),
    ],
)
def test_advice_is_what_the_config_allows(changes, there, not_there):
    saved = saved_by(training_advice(one_branch(**changes)))
    assert all(size > 0 for size in saved.values())
    overrides = " ".join(saved)
    assert there in overrides
    assert not_there not in overrides


def test_advice_on_evaluation_and_prediction():
    saved = saved_by(evaluation_advice(one_branch(**LONG)))
    assert [*saved] == [
        f"--config.data.eval_batch_size={32 * DEVICES}",
        "--config.solver.forward.max_steps=20",
    ]
    advice = prediction_advice(one_branch(**LONG))
    assert "The prediction of an image of 8×8, and of others in proportion, takes" in advice
    assert [*saved_by(advice)] == ["--config.solver.forward.max_steps=20"]


def raise_in_command(message):
    def command(config):
        raise jax.errors.JaxRuntimeError(message)

    return command


def test_a_command_out_of_memory_ends_in_advice(capsys):
    asked = "RESOURCE_EXHAUSTED: Out of memory allocating 198740043664 bytes."
    with pytest.raises(SystemExit) as ended:
        cli._carry_out(
            raise_in_command(f"{asked}\nstack"), one_branch(), [lambda config: "less of it"]
        )
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: a device is out of memory: {asked}\nless of it\n"


def test_another_error_of_the_runtime_is_left_as_it_is():
    error = jax.errors.JaxRuntimeError("INTERNAL: no idea")
    assert out_of_memory(error) is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="no idea"):
        cli._carry_out(raise_in_command("INTERNAL: no idea"), one_branch(), [training_advice])


@pytest.mark.slow
def test_a_run_out_of_memory(tmp_path):
    keys = OVERRIDES | {
        "data.dir": tmp_path / "data",
        "data.batch_size": 1436,
        "solver.forward.max_steps": 40_000,
        "train.pretrain_steps": 0,
    }
    overrides = " ".join(f'"--config.{key}={value}"' for key, value in keys.items())
    command = f"train.py --config digits --workdir {tmp_path / 'run'} {overrides}"
    limited = f"ulimit -v 12000000; {sys.executable} {command}"  # KiB
    done = subprocess.run(["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "error: a device is out of memory: RESOURCE_EXHAUSTED: " in done.stderr
    assert "GiB with --config.train.accumulate_steps=2" in done.stderr
    assert "GiB with --config.solver.forward.max_steps=20000" in done.stderr
    assert "An evaluation step takes about" in done.stderr
    assert "Traceback" not in done.stderr
