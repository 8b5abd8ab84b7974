"""Import of checkpoints of locuslab/deq and TorchDEQ: what is inferred, converted and refused."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from deq_transformer import FIXTURES, KINDS, load_about, load_config
from torch_files import Raw, write_zip

from mdeq_jax.language.model.config import ModelConfig
from mdeq_jax.language.model.create import create_model
from mdeq_jax.language.model.torch_files import import_torch, import_with_report, infer_config
from mdeq_jax.language.model.torch_layout import canonical_name, wanted_arrays
from mdeq_jax.layers import weight_norm
from mdeq_jax.torch_files.reader import read_state_dict


@pytest.fixture
def state():
    return {name: a.read() for name, a in read_state_dict(FIXTURES / "lm_post.pth").items()}


@pytest.mark.parametrize("name", ["lm_pre", "deqlm"])
def test_names_shapes_and_the_report(name):
    kind = KINDS[load_about(name).get("pre_lnorm")]
    config = infer_config(FIXTURES / f"{name}.pth", "pre" if kind == "pre" else "post")
    fixed = {"memory": config.memory, "local": config.local}
    assert config == load_config(name, **fixed)
    variables, report = import_with_report(FIXTURES / f"{name}.pth", config)
    model = create_model(config, load_about(name)["n_token"])
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), int))
    of = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype), tree)  # noqa: E731
    assert of(variables) == of(like)
    arrays = jax.tree.leaves(variables)
    assert report == [
        f"took {sum(a.size for a in arrays):,} parameters in {len(arrays)} arrays, float32",
        "ignored 1: frequencies of the positions, which are constants",
    ]


@pytest.mark.parametrize(
    ("name", "file", "entry", "count"),
    [
        ("deq", "lm", "wt103_post_lnorm", 97_851_488),
        pytest.param("deq-preln", "lm", "wt103_pre_lnorm", 97_851_488, marks=pytest.mark.slow),
        ("torchdeq", "deqlm", "deq_lm", 97_730_888),
    ],
)
def test_published_models_have_these_arrays(name, file, entry, count):
    about = json.loads((FIXTURES / f"{file}_keys.json").read_text())[entry]
    assert about["parameters_as_upstream_counts"] == count
    untied = dataclasses.replace(ModelConfig.published(name), tie_projections=False)
    wanted = wanted_arrays(untied, 267_735)
    sizes = {key: np.prod(array.shape) for key, array in wanted.items()}
    assert sum(sizes.values()) == count
    theirs = {canonical_name(key): np.prod(shape) for key, shape in about["state"].items()}
    # Beside the constants, upstream's file has the word vectors twice.
    extra = {key: theirs.pop(key) for key in theirs.keys() - sizes.keys()}
    assert theirs == sizes
    assert extra.keys() == {
        "pos_emb.inv_freq",
        *(f"crit.out_layers.{i}.weight" for i in range(4)),
    }
    tied = wanted_arrays(ModelConfig.published(name), 267_735)
    shared = about["parameters_sharing_storage"]
    assert sum(np.prod(array.shape) for array in tied.values()) == count - shared


def test_projections_that_differ(tmp_path, state):
    state["crit.out_projs.1.weight"] = state["crit.out_projs.1.weight"] + np.float32(1e-3)
    path, config = write_zip(tmp_path / "file", state), load_config("lm_post")
    with pytest.raises(ValueError, match=r"out_projs\.1.* differ\. Set config\.model\.tie_proj"):
        import_torch(path, config)
    assert not infer_config(path).tie_projections
    words = import_torch(path, dataclasses.replace(config, tie_projections=False))["params"]
    words = words["vocabulary"]
    difference = words["output_projection_1"] - words["input_projection_1"]
    np.testing.assert_allclose(difference, 1e-3, rtol=1e-3)
    state["crit.out_layers.1.weight"] = state["crit.out_layers.1.weight"] + np.float32(1e-3)
    with pytest.raises(ValueError, match=r"out_layers\.1\.weight and .* share the word vectors"):
        import_torch(write_zip(tmp_path / "other", state), config)


def test_weight_norm_is_folded():
    config = load_config("lm_post")
    plain = import_torch(FIXTURES / "lm_post.pth", dataclasses.replace(config, weight_norm=False))
    normed = import_torch(FIXTURES / "lm_post.pth", config)
    merged = {"params": weight_norm.merge(normed["params"])}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    jax.tree.map(close, plain, merged)


@pytest.mark.parametrize(
    ("changes", "vocabulary", "message"),
    [
        ({"heads": 8}, None, "config.model.heads is 8; by the file's arrays it is 4"),
        ({"cutoffs": (100, 200)}, None, "cutoffs is (100, 200); by the file's arrays it is (100,"),
        ({}, 480, "the number of words is 480; by the file's arrays it is 500"),
    ],
)
def test_another_model_is_explained(changes, vocabulary, message):
    config = load_config("lm_post", **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        import_torch(FIXTURES / "lm_post.pth", config, vocabulary)


def test_what_holds_no_such_model(tmp_path):
    path = write_zip(tmp_path / "file", {"conv.weight": np.ones((2, 2), np.float32)})
    for refuse in (infer_config, lambda path: import_torch(path, ModelConfig())):
        with pytest.raises(ValueError, match=r"file: it holds no DEQ-Transformer: .* is missing"):
            refuse(path)


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path):
    model = Raw(b"cmodels.deq_transformer\nDEQTransformerLM\n)R")
    with pytest.raises(ValueError, match=r"DEQTransformerLM; .*torch\.load\(FILE.*state_dict\(\)"):
        import_torch(write_zip(tmp_path / "model.pt", model), ModelConfig())
