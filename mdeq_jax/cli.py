"""What the commands share: --config and one-line errors for what a user can mend."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from mdeq_jax.compilation import convolve_on_all_cores, keep_compiled_programs
from mdeq_jax.config import Config, config_file, finalize
from mdeq_jax.hosts import connect, is_main
from mdeq_jax.training.metrics import to_json

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, as configs/digits.py, or one that comes with mdeq_jax: digits."
)


def run(command: Callable[[Config], Mapping[str, Any]], *, on_hosts: bool = False) -> None:
    """Run a command under the flags of the process, and print its result as one line of JSON.

    Exits with code 2 and one message where the flags, the config, or what they name is wrong, which
    `command` says by a ValueError; with 143 where the result is ``interrupted``, by SIGTERM.

    Args:
      command: from config to result.
      on_hosts: whether it can run in several processes as one, of which process 0 prints.
    """
    address = _define_address() if on_hosts else []

    def main(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax narrates every save
        convolve_on_all_cores()
        keep_compiled_programs()
        try:
            if on_hosts:
                connect(*(flag.value for flag in address))
            if not is_main():  # what is wrong with a checkpoint, one process can say
                logging.set_verbosity(logging.ERROR)
            result = command(finalize(_CONFIG.value.to_dict()))
        except (ValueError, OSError) as error:
            fail(error, code=2)
        if is_main():
            print(to_json(result))
        if result.get("interrupted"):
            sys.exit(128 + signal.SIGTERM)  # what schedulers take for a job that they ended

    flags.mark_flag_as_required("config")
    _show_in_help(command.__module__)
    app.run(main, flags_parser=_parse)


def recipe() -> Config:
    """Return what the config file says, without the command line's overrides."""
    flag = flags.FLAGS[_CONFIG.name]
    config: Any = flag.parser.parse(config_flags.get_config_filename(flag))
    return finalize(config)


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


def fail(message: object, code: int) -> NoReturn:
    """End the process with a message on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        unused = flags.FLAGS(_with_config_file(argv))[1:]
    except AttributeError as error:  # how ml_collections reports an override of an unknown key
        fail(f"there is no such config key: {error}", code=2)
    except (flags.Error, ValueError, OSError) as error:
        fail(error, code=2)
    if unused:
        fail(f"unexpected arguments {unused}; overrides are --config.KEY=VALUE", code=2)
    return [argv[0]]


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """Return the arguments with the path of a config file in place of its name."""
    result = list(argv)
    for i, argument in enumerate(argv):
        if argument == "--config" and i + 1 < len(argv):
            result[i + 1] = str(config_file(argv[i + 1]))
        elif argument.startswith("--config="):
            result[i] = f"--config={config_file(argument.removeprefix('--config='))}"
    return result
