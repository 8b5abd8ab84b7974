"""Compute in bfloat16: near float32's, and float32 where it has to be."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from test_steps import make_batch, setup, with_sections

from mdeq_jax.images import digits
from mdeq_jax.solvers import Broyden
from mdeq_jax.training.mesh import shard
from mdeq_jax.vision.model import ModelConfig, create_model
from mdeq_jax.vision.torch_files.convert import import_torch

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONFIG = with_sections(
    model={
        "branch_channels": (8, 8),
        "blocks_per_branch": (1, 1),
        "big_kernels": (0, 0),
        "head_channels": (4, 4),
        "dropout": 0.2,
    },
    solver={"forward": {"tol": 1e-2}, "backward": {"tol": 1e-2}},
)
SEGMENTATION = ModelConfig(task="segmentation", num_classes=3, extra_heads=("scales",))


def some_digits(count: int):
    """Images as the model was trained on, about, and labels that are one off."""
    raw = digits.load_raw()
    images = (np.float32(raw.images[:count].repeat(3, axis=-1)) / 16 - 0.3) / 0.38
    return images, (raw.labels[:count] + 1) % 10


def loss_logits_and_gradient(dtype: str | None):
    """Of a trained model on digits that it is to take for others, in evaluation mode."""
    architecture = ModelConfig(**json.loads((FIXTURES / "digits_tiny.json").read_text()))
    model = create_model(architecture, dtype=dtype)
    variables = import_torch(FIXTURES / "digits_tiny.pkl", architecture)
    images, labels = some_digits(16)

    def loss(params):
        logits, info = model.apply(
            {**variables, "params": params}, images, solver=Broyden(30, 1e-2)
        )
        losses = -jax.nn.log_softmax(logits)[jnp.arange(16), labels]
        return losses.mean(), (logits, info.solver)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def cosine(a, b) -> float:
    a, b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))


@pytest.mark.slow
def test_near_float32():
    (loss, (logits, solved)), gradient = loss_logits_and_gradient(None)
    (loss16, (logits16, solved16)), gradient16 = loss_logits_and_gradient("bfloat16")
    everything = (loss16, logits16, solved16.residual, gradient16)
    assert {x.dtype for x in jax.tree.leaves(everything)} == {jnp.dtype(jnp.float32)}
    assert solved.converged.all()
    assert solved16.converged.all()
    np.testing.assert_allclose(loss16, loss, rtol=0.02)
    np.testing.assert_allclose(logits16, logits, atol=0.02 * float(jnp.abs(logits).max()))
    assert float(jnp.abs(logits16 - logits).max()) > 1e-5  # it has rounded
    assert cosine(gradient16, gradient) > 0.99
    assert cosine(gradient16["cell"], gradient["cell"]) > 0.99


def equations(jaxpr):
    """Every equation of a program, those of its parts included."""
    for equation in jaxpr.eqns:
        yield equation
        for part in jaxprs_in_params(equation.params):
            yield from equations(part)


def test_convolutions_are_in_bfloat16_and_what_solvers_carry_is_not():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    step, state, mesh = setup(config)
    jaxpr = step.trace(state, shard(make_batch(8), mesh)).jaxpr.jaxpr
    loops = [e for e in equations(jaxpr) if e.primitive.name == "while"]
    assert len(loops) == 2
    for loop in loops:
        carried = {x.aval.dtype for x in loop.outvars}
        assert jnp.dtype(jnp.float32) in carried
        assert jnp.dtype(jnp.bfloat16) not in carried
    convolutions = [e for e in equations(jaxpr) if e.primitive.name == "conv_general_dilated"]
    assert {x.aval.dtype for e in convolutions for x in e.invars} == {jnp.dtype(jnp.bfloat16)}


def test_logits_of_segmentation_are_float32():
    model, images = create_model(SEGMENTATION, dtype="bfloat16"), jnp.zeros((1, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    logits, info = jax.eval_shape(model.apply, variables, images)
    dtypes = {x.dtype for x in jax.tree.leaves((variables, logits, info.z))}
    assert dtypes == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_it_trains():
    step, state, mesh = setup(dataclasses.replace(CONFIG, dtype="bfloat16"))
    batch, losses = shard(make_batch(16), mesh), []
    for _ in range(10):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]
