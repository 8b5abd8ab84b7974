"""What the commands make of their arguments; tests/training/test_commands.py runs them."""

import importlib
import json
from pathlib import Path

import pytest
from absl import flags
from invoke import invoke

from mdeq_jax.commands import cli
from mdeq_jax.vision.config import finalize

ROOT = Path(__file__).parents[2]
COMMANDS = [
    path.stem
    for path in (ROOT / "mdeq_jax/commands").glob("*.py")
    if "__main__" in path.read_text()
]


def show(config):
    """What a command sees of its config."""
    keys = {
        "seed": config.seed,
        "steps": config.train.steps,
        "channels": config.model.branch_channels,
        "heads": config.model.extra_heads,
        "window": config.inference.window,
        "augment": config.data.augment,
        "root": config.data.root,
        "tol": config.solver.forward.tol,
        "allowed": config.init_from_allow_missing,
    }
    return {"epochs": config.train.epochs, **keys}


def run():
    """A command with a config and a flag."""
    config = cli.ConfigFlag(finalize)
    flags.DEFINE_bool("profile", False, "A flag.")
    cli.run("The purpose.", lambda: {**show(config.value), "in_file": show(config.in_file)})


def result(capsys, *arguments):
    code = invoke(run, "--config=digits", *arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--config.seed=1"], "seed", 1),
        (["-config.seed", "1"], "seed", 1),
        (["--config.seed=1", "--profile", "--config.seed=2"], "seed", 2),
        (["--config.train.steps=7"], "steps", 7),
        (["--config.train.steps=7", "--config.train.steps=None"], "steps", None),
        (["--config.model.branch_channels=(8, 16)"], "channels", [8, 16]),
        (["--config.model.branch_channels=[8, 16]"], "channels", [8, 16]),
        (["--config.model.extra_heads=()"], "heads", []),
        (["--config.inference.window=None"], "window", None),
        (["--config.data.augment=false"], "augment", False),
        (["--config.data.augment=TRUE"], "augment", True),
        (["--config.data.augment=0"], "augment", False),
        (["--noconfig.data.augment"], "augment", False),
        (["--config.data.root=2024"], "root", "2024"),
        (["--config.data.root=a", "--config.data.root=None"], "root", None),
        (["--config.solver.forward.tol=1e-4"], "tol", 1e-4),
        (["--config.init_from_allow_missing=('params/cell/*',)"], "allowed", ["params/cell/*"]),
    ],
)
def test_an_override(capsys, arguments, name, value):
    found = result(capsys, *arguments)
    assert found.pop(name) == value
    in_file = found.pop("in_file")
    assert in_file == json.loads(json.dumps(show(finalize(cli.load_config("digits")))))
    assert found.items() <= in_file.items()


@pytest.mark.parametrize("name", ["digits", "configs/digits.py"])
def test_a_config_by_name_and_by_path(capsys, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    assert invoke(run, f"--config={name}") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 32  # the file's, not the default


def test_overrides_in_a_file_of_flags(capsys, tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text("--config=digits\n# a comment\n--config.seed=3\n")
    assert invoke(run, f"--flagfile={flagfile}", "--config.train.steps=2") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["steps"]) == (3, 2)


def test_a_config_file_is_executed_once(capsys, tmp_path):
    own, log = tmp_path / "own.py", tmp_path / "log"
    own.write_text(
        "from mdeq_jax.vision.config import default_config\n"
        f"with open({str(log)!r}, 'a') as log:\n"
        "    print('executed', file=log)\n"
        "def get_config():\n"
        f"    with open({str(log)!r}, 'a') as log:\n"
        "        print('called', file=log)\n"
        "    return default_config()\n"
    )
    assert invoke(run, f"--config={own}", "--config.seed=5") == 0
    assert log.read_text() == "executed\ncalled\n"
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["in_file"]["seed"]) == (5, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Flag --config must have a value"),
        (["--config=digit"], "there is no config file digit. Did you mean digits?"),
        (["--config=digits", "--profle"], "there is no flag --profle; --help lists them. Did you"),
        (["--config=digits", "stray"], "arguments beside flags are ['stray']; expected: none."),
        (["--config=digits", "--flagfile=nowhere"], "nowhere"),
        (["--config=digits", "--config.seed"], "Missing value for flag --config.seed"),
        (
            ["--config=digits", "--config.seed", "--profile"],
            "--config.seed=--profile: invalid",
        ),
        (["--config.seed=3", "--config=digits"], "before a value for --config"),
        (["--config=digits", "--config.seed=one"], "flag --config.seed=one: invalid literal"),
        (["--config=digits", "--config.seed=None"], "config.seed is None"),
        (["--config=digits", "--config.data.augment=maybe"], "--config.data.augment=maybe: "),
        (["--config=digits", "--config.model.branch_channels=8"], "it must be a list, such as"),
        (["--config=digits", "--config.model.branch_channels={[]}"], "it must be a list, such as"),
        (["--config=digits", "--config.model.num_group=4"], "mean config.model.num_groups?"),
        (["--config=digits", "--config.batch_size=4"], "Did you mean config.data.batch_size?"),
        (["--config=digits", "--config.trian.steps=4"], 'Did you mean "train" instead of "trian"?'),
        (["--config=digits", "--config.seed.of=4"], "seed"),
        (["--config=digits", "--config.solver.forward=4"], "--config.solver.forward=4: "),
        (["--config=digits", "--config.adjoint.name=phantum"], "Did you mean phantom?"),
        (["--config=digits", "--config.solver.forward.window=3"], "'broyden' has no such option"),
    ],
)
def test_what_is_wrong_with_arguments_is_one_line(capsys, arguments, message):
    assert invoke(run, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_help(capsys):
    assert invoke(run, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The purpose.")
    assert "--config: Config file" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(capsys, name):
    command = importlib.import_module(f"mdeq_jax.commands.{name}")
    assert invoke(command.run, "--help") == 0
    shown = capsys.readouterr().out
    assert f"mdeq_jax.commands.{name}" in shown or f"{name}.py" in shown
    assert shown.count("  --") >= 2 or name == "summary"
