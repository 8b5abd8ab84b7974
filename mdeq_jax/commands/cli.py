"""What the commands share: --config, its overrides, and one-line errors for what users can mend."""

import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from mdeq_jax.runtime.compilation import convolve_on_all_cores, keep_compiled_programs
from mdeq_jax.runtime.hosts import connect, is_main
from mdeq_jax.training.advice import MEMORY_REMEDIES, out_of_memory
from mdeq_jax.training.metrics import to_json
from mdeq_jax.training.sections import keys, read_value, suggestion, with_values
from mdeq_jax.vision.config import Config, finalize, load_config

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Config file, as configs/digits.py, or the name of one that comes with mdeq_jax: digits. "
    "--config.KEY=VALUE sets a key.",
    required=True,
)


def run(
    command: Callable[[Config], Mapping[str, Any]],
    *,
    on_hosts: bool = False,
) -> None:
    """Run a command under the flags of the process, and print its result as one line of JSON.

    Exits with code 2 and one message where the flags, the config, or what they name is wrong, which
    `command` says by a ValueError; with 1 where a device is out of memory; with 143 where the
    result is ``interrupted``, by SIGTERM.

    Args:
      command: from config to result.
      on_hosts: whether it can run in several processes as one, of which process 0 prints.
    """
    address = _define_address() if on_hosts else []
    argv, overrides = _split(sys.argv)

    def main(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax narrates every save
        convolve_on_all_cores()
        keep_compiled_programs()
        try:
            config = _overridden(overrides)
            if on_hosts:
                connect(*(flag.value for flag in address))
            if not is_main():  # what is wrong with a checkpoint, one process can say
                logging.set_verbosity(logging.ERROR)
            result = _carry_out(command, config)
        except (ValueError, OSError) as error:
            fail(error, code=2)
        if is_main():
            print(to_json(result))
        if result.get("interrupted"):
            sys.exit(128 + signal.SIGTERM)  # what schedulers take for a job that they ended

    _show_in_help(command.__module__)
    app.run(main, argv=argv, flags_parser=_parse)


def recipe() -> Config:
    """Return what the config file says, without the command line's overrides."""
    return finalize(load_config(_CONFIG.value))


def fail(message: object, code: int) -> NoReturn:
    """End the process with a message on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _carry_out(
    command: Callable[[Config], Mapping[str, Any]],
    config: Config,
) -> Mapping[str, Any]:
    """Return the result of a command, or end the process where a device is out of memory."""
    try:
        return command(config)
    except jax.errors.JaxRuntimeError as error:
        asked = out_of_memory(error)
        if asked is None:
            raise
        fail(f"a device is out of memory: {asked}\n{MEMORY_REMEDIES}", code=1)


def _define_address() -> list[flags.FlagHolder]:
    """Define the flags of `connect`, which are for processes that nothing else brings together."""
    return [
        flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several."),
        flags.DEFINE_integer("process_count", None, "Number of processes.", lower_bound=1),
        flags.DEFINE_integer("process_id", None, "Number of this process.", lower_bound=0),
    ]


def _show_in_help(module: str) -> None:
    """Let --help show a command's docstring and flags, whichever file it is started from."""
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    for owner in (module, __name__):
        for flag in flags.FLAGS.get_key_flags_for_module(owner):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments without the overrides of the config, and these, text by key.

    Those in the files that --flagfile names are among them.
    """
    try:
        arguments = iter(flags.FLAGS.read_flags_from_files(argv, force_gnu=False))
    except flags.Error as error:
        fail(error, code=2)
    others, overrides = [], {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not re.match(r"--?config\.", name):
            others.append(argument)
            continue
        text = text if equals else next(arguments, "--")
        if not equals and text.startswith("--"):
            fail(f"{name} has no value; write {name}=VALUE.", code=2)
        overrides[name.partition(".")[2]] = text
    return others, overrides


def _overridden(overrides: Mapping[str, str]) -> Config:
    """Return the config of the file with the command line's overrides."""
    changes = {key: read_value(Config(), key, text) for key, text in overrides.items()}
    return finalize(with_values(load_config(_CONFIG.value).to_dict(), changes))


def _parse(argv: Sequence[str]) -> list[str]:
    if {"-h", "--help"} & {*argv}:
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)  # of absl's own flag it is 1
    try:
        unused = flags.FLAGS(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = (*flags.FLAGS, *(f"config.{key}" for key in keys(Config())))
        near = suggestion(f"--{error.flagname}", (f"--{name}" for name in known))
        fail(f"there is no flag --{error.flagname}; --help lists them.{near}", code=2)
    except (flags.Error, ValueError, OSError) as error:
        missing = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
        fail(f"{' and '.join(missing)} not given; see --help." if missing else error, code=2)
    if unused:
        fail(f"unexpected arguments {unused}; overrides are --config.KEY=VALUE.", code=2)
    return [argv[0]]
