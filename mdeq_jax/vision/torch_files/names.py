"""Lists of names and of patterns of names, as arguments."""

from collections.abc import Iterable


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
