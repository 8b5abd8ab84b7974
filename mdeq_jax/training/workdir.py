"""Checks of a workdir before a run may continue in it; files and folders written as one."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils


def require_writable(folder: epath.Path) -> None:
    """Make a folder if it does not exist; raise ValueError if it cannot be written.

    Args:
      folder: the folder, which is made with its parents.
    """
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error}. Use another --workdir.") from error


def replace_text(path: Path, text: str) -> None:
    """Write a file, which holds either its old text or the new one if the process is killed."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[epath.Path]:
    """Yield a folder to fill, which is renamed to `path` if no error is raised.

    Raises:
      ValueError: `path` exists and is not an empty folder.
    """
    target = epath.Path(path).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} exists; name a new folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = epath.Path(scratch) / target.name
        folder.mkdir()
        yield folder
        os.rename(folder, target)


def set_aside(folders: Iterable[epath.Path]) -> None:
    """Rename folders that cannot be read, N to N.damaged, with a warning; all processes call this.

    Renamed, not deleted: the read may have failed although the checkpoint is intact.
    """
    multihost_utils.sync_global_devices("all processes have read")
    for folder in folders:
        aside = folder.with_name(f"{folder.name}.damaged")
        logging.warning("it is kept as %s; rename it to try again, or delete it", aside)
        if jax.process_index() == 0:
            if aside.exists():
                aside.rmtree()
            folder.rename(aside)
    multihost_utils.sync_global_devices("unreadable folders are set aside")


def config_differences(
    stored: Mapping[str, Any], current: Mapping[str, Any], may_differ: Iterable[str]
) -> list[str]:
    """Return where two configs differ, as lines "key: value there, value here".

    Args:
      stored: nested config of the run in the workdir, of JSON types.
      current: nested config of this run, of JSON types.
      may_differ: dotted keys that are left out, each with all keys below it.

    Returns:
      One line per differing key, sorted. The value of a key that one config lacks is "absent".
    """
    allowed = tuple(f"{key}." for key in may_differ)
    there, here = (
        {key: x for key, x in flatten_dict(c, sep=".").items() if not f"{key}.".startswith(allowed)}
        for c in (stored, current)
    )
    return differences(there, here)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return one line "key: value there, value here" for each key whose values differ, sorted.

    Args:
      there: values of the run in the workdir.
      here: values of this run.
    """
    return [
        f"{key}: {there.get(key, 'absent')!r} there, {here.get(key, 'absent')!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, ...) != here.get(key, ...)
    ]
