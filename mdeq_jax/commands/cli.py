"""What the commands share: --config and its overrides, and errors in one line."""

import ast
import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from mdeq_jax.runtime.compilation import convolve_on_all_cores, keep_compiled_programs
from mdeq_jax.runtime.hosts import connect, is_main
from mdeq_jax.training.advice import MEMORY_REMEDIES, out_of_memory
from mdeq_jax.training.config import AnyConfig
from mdeq_jax.training.config_files import load_config
from mdeq_jax.training.metrics import to_json
from mdeq_jax.training.sections import suggestion

CHECKPOINT = "A workdir (its newest checkpoint), its best/, or one step's folder."


class ConfigFlag(Generic[AnyConfig]):
    """The flag --config and its overrides, --config.KEY=VALUE. The file is executed once."""

    def __init__(self, finalize: Callable[[ConfigDict], AnyConfig], *, required: bool = True):
        """Define the flag.

        Args:
          finalize: returns the checked config for the ConfigDict of the file; raises ValueError.
          required: whether the command ends with an error if --config is not given.
        """
        self._finalize = finalize
        self._in_file: ConfigDict | None = None
        for kind, read in _READERS.items():
            config_flags.register_flag_parser_for_type(kind, _Reader(read))
        try:
            self._flag = config_flags.DEFINE_config_file(
                "config",
                help_string="Config file, as configs/digits.py, or the name of one that comes with "
                "mdeq_jax, as digits. --config.KEY=VALUE after it sets a key.",
                # `finalize` reports an unknown key, because it can suggest the nearest key.
                lock_config=False,
                accept_new_attributes=True,
            )
        except flags.Error as error:  # such as a --flagfile that cannot be read
            fail(error, code=2)
        flags.FLAGS["config"].parser = _Reader(self._load)
        if required:
            flags.mark_flag_as_required("config")

    @property
    def is_given(self) -> bool:
        """Whether the command line has --config."""
        return self._in_file is not None

    @functools.cached_property
    def value(self) -> AnyConfig:
        """The config of the file with the command line's overrides; raises ValueError."""
        return self._finalize(self._flag.value)

    @property
    def in_file(self) -> AnyConfig:
        """The config of the file without the command line's overrides; raises ValueError."""
        return self._finalize(self._in_file or ConfigDict())

    def _load(self, name: str) -> ConfigDict:
        config = load_config(name)
        self._in_file = config.copy_and_resolve_references()  # overrides change `config`
        return config


class _Reader(flags.ArgumentParser):
    """Reads the value of a flag, which may be None."""

    def __init__(self, read: Callable[[Any], Any]):
        self._read = read

    def parse(self, argument: Any) -> Any:
        return None if argument == "None" else self._read(argument)


def _read_tuple(argument: Any) -> tuple[Any, ...]:
    with contextlib.suppress(SyntaxError, TypeError, ValueError):
        value = ast.literal_eval(argument) if isinstance(argument, str) else argument
        if isinstance(value, tuple | list):
            return tuple(value)
    raise ValueError("it must be a list, such as '(8, 16)'")


_READERS: dict[type, Callable[[Any], Any]] = {
    int: flags.IntegerParser().parse,
    float: flags.FloatParser().parse,
    str: flags.ArgumentParser().parse,
    tuple: _read_tuple,
}


def run(
    doc: str | None,
    command: Callable[..., Mapping[str, Any]],
    *,
    arguments: Sequence[str] = (),
    on_hosts: bool = False,
) -> None:
    """Run a command under the flags of the process, and print its result as one line of JSON.

    The exit code is 2, with one message, if the flags, the config or the files they name are wrong:
    `command` raises ValueError. It is 1 if a device is out of memory, and 143 if SIGTERM made the
    result ``interrupted``.

    Args:
      doc: text that --help shows above the flags.
      command: takes the arguments that are not flags, and returns the result.
      arguments: names of the arguments that are not flags, for messages.
      on_hosts: whether the command can run in several processes together; process 0 prints.
    """
    address = _define_address() if on_hosts else []

    def main(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax narrates every save
        convolve_on_all_cores()
        keep_compiled_programs()
        try:
            if len(argv) != 1 + len(arguments):
                expected = " ".join(arguments) or "none"
                raise ValueError(f"arguments beside flags are {argv[1:]}; expected: {expected}.")
            if on_hosts:
                connect(*(flag.value for flag in address))
            if not is_main():  # one process reports the error for all
                logging.set_verbosity(logging.ERROR)
            result = _carry_out(functools.partial(command, *argv[1:]))
        except (ValueError, OSError) as error:
            fail(error, code=2)
        if is_main():
            print(to_json(result))
        if result.get("interrupted"):
            sys.exit(128 + signal.SIGTERM)  # schedulers expect it of a job that they ended

    app.run(main, flags_parser=functools.partial(_parse, doc))


def fail(message: object, code: int) -> NoReturn:
    """End the process with a message on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _carry_out(command: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the result of a command, or end the process if a device is out of memory."""
    try:
        return command()
    except jax.errors.JaxRuntimeError as error:
        asked = out_of_memory(error)
        if asked is None:
            raise
        fail(f"a device is out of memory: {asked}\n{MEMORY_REMEDIES}", code=1)


def _define_address() -> list[flags.FlagHolder]:
    """Define the flags of `connect`, for processes that JAX cannot bring together by itself."""
    return [
        flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several."),
        flags.DEFINE_integer("process_count", None, "Number of processes.", lower_bound=1),
        flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0),
    ]


def _parse(doc: str | None, argv: Sequence[str]) -> list[str]:
    """Return the arguments that are not flags, after the name of the program."""
    if {"-h", "--help"} & {*argv}:
        ours = [
            module
            for module in flags.FLAGS.flags_by_module_dict()
            if module.startswith("mdeq_jax.") or module == argv[0]
        ]
        print(doc, *map(flags.FLAGS.module_help, ours), sep="\n")
        sys.exit(0)
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        near = suggestion(f"--{error.flagname}", (f"--{name}" for name in flags.FLAGS))
        fail(f"there is no flag --{error.flagname}; --help lists them.{near}", code=2)
    except (flags.Error, OSError, ValueError) as error:
        fail(" ".join(str(error).split()), code=2)
    except KeyError as error:
        said = " ".join(str(error.args[0]).split())
        fail(f"an override names a section that the config does not have: {said}", code=2)
