"""Config files: those that come with the package by name, and anyone's by path."""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

_PACKAGE = Path(__file__).parents[1]


def config_file(name: str) -> Path:
    """Return the file of a config.

    Args:
      name: of a config that comes with the package, as "digits", or the path of a file.

    Raises:
      ValueError: there is no such file.
    """
    shipped = _shipped()
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise ValueError(
            f"there is no config file {name}; give the path of one, or the name of one that comes "
            f"with mdeq_jax: {', '.join(shipped)}."
        )
    return path


def load_config(name: str) -> ConfigDict:
    """Return what a config file's `get_config` does, for another config to start from.

    Args:
      name: as of `config_file`.

    Raises:
      ValueError: there is no such file, or it defines no `get_config`.
    """
    path = config_file(name)
    definitions = runpy.run_path(str(path))
    if "get_config" not in definitions:
        raise ValueError(f"{path} defines no get_config; name a config file, as configs/digits.py.")
    return definitions["get_config"]()


def _shipped() -> dict[str, Path]:
    """The configs that come with the package: in it once installed, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
