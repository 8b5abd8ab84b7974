"""Checks of options and arguments, each a ValueError that says what is allowed."""

import numbers
from collections.abc import Callable, Iterable
from typing import Any


def require(owner: Any, field: str, holds: bool, allowed: str) -> None:
    """Raise ValueError naming the class, the field, its value and what is allowed."""
    if not holds:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it must be {allowed}.")


def require_int(owner: Any, field: str, minimum: int) -> None:
    """`require` a Python int of at least `minimum`."""
    value = getattr(owner, field)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    require(owner, field, is_int and value >= minimum, f"a whole number of at least {minimum}")


def require_number(owner: Any, field: str, holds: Callable[[Any], bool], allowed: str) -> None:
    """`require` a real number, of which `holds` is true."""
    value = getattr(owner, field)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(owner, field, is_number and holds(value), f"a number {allowed}")


def require_share(owner: Any, field: str) -> None:
    """`require` a number above 0 and at most 1."""
    require_number(owner, field, lambda x: 0 < x <= 1, "in (0, 1]")


def require_names(argument: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return names as a tuple.

    Args:
      argument: name of the argument, for messages.
      names: the names.

    Raises:
      ValueError: `names` is one string, which would count as a list of its letters, or has an entry
        that is no string.

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
