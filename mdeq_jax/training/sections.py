"""Nested dataclasses as sections of a config: to a ConfigDict, and back with values checked.

A key is dotted, as ``solver.forward.max_steps``; in messages and on the command line it follows
``config.``.
"""

import copy
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from ml_collections import ConfigDict, config_dict

Section = TypeVar("Section")

_NAMES = {types.NoneType: "None", bool: "True or False"}


def to_config_dict(section: Any) -> ConfigDict:
    """Return a section as a ConfigDict, in which a value of None is a typed placeholder."""
    hints = typing.get_type_hints(type(section))
    result = ConfigDict()
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif value is None:
            option = _options(hints[field.name])[0]
            value = config_dict.placeholder(str if _words(option) else _class_of(option))
        result[field.name] = value
    return result


def from_mapping(default: Section, values: ConfigDict | Mapping[str, Any]) -> Section:
    """Return the dataclass `default` with some of its fields replaced.

    Args:
      default: a dataclass, whose fields may be dataclasses.
      values: nested mapping from keys to new values; a field without a new value keeps its own.

    Raises:
      ValueError: a key is unknown, or its value has the wrong type or is out of range; the message
        gives the full key.
    """
    nested = values.to_dict() if isinstance(values, ConfigDict) else values
    if isinstance(nested, Mapping):
        for key in _keys_of(nested):
            require_key(default, key)
    return _replace(default, nested, "config")


def with_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested mapping with other values under some keys.

    Examples:
      >>> with_values({"train": {"epochs": 3}}, {"train.steps": 9, "seed": 1})
      {'train': {'epochs': 3, 'steps': 9}, 'seed': 1}
    """
    result = copy.deepcopy(dict(values))
    for key, value in changes.items():
        *sections, name = key.split(".")
        owner = result
        for section in sections:
            owner = owner.setdefault(section, {})
        owner[name] = value
    return result


def keys(section: Any) -> Iterator[str]:
    """Yield the dotted keys of a section; the keys of a nested section follow its own key."""
    for field in dataclasses.fields(section):
        yield field.name
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from (f"{field.name}.{key}" for key in keys(value))


def require_key(root: Any, key: str) -> None:
    """Raise ValueError, with the nearest key, unless a section has a key.

    Args:
      root: the section, whose fields may be sections.
      key: dotted key of a value or of a section.
    """
    known = list(keys(root))
    if key in known:
        return
    parent, _, name = key.rpartition(".")
    if parent:
        require_key(root, parent)
    siblings = [sibling for sibling in known if sibling.rpartition(".")[0] == parent]
    if not siblings:
        raise ValueError(f"config.{key} is not a config key: config.{parent} is a value.")
    for candidates in (siblings, known):
        names = [candidate.rpartition(".")[2] for candidate in candidates]
        if close := difflib.get_close_matches(name, names, n=1):
            near = " or ".join(f"config.{c}" for c in candidates if c.split(".")[-1] == close[0])
            raise ValueError(f"config.{key} is not a config key. Did you mean {near}?")
    there = ", ".join(sibling.rpartition(".")[2] for sibling in siblings)
    raise ValueError(f"config.{key} is not a config key; there are {there}.")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean X?" with the nearest known word, or "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _keys_of(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{key}" for key in _keys_of(value))


def _replace(default: Any, values: Any, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} is {values!r}; it must be a section with keys of its own.")
    hints = typing.get_type_hints(type(default))
    changes = {
        key: _replace(getattr(default, key), value, f"{path}.{key}")
        if dataclasses.is_dataclass(hints[key])
        else _convert(value, hints[key], f"{path}.{key}")
        for key, value in values.items()
    }
    try:
        return dataclasses.replace(default, **changes)
    except ValueError as error:
        # The check of a section names the section's class, or gives full keys.
        said = re.sub(r"^[A-Z]\w*\.(?=\w+ is )", f"{path}.", str(error))
        within = path == "config" or said.startswith(f"{path}.")
        raise ValueError(said if within else f"{path}: {said}") from None


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Return the value as the type that the hint names."""
    options = _options(hint)
    for option in options:
        fits, converted = _fit(value, option)
        if fits:
            return converted
    names = " or ".join(_describe(option) for option in options)
    known = [word for option in options for word in _words(option)]
    near = suggestion(value, known) if isinstance(value, str) else ""
    raise ValueError(f"{path} is {value!r} ({type(value).__name__}); it must be {names}.{near}")


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the types that a value may have."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _class_of(hint: Any) -> type:
    return typing.get_origin(hint) or hint


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Return whether a value has a type, which is no union, and the value as that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments, value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False, value
        hints = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        entries = [_fit(entry, hint) for entry, hint in zip(value, hints, strict=False)]
        fits = len(value) == len(hints) and all(fits for fits, _ in entries)
        return fits, tuple(entry for _, entry in entries)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return type(value) is hint, value


def _words(hint: Any) -> tuple[str, ...]:
    """Return the words that a Literal type allows; () for any other type."""
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _describe(hint: Any) -> str:
    if words := _words(hint):
        return " or ".join(map(repr, words))
    if typing.get_origin(hint) is tuple:
        first, *rest = typing.get_args(hint)
        if rest == [...]:
            return f"a list of {_describe(first)}"
        return f"({', '.join(map(_describe, typing.get_args(hint)))})"
    return _NAMES.get(hint) or hint.__name__
