"""Checkpoints on disk; only this module and `checkpoint_folders` know Orbax.

A run's `WORKDIR/checkpoints/STEP` holds the items state, data (position in the training data) and
config; `WORKDIR/best/STEP` holds state, evaluation and config. A folder gets its name by one
rename, after all of it is written.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import grain
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from mdeq_jax.checks import require_names
from mdeq_jax.training.checkpoint_folders import (
    first_intact,
    read_config,
    read_state,
    read_structure,
    reason,
    shapes,
    step_folders,
)
from mdeq_jax.training.layer_config import without_unused_options
from mdeq_jax.training.workdir import (
    config_differences,
    differences,
    require_writable,
    set_aside,
)

LATEST, BEST = "checkpoints", "best"

# Most differing arrays that a message names.
_NAMED = 6

Tree = TypeVar("Tree")


class Checkpoint(NamedTuple):
    """A checkpoint read without knowing its structure.

    Attributes:
      state: nested dicts and lists of numpy arrays; named fields are dict keys.
      config: the run's config, in JSON types.
      step: number of training steps taken.
    """

    state: dict[str, Any]
    config: dict[str, Any]
    step: int


class Checkpointer:
    """The checkpoints of a run: the last two, and the best one.

    Saves are asynchronous: they return once the values are copied to the host, so that the arrays
    may be donated to the next step. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        may_differ: Iterable[str] = (),
    ) -> None:
        """Open a workdir, made if it does not exist, and check that it belongs to this config.

        Args:
          workdir: folder of the run.
          config: the run's config, nested and of JSON types; stored in every checkpoint.
          may_differ: dotted keys that may differ from the stored config, each with all keys below
            it.

        Raises:
          ValueError: the folder cannot be written or holds a run of another config, or `may_differ`
            is a string and not a list.
        """
        allowed = require_names("may_differ", may_differ)
        root = epath.Path(workdir).absolute()
        folders = {name: root / name for name in (LATEST, BEST)}
        for folder in (root, *folders.values()):
            require_writable(folder)
        self._config = json.loads(json.dumps(config))
        for folder in folders.values():
            _require_same_run(folder, self._config, allowed)
        self._latest = _manager(folders[LATEST], keep=2)
        self._best = _manager(folders[BEST], keep=1)

    def save(self, step: int, state: Any, data_iterator: grain.DatasetIterator) -> None:
        """Save state, data position and config as one; a step that is stored stays as it is.

        Args:
          step: number of training steps taken.
          state: pytree of arrays.
          data_iterator: the training data, which has yielded that step's batch and no more. Its
            position must be the same in all processes, because one position is stored for all.

        Raises:
          OSError: this checkpoint, or the previous one, whose save was still running, cannot be
            written; older checkpoints stay.
        """
        # A run that resumes from this checkpoint must find the best one of the steps before it.
        with _writing(self._best.directory):
            self._best.wait_until_finished()
        self._save(
            self._latest,
            step,
            {
                "state": ocp.args.StandardSave(state),
                "data": ocp.args.JsonSave(data_iterator.get_state()),
            },
        )

    def save_best(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Save a new best checkpoint, which replaces the old one once it is complete.

        Args:
          step: number of training steps taken.
          state: pytree of arrays.
          metrics: evaluation of that state, of JSON types; `best_metrics` returns it.
        """
        self._save(
            self._best,
            step,
            {
                "state": ocp.args.StandardSave(state),
                # Not "metrics": Orbax opens an item of that name by itself, and fails on damage.
                "evaluation": ocp.args.JsonSave(dict(metrics)),
            },
        )

    def _save(
        self, manager: ocp.CheckpointManager, step: int, items: dict[str, ocp.args.CheckpointArgs]
    ) -> None:
        if step not in manager.all_steps():
            config = ocp.args.JsonSave(self._config)
            with _writing(manager.directory):
                # force: a run resumed from an older step may save below the best one's step.
                manager.save(step, args=ocp.args.Composite(config=config, **items), force=True)

    def restore_latest(
        self, abstract_state: Tree, data_iterator: grain.DatasetIterator
    ) -> tuple[int, Tree] | None:
        """Restore the newest intact checkpoint; damaged newer ones are renamed with a warning.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings.
          data_iterator: set to the stored position.

        Returns:
          (step, state), or None where there is no checkpoint.

        Raises:
          ValueError: there are checkpoints and none is intact; or their arrays have other names or
            shapes than those of `abstract_state`.
        """
        folders = step_folders(self._latest.directory)
        if not folders:
            return None
        _require_same_arrays(folders, abstract_state)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state),
            data=ocp.args.JsonRestore(),
        )
        folder, restored = first_intact(
            folders, lambda folder: self._latest.restore(int(folder.name), args=args)
        )
        set_aside(folders[: folders.index(folder)])
        self._latest.reload()
        data_iterator.set_state(restored["data"])
        return int(folder.name), restored["state"]

    def best_metrics(self) -> dict[str, Any] | None:
        """Return the metrics of the best checkpoint, or None; an unreadable one is renamed."""
        for folder in step_folders(self._best.directory):
            try:
                args = ocp.args.Composite(evaluation=ocp.args.JsonRestore())
                return self._best.restore(int(folder.name), args=args)["evaluation"]
            except Exception as error:
                logging.warning("checkpoint %s cannot be read: %s", folder, reason(error))
                set_aside([folder])
                self._best.reload()
        return None

    def close(self) -> None:
        """Wait until all saves are on disk, and end the threads.

        Raises:
          OSError: a save cannot be written.
        """
        for manager in (self._latest, self._best):
            with _writing(manager.directory):
                manager.close()

    def __enter__(self) -> "Checkpointer":
        """Return the checkpointer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


def write_checkpoint(folder: epath.Path, state: Any, config: Mapping[str, Any], step: int) -> None:
    """Write one checkpoint outside of a run, into a folder that `load_checkpoint` reads.

    Args:
      folder: the folder to write.
      state: pytree of arrays.
      config: the run's config, nested and of JSON types.
      step: number of training steps taken.
    """
    items = {
        "state": ocp.args.StandardSave(state),
        "config": ocp.args.JsonSave(json.loads(json.dumps(config))),
    }
    with _manager(folder, keep=1) as manager:
        manager.save(step, args=ocp.args.Composite(**items))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint without knowing its structure, on any devices.

    Args:
      path: one step's folder, a folder of such folders, or a workdir (its folder checkpoints/). If
        there are several, the newest intact one is read, with a warning for each that is skipped.

    Returns:
      The checkpoint.

    Raises:
      ValueError: the path does not exist, holds no checkpoint, or holds none that is intact.
    """
    folder = epath.Path(path).absolute()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name a workdir or a checkpoint in one.")
    folders = step_folders(folder / LATEST) or step_folders(folder)
    if not folders and folder.name.isdigit():
        folders = [folder]
    if not folders:
        raise ValueError(
            f"{folder} holds no checkpoint; name a workdir, its {LATEST}/ or {BEST}/, or the folder"
            " of one step."
        )
    found, (state, config) = first_intact(
        folders, lambda folder: (read_state(folder), read_config(folder))
    )
    return Checkpoint(state, without_unused_options(config), int(found.name))


def _manager(folder: epath.Path, *, keep: int) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder, options=options)


@contextlib.contextmanager
def _writing(folder: epath.Path) -> Iterator[None]:
    """Explain what Orbax raises where a file cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
        raise OSError(
            f"a checkpoint cannot be written in {folder}: {reason(error)}\nThe last complete one"
            " is kept. Make room, or mend what is wrong, and run the same command again."
        ) from error


def _require_same_run(
    folder: epath.Path, config: dict[str, Any], may_differ: tuple[str, ...]
) -> None:
    for step_folder in step_folders(folder):
        try:
            stored = read_config(step_folder)
        except Exception:  # a damaged checkpoint is reported when it is restored
            continue
        if found := config_differences(stored, config, may_differ):
            raise ValueError(
                f"{folder.parent} holds a run of another config:\n  "
                + "\n  ".join(found)
                + "\nUse another --workdir, or the config of that run."
            )


def _require_same_arrays(folders: list[epath.Path], state: Any) -> None:
    for folder in folders:
        try:
            stored = shapes(read_structure(folder))
        except Exception:  # a damaged checkpoint is reported when it is restored
            continue
        if found := differences(stored, shapes(state)):
            more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
            raise ValueError(
                f"{folder} holds a run with other arrays:\n  "
                + "\n  ".join(found[:_NAMED] + more)
                + "\nUse another --workdir, or the data (config.data) and the version of that run."
            )
