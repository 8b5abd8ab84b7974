"""A command in this process, as its console script starts it."""

import sys
from collections.abc import Callable
from unittest import mock

from absl import flags


def invoke(run: Callable[[], None], *arguments: object) -> int:
    """Run a command with the arguments of a command line; its exit code."""
    before = {*flags.FLAGS}
    with mock.patch.object(sys, "argv", ["command", *map(str, arguments)]):
        try:
            run()
        except SystemExit as ended:
            return ended.code or 0
        finally:
            # Another command of this process may define the same names.
            for name in {*flags.FLAGS} - before:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
    raise AssertionError("a command ends the process")
