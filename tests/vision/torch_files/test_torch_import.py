"""PyTorch files as variables and as checkpoints: figures reproduced, and what does not fit."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from invoke import invoke
from mdeq_states import FIXTURES, fold, load_config, random_state
from torch_files import WRITERS

import mdeq_jax as mx
from mdeq_jax.commands import eval as evaluate
from mdeq_jax.commands import import_torch
from mdeq_jax.layers import weight_norm
from mdeq_jax.vision.torch_files import convert
from mdeq_jax.vision.torch_files.convert import import_with_report

ROOT = Path(__file__).parents[3]
# The peak that the process itself tells: rusage counts what its parent had at the fork as well.
MEASURED = """
import pathlib
from mdeq_jax.commands.import_torch import run
try:
    run()
finally:
    print(pathlib.Path("/proc/self/status").read_text())
"""
SMALL = mx.ModelConfig(
    branch_channels=(8, 8), expansion=2, head_channels=(2, 4), final_channels=16, num_groups=4
)


def run(*arguments):
    """The command in this process: its exit code."""
    return invoke(import_torch.run, *arguments)


# In float64, in which they agree within 1e-5, they are among the parity tests of the models.
def test_logits_in_float32():
    figures, config = np.load(FIXTURES / "cls2_noaffine.npz"), load_config("cls2_noaffine")
    variables = mx.import_torch(FIXTURES / "cls2_noaffine.pkl", config)
    apply = jax.jit(mx.create_model(config).apply, static_argnames="solver")
    images = figures["image"].transpose(0, 2, 3, 1)
    found, _ = apply(variables, images, solver=mx.Broyden(max_steps=80, tol=1e-6))
    expected = figures["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["cls3_2020_layout.pkl", "cls3_training_checkpoint.pth.tar"])
def test_layouts_of_one_model(name):
    config = load_config("cls3")
    expected = mx.import_torch(FIXTURES / "cls3.pkl", config)
    found = mx.import_torch(FIXTURES / name, config)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def structure(config):
    side = config.size_divisor
    init = mx.create_model(config).init
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side, side, 3)))


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def merged(variables):
    """The cell's parameters with plain kernels."""
    return weight_norm.merge(variables["params"]["cell"])


ARCHITECTURES = {
    "several blocks": {"blocks_per_branch": (3, 2)},
    "one branch": {
        "branch_channels": (8,),
        "blocks_per_branch": (2,),
        "big_kernels": (1,),
        "head_channels": (4,),
    },
    "big kernels": {"big_kernels": (2, 1)},
    "three strides": {"downsample_times": 3},
    "no weight norm": {"weight_norm": False},
    "no shortcut": {"branch_channels": (8, 16)},
    "3x3 final": {"task": "segmentation", "final_conv_kernel": 3},
}


@pytest.mark.parametrize("fields", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_other_architectures(tmp_path, fields):
    config = dataclasses.replace(SMALL, **fields)
    state = random_state(config)
    if config.num_branches == 1:
        state["fullstage.post_fuse_layers.0.conv.weight_g"] = np.ones((8, 1, 1, 1), np.float32)
    path = WRITERS["zip"](tmp_path / "file", {f"module.{n}": a for n, a in state.items()})
    variables = mx.import_torch(path, config)
    assert shapes(variables) == shapes(structure(config))
    kernel = state["downsample.0.weight"]
    found = variables["params"]["stem"]["downsample_0"]["conv"]["kernel"]
    assert found[2, 0, 1, 5] == kernel[5, 1, 2, 0]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def compiled(name):
    """A name as torch.compile, of the cell and of the model, and a parametrization have it."""
    for leaf, stored in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(leaf, f"parametrizations.weight.{stored}")
    return "module._orig_mod." + name.replace("fullstage.", "fullstage._orig_mod.")


@pytest.mark.parametrize("weight_norm", [True, False])
def test_a_training_checkpoint_of_a_compiled_model(tmp_path, weight_norm):
    state = random_state(SMALL, jnp.bfloat16)
    config = dataclasses.replace(SMALL, weight_norm=weight_norm)
    plain = WRITERS["zip"](tmp_path / "plain", state)
    value = {"epoch": 3, "state_dict": {compiled(name): a for name, a in state.items()}}
    found = mx.import_torch(WRITERS["zip"](tmp_path / "compiled", value), config)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, found, mx.import_torch(plain, config))


def test_halves_of_both_kinds(tmp_path):
    state = random_state(SMALL, jnp.bfloat16)
    state["classifier.bias"] = state["classifier.bias"].astype(np.float16)
    variables = mx.import_torch(WRITERS["zip"](tmp_path / "file", state), SMALL)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("stored", "imported"),
    [
        ("float16", "float32"),
        (jnp.bfloat16, "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_types(tmp_path, stored, imported):
    state = random_state(SMALL, stored)
    variables = mx.import_torch(WRITERS["zip"](tmp_path / "file", state), SMALL)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(imported)}
    bias = variables["params"]["head"]["classifier"]["bias"]
    np.testing.assert_array_equal(bias, state["classifier.bias"])


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_folded_weight_norm(tmp_path):
    state = random_state(SMALL, np.float64)
    normed = WRITERS["zip"](tmp_path / "normed", state)
    folded = WRITERS["zip"](tmp_path / "folded", fold(state))
    plain = dataclasses.replace(SMALL, weight_norm=False)
    with jax.enable_x64(True):
        expected = merged(mx.import_torch(normed, SMALL))
        split = mx.import_torch(folded, SMALL)
        assert shapes(split) == shapes(structure(SMALL))
        assert_close(merged(split), expected)
        assert_close(mx.import_torch(normed, plain)["params"]["cell"], expected)
        assert_close(mx.import_torch(folded, plain)["params"]["cell"], expected)


def test_a_folded_kernel_with_a_channel_of_zeros(tmp_path):
    state = fold(random_state(SMALL))
    state["fullstage.branches.0.blocks.0.conv1.weight"][3] = 0
    variables = mx.import_torch(WRITERS["zip"](tmp_path / "file", state), SMALL)
    kernel = merged(variables)["branches_0_blocks_0"]["conv1"]["kernel"]
    assert (kernel[..., 3] == 0).all()
    assert (kernel[..., 2] != 0).all()


def test_weight_norm_in_the_fusion_too(tmp_path):
    # As TorchDEQ's CIFAR model has it.
    state = random_state(SMALL)
    kernel = state.pop("fullstage.fuse_layers.0.1.net.conv.weight")
    norm = np.sqrt((kernel**2).sum((1, 2, 3), keepdims=True))
    state["fullstage.fuse_layers.0.1.net.conv.weight_g"] = 2 * norm
    state["fullstage.fuse_layers.0.1.net.conv.weight_v"] = kernel
    variables = mx.import_torch(WRITERS["zip"](tmp_path / "file", state), SMALL)
    found = variables["params"]["cell"]["fuse_layers_0_1"]["net"]["conv"]["kernel"]
    np.testing.assert_allclose(found, 2 * kernel.transpose(2, 3, 1, 0), rtol=1e-6)


def test_the_report():
    config = load_config("cls3")
    report = "\n".join(import_with_report(FIXTURES / "cls3_2020_layout.pkl", config).report)
    assert "took 94,946 parameters in 104 arrays" in report
    assert "ignored 171: copies of the cell" in report
    assert "ignored 18: counters" in report
    plain = dataclasses.replace(config, weight_norm=False)
    report = import_with_report(FIXTURES / "cls3.pkl", plain).report
    assert (
        "refolded fullstage.branches.0.blocks.0.conv1.weight_g into "
        "fullstage.branches.0.blocks.0.conv1.weight"
    ) in report


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("expansion", 3, ["shape: fullstage.branches.0.blocks.0.conv1.weight_v is (16, 8, 3, 3)"]),
        ("num_classes", 7, ["shape: classifier.bias is (10,), by the config (7,)"]),
        ("downsample_times", 0, []),
        ("downsample_times", 3, ["missing: downsample.DS3.weight (8, 8, 3, 3)"]),
        ("post_gn_affine", False, ["extra: fullstage.post_fuse_layers.0.gnorm.bias (8,)"]),
        ("block_gn_affine", False, ["extra: fullstage.branches.1.blocks.0.gn2.weight (16,)"]),
        ("fuse_gn_affine", False, ["extra: fullstage.fuse_layers.0.1.net.gnorm.bias (8,)"]),
        ("blocks_per_branch", (1, 2, 1), ["missing: fullstage.branches.1.blocks.1.gn1.bias (32,)"]),
        (
            "big_kernels",
            (1, 0, 0),
            ["conv1.weight_v is (16, 8, 3, 3), by the config (16, 8, 5, 5)"],
        ),
        ("head_channels", (4, 8, 12), ["shape: incre_modules.2.0.conv1.weight"]),
        ("final_channels", 8, ["shape: final_layer.0.bias is (32,)"]),
        (
            "branch_channels",
            (8, 16, 16),
            ["shape: fullstage.branches.2.blocks.0.gn3.bias is (32,)"],
        ),
        ("task", "segmentation", ["missing: last_layer.0.weight", "extra: classifier.bias (10,)"]),
    ],
)
def test_a_config_of_another_architecture(field, value, names):
    config = dataclasses.replace(load_config("cls3"), **{field: value})
    if not names:  # the strides of the first two convolutions change no shape
        assert mx.import_torch(FIXTURES / "cls3.pkl", config)
        return
    with pytest.raises(ValueError, match="does not fit") as error:
        mx.import_torch(FIXTURES / "cls3.pkl", config)
    for name in names:
        assert name in str(error.value)
    assert f"config.model.{field} is {value!r}; by the file's arrays it is " in str(error.value)


def test_missing_and_extra_arrays(tmp_path):
    state = random_state(SMALL)
    state["surplus.weight"] = state.pop("classifier.bias")
    path = WRITERS["zip"](tmp_path / "file", state)
    with pytest.raises(ValueError, match="does not fit") as error:
        mx.import_torch(path, SMALL)
    assert str(error.value).splitlines() == [
        f"{path} does not fit:",
        "  missing: classifier.bias (10,)",
        "  extra: surplus.weight (10,)",
    ]
    with pytest.raises(ValueError, match=r"missing: classifier\.bias"):
        mx.import_torch(path, SMALL, drop=["surplus.*"])
    with pytest.raises(ValueError, match=r"extra: surplus\.weight"):
        mx.import_torch(path, SMALL, allow_missing=["classifier.bias"])
    imported = import_with_report(
        path, SMALL, drop=["module.surplus.weight"], allow_missing=["classifier.*"]
    )
    assert imported.report[-2:] == [
        "dropped surplus.weight",
        "left at its initial value: classifier.bias",
    ]
    assert shapes(imported.variables) == shapes(structure(SMALL))
    kernel = imported.variables["params"]["head"]["classifier"]["kernel"]
    np.testing.assert_array_equal(kernel, state["classifier.weight"].T)


def test_a_classifier_of_other_classes(tmp_path):
    path = WRITERS["zip"](tmp_path / "file", random_state(SMALL))
    other = dataclasses.replace(SMALL, num_classes=3)
    head = ["classifier.*"]
    variables = mx.import_torch(path, other, drop=head, allow_missing=head)
    assert variables["params"]["head"]["classifier"]["kernel"].shape == (16, 3)
    assert (variables["params"]["head"]["classifier"]["kernel"] != 0).all()


@pytest.mark.parametrize("argument", ["allow_missing", "drop"])
def test_one_string_is_no_list_of_names(tmp_path, argument):
    path = WRITERS["zip"](tmp_path / "file", {})
    message = rf"{argument} is 'classifier\.\*'; it must be a list of names: {argument}=\['class"
    with pytest.raises(ValueError, match=message):
        mx.import_torch(path, SMALL, **{argument: "classifier.*"})
    with pytest.raises(ValueError, match=rf"{argument} is \(3,\); every entry must be a name"):
        mx.import_torch(path, SMALL, **{argument: [3]})


HEAD = ["classifier.*", "downsamp_modules.*", "final_layer.*", "incre_modules.*"]


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [HEAD, HEAD[:1], HEAD[2:3]])
def test_a_file_without_parts_of_its_head(tmp_path, lacking):
    parts = tuple(pattern.removesuffix("*") for pattern in lacking)
    state = {n: a for n, a in random_state(SMALL).items() if not n.startswith(parts)}
    path = WRITERS["zip"](tmp_path / "file", state)
    remedy = re.escape(f"name what may be missing: allow_missing={lacking}")
    with pytest.raises(ValueError, match=f"cannot be told.*{remedy}"):
        mx.import_torch(path, SMALL)
    with pytest.raises(ValueError, match=f"config in place of --infer.*{remedy}"):
        convert.infer_config(path, {})
    variables = mx.import_torch(path, SMALL, allow_missing=lacking)
    assert shapes(variables) == shapes(structure(SMALL))


def test_an_array_of_whole_numbers(tmp_path):
    state = random_state(SMALL)
    state["classifier.bias"] = np.zeros(10, np.int64)
    with pytest.raises(ValueError, match=r"type: classifier\.bias is int64"):
        mx.import_torch(WRITERS["zip"](tmp_path / "file", state), SMALL)


def test_two_arrays_of_one_name(tmp_path):
    state = random_state(SMALL)
    state["module.classifier.bias"] = state["classifier.bias"]
    with pytest.raises(ValueError, match=r"classifier\.bias is in it twice"):
        mx.import_torch(WRITERS["zip"](tmp_path / "file", state), SMALL)


@pytest.fixture(scope="module")
def imported_digits(tmp_path_factory):
    """The folder that the command makes of digits_tiny.pkl."""
    folder = tmp_path_factory.mktemp("imported") / "new" / "digits"
    config = ROOT / "configs" / "digits.py"
    assert run("--config", config, "--input", FIXTURES / "digits_tiny.pkl", "--output", folder) == 0
    return folder


def test_the_command_and_load(imported_digits):
    model, variables, config = mx.load(imported_digits)
    assert config.train.unrolled_at(config.train.pretrain_steps) is None
    assert model.config == config.model
    expected = mx.import_torch(FIXTURES / "digits_tiny.pkl", load_config("digits_tiny"))
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert [path.name for path in imported_digits.parent.iterdir()] == ["digits"]


def test_evaluation_of_the_imported_checkpoint(imported_digits, tmp_path, capsys):
    arguments = [f"--config={ROOT / 'configs/digits.py'}", f"--checkpoint={imported_digits}"]
    arguments += [f"--config.data.dir={tmp_path}", f"--output={tmp_path / 'logits.npz'}"]
    arguments += ["--config.solver.forward.tol=1e-6", "--config.solver.forward.max_steps=80"]
    assert invoke(evaluate.run, *arguments) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["eval/accuracy"] == 1.0
    assert metrics["eval/examples"] == 360
    logits = np.load(tmp_path / "logits.npz")["logits"]
    np.testing.assert_allclose(logits, np.load(FIXTURES / "digits_tiny.npz")["logits"], atol=1e-3)


def test_the_command_infers(tmp_path, capsys):
    options = ["--set", "num_groups=4", "--output", tmp_path / "out"]
    assert run("--infer", "--input", FIXTURES / "cls3.pkl", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "config.model.expansion = 2" in lines
    assert "config.model.num_groups = 4" in lines
    assert "config.model.downsample_times = 2  (assumed: --set gives another)" in lines
    assert "config.model.dropout = 0.0  (assumed: --set gives another)" in lines
    expected = dataclasses.replace(load_config("cls3"), downsample_times=2)
    assert mx.load(tmp_path / "out")[2].model == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--infer", "--input", "hostile.pkl"], "global posix.system"),
        (["--infer", "--input", "cls3.npz"], "a zip that is no file by torch.save"),
        (["--infer", "--input", "cls3.json"], "begins with b'{"),
        (["--infer", "--input", "nowhere.pkl"], "No such file"),
        (["--config", "configs/digits.py", "--input", "cls3.pkl"], "expansion is 5"),
        (
            ["--config", "configs/regression.py", "--input", "cls3.pkl"],
            "config.app is 'regression', which imports no PyTorch files",
        ),
        (["--config", "nowhere.py", "--input", "cls3.pkl"], "nowhere.py"),
        (["--config", "eval_nothing.py", "--input", "cls3.pkl"], "eval_nothing.py"),
        (
            ["--infer", "--input", "cls3.pkl", "--set", "groups=4"],
            "Did you mean config.model.num_groups?",
        ),
        (["--infer", "--input", "cls3.pkl", "--set", "num_groups=many"], "num_groups is 'many'"),
        (["--infer", "--input", "cls3.pkl", "--set", "num_groups"], "num_groups has no value"),
        (["--infer", "--input", "cls3.pkl", "--set", "expansion=3"], "cls3.pkl: expansion is"),
    ],
)
def test_the_command_refuses(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    options = [ROOT / o if o.startswith("configs/") else o for o in options]
    name = options.index("--input") + 1
    options[name] = FIXTURES / options[name]
    assert run(*options, "--output", "out/deep") == 2
    captured = capsys.readouterr()
    assert "wrote" not in captured.out
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_the_command_overwrites_nothing(tmp_path, capsys):
    (tmp_path / "kept").touch()
    assert run("--infer", "--input", FIXTURES / "cls3.pkl", "--output", tmp_path) == 2
    assert "exists; name a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("options", [[], ["--infer"], ["--infer", "--config", "a", "--input", "b"]])
def test_the_command_without_what_it_needs(options):
    assert run(*options, "--output", "out") == 2


@pytest.mark.slow
def test_ninety_million_parameters(tmp_path):
    config = mx.ModelConfig(
        num_classes=1000,
        branch_channels=(88, 176, 352, 704),
        blocks_per_branch=(1, 1, 1, 1),
        big_kernels=(0, 0, 0, 0),
        expansion=6,
        downsample_times=2,
        post_gn_affine=True,
        head_channels=(32, 64, 128, 256),
        final_channels=2048,
    )
    path = WRITERS["zip"](tmp_path / "xl.pkl", random_state(config))
    command = [sys.executable, "-c", MEASURED, "--infer"]
    command += ["--input", str(path), "--output", str(tmp_path / "out")]
    started = time.monotonic()
    out = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    ).stdout
    seconds = time.monotonic() - started
    peak = 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB$", out, re.MULTILINE)[1])
    print(f"{seconds:.1f} s, {peak / 2**30:.2f} GiB")
    assert "took 90,463,280 parameters" in out
    assert seconds < 20
    assert peak < 1.5e9
