"""What the commands share: --config and one-line errors for what a user can mend."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from mdeq_jax.compilation import convolve_on_all_cores, keep_compiled_programs
from mdeq_jax.config import Config, finalize
from mdeq_jax.training.metrics import to_json

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, as configs/digits.py.")


def run(command: Callable[[Config], Mapping[str, Any]]) -> None:
    """Run a command under the flags of the process, and print its result as one line of JSON.

    Exits with code 2 and one message where the flags, the config, or what they name is wrong, which
    `command` says by a ValueError.
    """

    def main(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax narrates every save
        convolve_on_all_cores()
        keep_compiled_programs()
        try:
            result = command(finalize(_CONFIG.value.to_dict()))
        except (ValueError, OSError) as error:
            fail(error, code=2)
        print(to_json(result))

    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=_parse)


def fail(message: object, code: int) -> NoReturn:
    """End the process with a message on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        unused = flags.FLAGS(argv)[1:]
    except AttributeError as error:  # how ml_collections reports an override of an unknown key
        fail(f"there is no such config key: {error}", code=2)
    except (flags.Error, OSError) as error:
        fail(error, code=2)
    if unused:
        fail(f"unexpected arguments {unused}; overrides are --config.KEY=VALUE", code=2)
    return [argv[0]]
