"""Configs by name and by path, and configs that start from another."""

from pathlib import Path

import pytest

from mdeq_jax.vision.config import config_file, finalize, load_config

ROOT = Path(__file__).parents[1]


def test_a_config_by_name_is_the_file_in_configs():
    assert config_file("digits") == ROOT / "configs" / "digits.py"


def test_a_path_is_taken_as_it_is(tmp_path):
    own = tmp_path / "own.py"
    own.touch()
    assert config_file(str(own)) == own


@pytest.mark.parametrize("name", ["resnet50", "nowhere/x.py", "__init__", "configs"])
def test_no_such_config(name):
    with pytest.raises(
        ValueError, match=rf"no config file {name}\. Give .*cifar10_large, .*digits"
    ):
        config_file(name)


@pytest.mark.parametrize(
    ("name", "near"), [("digit", "digits"), ("configs/digit.py", "configs/digits.py")]
)
def test_a_config_misspelt(name, near, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=rf"no config file {name}\. Did you mean {near}\?$"):
        config_file(name)


def test_a_config_anywhere_may_start_from_one_that_comes_with_the_package(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "from mdeq_jax.vision.config import load_config\n"
        "def get_config():\n"
        "    config = load_config('cifar10_large_reg')\n"
        "    config.model.dropout = 0.5\n"
        "    return config\n"
    )
    config = finalize(load_config(str(own)))
    assert config.model.dropout == 0.5
    assert config.solver.forward.max_steps == 8  # cifar10_large_reg's
    assert (
        config.model.branch_channels == finalize(load_config("cifar10_large")).model.branch_channels
    )


def test_a_file_without_get_config():
    with pytest.raises(ValueError, match="defines no get_config"):
        load_config(str(ROOT / "configs" / "__init__.py"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.trian.epochs = 3", "line 4: AttributeError: .*train"),
        ("config.train.epochs = 'many'", "line 4: TypeError: .*epochs"),
        ("config.train.epochs = (3", "line 4: SyntaxError: "),
        ("load_config('digit')", "line 4: ValueError: .*Did you mean digits"),
    ],
)
def test_an_error_in_a_config_file_is_told_with_its_line(tmp_path, line, message):
    own = tmp_path / "own.py"
    own.write_text(
        "from mdeq_jax.vision.config import load_config\n"
        "def get_config():\n"
        "    config = load_config('digits')\n"
        f"    {line}\n"
        "    return config\n"
    )
    with pytest.raises(ValueError, match=rf"^{own}, {message}") as error:
        load_config(str(own))
    assert "\n" not in str(error.value)


def test_a_get_config_that_forgets_to_return(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def get_config():\n    pass\n")
    with pytest.raises(
        ValueError, match=r"get_config of .*own\.py returns NoneType; it must return"
    ):
        load_config(str(own))
