"""Convert PyTorch checkpoints of the originals to our checkpoints.

    python -m mdeq_jax.commands.import_torch \\
        --config configs/digits.py --input digits_tiny.pkl --output runs/imported
    mdeq-import --config digits --input digits_tiny.pkl --output runs/imported

The application of the config says which files are read: "vision" reads files of locuslab/mdeq,
locuslab/deq and TorchDEQ. "reasoning" reads files of aks2203/deep-thinking, and
"flow" reads files of locuslab/deq-flow and TorchDEQ.

``--infer`` in place of ``--config`` derives the architecture from the file: of an MDEQ, or of
DEQ-Flow with ``--app flow``. A field that the file does not determine is printed with its assumed
value; ``--set num_groups=4`` gives another value. torch is not needed, and no code in the file is
executed. The last line on stdout is one JSON object.
"""

import ast
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from mdeq_jax import applications
from mdeq_jax.commands import cli
from mdeq_jax.training.checkpoints import write_checkpoint
from mdeq_jax.training.config import RunConfig, override
from mdeq_jax.training.sections import require_key
from mdeq_jax.training.weights import state_of
from mdeq_jax.training.workdir import new_folder


def main(
    config: RunConfig, path: str, output: str, *, allow_missing: Sequence[str], drop: Sequence[str]
) -> dict[str, Any]:
    """Write a checkpoint from a PyTorch file, and print where its arrays come from.

    Args:
      config: config whose section ``model`` is the architecture.
      path: the PyTorch file.
      output: folder to make.
      allow_missing: PyTorch names, ``*`` for any part, of arrays that get initial values if
        missing.
      drop: PyTorch names, ``*`` for any part, of arrays that are not read.
    """
    imported = applications.import_torch(config, path, allow_missing=allow_missing, drop=drop)
    # Past the warm-up, so that the model is solved and not unrolled in evaluation.
    step = config.train.pretrain_steps
    with new_folder(output) as folder:
        write_checkpoint(folder, state_of(imported.variables), dataclasses.asdict(config), step)
    print(*imported.report, sep="\n")
    return {"wrote": output}


def run() -> None:
    """Run the command under the flags of the process."""
    config = cli.ConfigFlag(applications.finalize, required=False)
    infer = flags.DEFINE_bool("infer", False, "Derive the model from the file.")
    app = flags.DEFINE_string("app", "vision", "Application whose model --infer derives.")
    path = flags.DEFINE_string("input", None, "The .pkl, .pth or .pth.tar file.", required=True)
    output = flags.DEFINE_string("output", None, "Folder to be made.", required=True)
    fields = flags.DEFINE_multi_string(
        "set", [], "KEY=VALUE, a field of config.model, such as num_groups=4; may be repeated."
    )
    allow_missing = flags.DEFINE_multi_string(
        "allow-missing",
        [],
        "PyTorch name, * for any part, left at its initial value if missing; may be repeated.",
    )
    drop = flags.DEFINE_multi_string(
        "drop", [], "PyTorch name, * for any part, not to be read; may be repeated."
    )

    def command() -> dict[str, Any]:
        if infer.value == config.is_given:
            raise ValueError("give --config=FILE or --infer, one of them.")
        known = applications.find(app.value).Config() if infer.value else config.value
        given = dict(_assignment(text, known) for text in fields.value)
        if infer.value:
            model = _inferred(app.value, path.value, given)
        else:
            model = override(config.value, {f"model.{key}": x for key, x in given.items()})
        lists = {"allow_missing": allow_missing.value, "drop": drop.value}
        return main(model, path.value, output.value, **lists)

    cli.run(__doc__, command)


def _assignment(text: str, config: RunConfig) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE; the value is a Python literal or an unquoted string.

    Args:
      text: KEY=VALUE; the key is a field of `config.model`.
      config: config of the application.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text} has no value; give KEY=VALUE, such as num_groups=4.")
    require_key(config, f"model.{key}")
    with contextlib.suppress(SyntaxError, ValueError):
        literal = ast.literal_eval(value)
        return key, tuple(literal) if isinstance(literal, list) else literal
    return key, value


def _inferred(app: str, path: str, given: Mapping[str, Any]) -> RunConfig:
    """Return the config inferred from a file, and print its model."""
    model, open_fields = applications.infer(app, path, given)
    for field, value in dataclasses.asdict(model).items():
        note = "  (assumed: --set gives another)" if field in set(open_fields) - set(given) else ""
        print(f"config.model.{field} = {value!r}{note}")
    return applications.find(app).Config(model=model)


if __name__ == "__main__":
    run()
