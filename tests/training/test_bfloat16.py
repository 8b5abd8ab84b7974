"""Compute in bfloat16: near float32's, and float32 where it has to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from test_steps import initial_state, make_batch, setup, with_sections

from mdeq_jax.models import ModelConfig, create_model
from mdeq_jax.solvers import Broyden
from mdeq_jax.training.steps import shard

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


def loss_logits_and_gradient(dtype: str | None, unrolled: int | None):
    model = create_model(CONFIG.model, dtype=dtype)
    variables, batch = initial_state(CONFIG).variables, make_batch(16)

    def loss(params):
        (logits, _), updated = model.apply(
            {**variables, "params": params},
            batch["image"],
            solver=Broyden(30, 1e-2),
            unrolled=unrolled,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        losses = -jax.nn.log_softmax(logits)[jnp.arange(16), batch["label"]]
        return losses.mean(), (logits, updated)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


def cosine(a, b) -> float:
    a, b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))


@pytest.mark.parametrize("unrolled", [2, None])
def test_near_float32(unrolled):
    (loss, (logits, updated)), gradient = loss_logits_and_gradient(None, unrolled)
    (loss16, (logits16, updated16)), gradient16 = loss_logits_and_gradient("bfloat16", unrolled)
    everything = (loss16, logits16, updated16, gradient16)
    assert {x.dtype for x in jax.tree.leaves(everything)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(loss16, loss, rtol=0.02)
    np.testing.assert_allclose(logits16, logits, atol=0.05 * float(jnp.abs(logits).max()))
    assert float(jnp.abs(logits16 - logits).max()) > 1e-5  # it has rounded
    assert cosine(gradient16, gradient) > 0.99
    assert cosine(gradient16["cell"], gradient["cell"]) > 0.99
    assert jax.tree.structure(updated16) == jax.tree.structure(updated)


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


def test_it_trains():
    step, state, mesh = setup(dataclasses.replace(CONFIG, dtype="bfloat16"))
    batch, losses = shard(make_batch(16), mesh), []
    for _ in range(10):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    assert metrics["adjoint_residual"] < 0.05
