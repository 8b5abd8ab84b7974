"""The recurrent networks against deep-thinking's own code, through an imported checkpoint."""

import functools

import jax
import numpy as np
import optax
import pytest
from deep_thinking import FIXTURES, load_arrays, load_model, to_grid
from jax import lax
from torch_files import write_zip

from mdeq_jax.reasoning.model.torch_files import import_torch


def assert_close(ours, theirs):
    assert ours.dtype == np.float64
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def cross_entropies(bound, inputs, targets, counted, iterations):
    """The mean over the counted positions; the mean over all; the logits of each iteration."""
    x = bound.inject(inputs)

    def step(z, _):
        z = bound.cell(z, x)
        return z, bound.head(z)

    _, logits = lax.scan(step, bound.start(inputs, x), length=iterations)
    ce = optax.softmax_cross_entropy_with_integer_labels(logits[-1], targets)
    return ce.mean(where=counted), (ce.mean(), logits)


@pytest.mark.parametrize("name", ["dt1d", "dt1d_norecall", "dt2d_gn"])
def test_what_deep_thinking_computes(x64, tmp_path, name):
    model, arrays = load_model(name), load_arrays(name)
    inputs, cell_z = (np.float64(to_grid(arrays[field])) for field in ("inputs", "cell_z"))
    targets = arrays["targets"].reshape(inputs.shape[:3]).astype(np.int32)
    counted = arrays.get("mask", np.ones_like(targets)) > 0
    outputs = np.stack([to_grid(a) for a in np.moveaxis(arrays["all_outputs"], 1, 0)])
    # The imported gradient of upstream has our names and layout.
    gradient = {n.removeprefix("grad/"): a for n, a in arrays.items() if n.startswith("grad/")}
    gradient = import_torch(write_zip(tmp_path / "gradient.pth", gradient), model)

    @jax.jit
    def compute(variables):
        bound = model.bind(variables)
        x = bound.inject(inputs)
        z = bound.cell(cell_z, x)
        return bound.start(inputs, x), z, bound.head(z)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def losses(variables):
        bound = model.bind(variables)
        return cross_entropies(bound, inputs, targets, counted, len(outputs))

    variables = jax.tree.map(np.float64, import_torch(FIXTURES / f"{name}.pth", model))
    start, z, head = compute(variables)
    (masked, (ce, logits)), ours = losses(variables)
    assert_close(start, to_grid(arrays["projection"]))
    assert_close(z, to_grid(arrays["cell_out"]))
    assert_close(head, to_grid(arrays["cell_head"]))
    assert_close(logits, outputs)
    assert_close(ce, arrays["ce"])
    assert_close(masked, arrays.get("ce_masked", arrays["ce"]))
    jax.tree.map(assert_close, ours, gradient)
