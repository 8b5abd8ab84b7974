"""Nested dataclasses as sections of a config: to a ConfigDict, and back with values checked."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict, config_dict


def to_config_dict(section: Any) -> ConfigDict:
    """Return a section as a ConfigDict in which what is None still has a type to be set to."""
    hints = typing.get_type_hints(type(section))
    result = ConfigDict()
    for name, hint in hints.items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif value is None:
            option = typing.get_args(hint)[0]
            value = config_dict.placeholder(typing.get_origin(option) or option)
        result[name] = value
    return result


def from_mapping(default: Any, values: Any, path: str) -> Any:
    """Return the dataclass `default` with some of its fields replaced.

    Args:
      default: a dataclass, whose fields may be dataclasses.
      values: nested mapping of what to replace.
      path: where it stands, for messages.

    Raises:
      ValueError: an unknown key, a value of the wrong type, or one out of range; by its full name.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} is {values!r}; it must be a section with keys of its own.")
    hints = typing.get_type_hints(type(default))
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(hints)}."
            raise ValueError(f"{path}.{key} is not a config key; {remedy}")
    changes = {
        key: from_mapping(getattr(default, key), value, f"{path}.{key}")
        if dataclasses.is_dataclass(hints[key])
        else _convert(value, hints[key], f"{path}.{key}")
        for key, value in values.items()
    }
    try:
        return dataclasses.replace(default, **changes)
    except ValueError as error:
        raise ValueError(error if path == "config" else f"{path}: {error}") from None


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Return the value as the type that the hint names."""
    if value == (None,):  # what --config.KEY=None makes of a list
        value = None
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        fits, converted = _fit(value, option)
        if fits:
            return converted
    names = " or ".join(_describe(option) for option in options)
    raise ValueError(f"{path} is {value!r} ({type(value).__name__}); it must be {names}.")


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether a value is of a type without alternatives, and the value as that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments, value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False, value
        entries = [_fit(entry, arguments[0]) for entry in value]
        return all(fits for fits, _ in entries), tuple(entry for _, entry in entries)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return type(value) is hint, value


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_describe(typing.get_args(hint)[0])}"
    return "None" if hint is type(None) else hint.__name__
