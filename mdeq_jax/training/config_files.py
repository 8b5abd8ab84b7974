"""Config files: by name if they come with the package, otherwise by path."""

import runpy
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from mdeq_jax.training.sections import suggestion

_PACKAGE = Path(__file__).parents[1]


def config_file(name: str) -> Path:
    """Return the file of a config.

    Args:
      name: name of a config that comes with the package, such as "digits", or path of a file.

    Raises:
      ValueError: there is no such file.
    """
    shipped = _shipped()
    path = shipped.get(name, Path(name))
    if not path.is_file():
        beside = map(str, path.parent.glob("*.py"))
        near = suggestion(name, (*shipped, *beside)) or (
            " Give the path of one, or the name of one that comes with mdeq_jax: "
            f"{', '.join(shipped)}."
        )
        raise ValueError(f"there is no config file {name}.{near}")
    return path


def load_config(name: str) -> ConfigDict:
    """Return the ConfigDict of a config file's `get_config`, for another config to start from.

    Args:
      name: name of a config that comes with the package, such as "digits", or path of a file.

    Raises:
      ValueError: there is no such file, it defines no `get_config` that returns a ConfigDict, or an
        error is raised in it.

    Examples:
      >>> load_config("cifar10_large").model.branch_channels
      (32, 64, 128, 256)
    """
    path = config_file(name)
    try:
        definitions = runpy.run_path(str(path))
        config = definitions["get_config"]() if "get_config" in definitions else None
    except Exception as error:  # a config file may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{_place(error, path)}: {said}") from error
    if "get_config" not in definitions:
        raise ValueError(f"{path} defines no get_config; name a config file, as configs/digits.py.")
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config of {path} returns {type(config).__name__}; it must return a ConfigDict, "
            "as default_config does."
        )
    return config


def _place(error: Exception, path: Path) -> str:
    """Return where in a config file an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    lines = lines or [getattr(error, "lineno", None)]  # the line of a SyntaxError
    return str(path) if lines[-1] is None else f"{path}, line {lines[-1]}"


def _shipped() -> dict[str, Path]:
    """Return the configs of the package: in it if installed, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
