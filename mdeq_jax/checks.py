"""Checks of options, arguments and installed packages; each message says what is allowed."""

import contextlib
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Let an import fail with an ImportError that names an extra of the package.

    Args:
      extra: name of the extra that brings what is imported, such as "vision".

    Raises:
      ImportError: a package that the import needs is not installed.

    Examples:
      >>> with needs_extra("vision"):
      ...     import no_such_package
      Traceback (most recent call last):
      ImportError: no_such_package is not installed; `pip install "mdeq_jax[vision]"` brings it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "mdeq_jax":
            raise
        message = f'{error.name} is not installed; `pip install "mdeq_jax[{extra}]"` brings it.'
        raise ImportError(message, name=error.name) from error


def require(owner: Any, field: str, holds: bool, allowed: str) -> None:
    """Raise ValueError naming the class, the field, its value and what is allowed."""
    if not holds:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it must be {allowed}.")


def require_int(owner: Any, field: str, minimum: int) -> None:
    """Raise ValueError unless the field is a Python int of at least `minimum`."""
    value = getattr(owner, field)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    require(owner, field, is_int and value >= minimum, f"a whole number of at least {minimum}")


def require_number(owner: Any, field: str, holds: Callable[[Any], bool], allowed: str) -> None:
    """Raise ValueError unless the field is a real number for which `holds` returns True."""
    value = getattr(owner, field)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(owner, field, is_number and holds(value), f"a number {allowed}")


def require_share(owner: Any, field: str) -> None:
    """Raise ValueError unless the field is a number above 0 and at most 1."""
    require_number(owner, field, lambda x: 0 < x <= 1, "in (0, 1]")


def require_whole(argument: str, value: int, least: int, most: int | None = None) -> None:
    """Raise ValueError unless an argument is a whole number from `least` to `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{argument} is {value!r}; it must be a whole number {allowed}.")


def require_one_of(argument: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError unless an argument is one of the allowed values."""
    if value not in allowed:
        raise ValueError(
            f"{argument} is {value!r}; it must be one of {', '.join(map(repr, allowed))}."
        )


def require_names(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple.

    Args:
      argument: name of the argument, for messages.
      names: the names.

    Raises:
      ValueError: `names` is one string, which would count as a list of its letters, or an entry is
        not a string.

    Examples:
      >>> require_names("drop", ["classifier.*"])
      ('classifier.*',)
      >>> require_names("drop", "classifier.*")
      Traceback (most recent call last):
      ValueError: drop is 'classifier.*'; it must be a list of names: drop=['classifier.*'].
    """
    if isinstance(names, str):
        raise ValueError(
            f"{argument} is {names!r}; it must be a list of names: {argument}=[{names!r}]."
        )
    listed = tuple(names)
    if not all(isinstance(name, str) for name in listed):
        raise ValueError(f"{argument} is {listed!r}; every entry must be a name, a string.")
    return listed
