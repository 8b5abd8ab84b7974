"""What the commands make of their arguments; tests/training/test_commands.py runs them."""

import pytest

from mdeq_jax.commands import cli


def test_overrides_are_told_from_flags():
    argv = ["train.py", "--config", "digits", "--config.seed=1", "-config.data.name", "folder"]
    argv += ["--workdir=w", "--config.train.steps", "-1", "--config.seed=2", "--profile", "stray"]
    others, overrides = cli._split(argv)
    expected = "train.py --config digits --workdir=w --profile stray"
    assert others == expected.split()
    assert overrides == {"seed": "2", "data.name": "folder", "train.steps": "-1"}


@pytest.mark.parametrize("rest", [[], ["--workdir=w"]])
def test_an_override_without_a_value(rest, capsys):
    with pytest.raises(SystemExit) as ended:
        cli._split(["train.py", "--config.seed", *rest])
    assert ended.value.code == 2
    message = "error: --config.seed has no value; write --config.seed=VALUE.\n"
    assert capsys.readouterr().err == message


def test_overrides_in_a_file_of_flags(tmp_path):
    flagfile = tmp_path / "flags"
    flagfile.write_text("--config=digits\n# a comment\n--config.seed=3\n")
    others, overrides = cli._split(["train.py", f"--flagfile={flagfile}", "--workdir=w"])
    assert others == ["train.py", "--config=digits", "--workdir=w"]
    assert overrides == {"seed": "3"}


def test_a_file_of_flags_that_is_not_there(capsys):
    with pytest.raises(SystemExit) as ended:
        cli._split(["train.py", "--flagfile=nowhere"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "nowhere" in message
