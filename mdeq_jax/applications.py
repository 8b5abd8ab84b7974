"""The applications that `config.app` names, each in a module that is imported when it is used.

An application's module offers two names: ``Config``, a frozen dataclass that extends
`mdeq_jax.training.config.RunConfig`, and ``create_experiment(config)``, which returns what the
training loop trains. It may offer ``import_torch(config, path, *, allow_missing, drop)``, which
returns the variables of a PyTorch file as an `Imported`, and ``infer(path, given)``, which returns
the architecture of a PyTorch file's model as an `Inferred`.
"""

import importlib
import os
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mdeq_jax.torch_files.fitting import Imported, Inferred
from mdeq_jax.training import weights
from mdeq_jax.training.config import RunConfig
from mdeq_jax.training.experiment import Experiment
from mdeq_jax.training.sections import from_mapping, suggestion
from mdeq_jax.training.weights import Trained

APPLICATIONS = {
    "vision": "mdeq_jax.vision.experiment",
    "reasoning": "mdeq_jax.reasoning.experiment",
    "flow": "mdeq_jax.flow.experiment",
    "inverse": "mdeq_jax.inverse.generation.experiment",
    "adversarial": "mdeq_jax.inverse.adversarial.experiment",
    "meta": "mdeq_jax.inverse.meta.experiment",
    "language": "mdeq_jax.language.experiment",
    "regression": "mdeq_jax.apps.regression",
    "baseline": "mdeq_jax.comparison.experiment",
}


def find(name: str) -> ModuleType:
    """Return the module of an application.

    Args:
      name: a key of `APPLICATIONS`.

    Raises:
      ValueError: there is no application of this name.

    Examples:
      >>> find("vision").Config().app
      'vision'
    """
    if name not in APPLICATIONS:
        raise ValueError(
            f"config.app is {name!r}; it must be {' or '.join(map(repr, APPLICATIONS))}."
            f"{suggestion(name, APPLICATIONS)}"
        )
    return importlib.import_module(APPLICATIONS[name])


def create_experiment(config: RunConfig) -> Experiment:
    """Return the experiment of a config of any application."""
    return find(config.app).create_experiment(config)


def import_torch(
    config: RunConfig,
    path: str | os.PathLike[str],
    *,
    allow_missing: Iterable[str] = (),
    drop: Iterable[str] = (),
) -> Imported:
    """Return the variables of a config's model from a PyTorch file, and where they come from.

    Args:
      config: config of an application whose module has a function `import_torch` with these
        arguments.
      path: a file that `torch.save` wrote.
      allow_missing: PyTorch names, with ``*`` for any part, of arrays that get initial values if
        they are missing in the file.
      drop: PyTorch names, with ``*`` for any part, of arrays that are not read from the file.

    Raises:
      ValueError: the application imports no PyTorch files, or the file does not fit the model.
    """
    module = find(config.app)
    if not hasattr(module, "import_torch"):
        raise ValueError(f"config.app is {config.app!r}, which imports no PyTorch files.")
    return module.import_torch(config, path, allow_missing=allow_missing, drop=drop)


def infer(app: str, path: str | os.PathLike[str], given: Mapping[str, Any]) -> Inferred:
    """Return the architecture of the model in a PyTorch file, and its fields that are assumed.

    Args:
      app: name of an application whose module has a function `infer`.
      path: a file that `torch.save` wrote.
      given: fields of the section ``model`` that the caller knows.

    Raises:
      ValueError: the application infers nothing, or the file does not hold a model of it.
    """
    module = find(app)
    if not hasattr(module, "infer"):
        able = [name for name in APPLICATIONS if hasattr(find(name), "infer")]
        raise ValueError(
            f"--app is {app!r}, which infers no model from a file; give --config, or --app="
            f"{' or --app='.join(able)}."
        )
    return module.infer(path, given)


def load_trained(
    checkpoint_dir: str | os.PathLike[str], expected: RunConfig | None = None
) -> Trained[RunConfig]:
    """Read a trained model of any application.

    Args:
      checkpoint_dir: a workdir (its newest checkpoint), its ``best/``, or one step's folder.
      expected: a config whose application and section ``model`` the checkpoint's must equal; None
        accepts any.

    Raises:
      ValueError: the folder does not exist, or holds no intact checkpoint; or the architectures
        differ.
    """
    trained = weights.read_trained(checkpoint_dir, finalize)
    if expected is None:
        return trained
    where, found = os.fspath(checkpoint_dir), trained.config
    if found.app != expected.app:
        raise ValueError(
            f"config.app is {expected.app!r}, but the checkpoint in {where} is of {found.app!r}. "
            "Use the config that it was trained with."
        )
    stored, wanted = (getattr(config, "model", None) for config in (found, expected))
    if wanted is not None:  # an application may have no such section
        weights.require_same_architecture(stored, wanted, where)
    return trained


def load_trained_as(app: str, checkpoint_dir: str | os.PathLike[str]) -> Trained[Any]:
    """Read a trained model of one application.

    Args:
      app: a key of `APPLICATIONS`.
      checkpoint_dir: a workdir (its newest checkpoint), its ``best/``, or one step's folder.

    Raises:
      ValueError: the folder does not exist, holds no intact checkpoint, or holds one of another
        application.
    """
    trained = load_trained(checkpoint_dir)
    if trained.config.app != app:
        raise ValueError(
            f"--checkpoint {os.fspath(checkpoint_dir)} is of the application "
            f"{trained.config.app!r}; give one of {app!r}."
        )
    return trained


def finalize(config: ConfigDict | Mapping[str, Any]) -> RunConfig:
    """Check a config of any application and freeze it.

    Args:
      config: nested mapping with keys of the application's ``Config``; a key that it lacks has its
        default. Without the key ``app``, which older versions did not store, the application is
        "vision".

    Returns:
      The application's own ``Config``.

    Raises:
      ValueError: the application or a key is unknown, or a value has the wrong type or is out of
        range; the message gives the full key.

    Examples:
      >>> type(finalize({"app": "vision", "seed": 3})).__module__
      'mdeq_jax.vision.config'
    """
    return from_mapping(find(str(config.get("app", "vision"))).Config(), config)
