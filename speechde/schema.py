"""A plain mapping, checked against a dataclass: types, closed sets, intervals, paths.

The allowed values of a field stand in its metadata, put there by ``choice``, ``bounded`` and ``location``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from speechde.cache import expanded
from speechde.errors import ConfigError, unknown_value


def choice(default: str, *allowed: str):
    """A string field with a closed set of values."""
    return field(default=default, metadata={"allowed": allowed})


def location(default: str | None = None):
    """A file or folder; ``~`` at its start is the home directory."""
    return field(default=default, metadata={"path": True})


def bounded(default: float | None, interval: str):
    """A number inside an interval, such as ``[0, 1)``."""
    return field(default=default, metadata={"interval": interval})


def built(schema: type, values: Mapping[str, Any], path: str = "") -> Any:
    """An instance of the dataclass ``schema`` from a plain mapping; ``path`` is what its keys stand under.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or outside its allowed set; the message names them.
    """
    fields = {f.name: f for f in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    kwargs = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_value(f"config key {path or 'of the run'}".rstrip("."), key, fields)
        kwargs[key] = _convert(hints[key], value, f"{path}{key}", fields[key].metadata)
    return schema(**kwargs)


def _convert(hint: Any, value: Any, name: str, limits: Mapping[str, Any]):
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={value!r} is not a group of settings; set its keys: {name}.{_first(hint)}=…")
        return built(hint, value, f"{name}.")
    if (given := required(hint)) is not hint:
        return None if value is None else _convert(given, value, name, limits)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name}={value!r} is no group of named values; set one: {name}.NAME=…")
        inner = typing.get_args(hint)[1]
        return {str(key): _convert(inner, item, f"{name}.{key}", limits) for key, item in value.items()}
    if typing.get_origin(hint) is list:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{name}={value!r} is not a list; write {name}=[a,b]")
        return [_convert(typing.get_args(hint)[0], item, f"{name}[{i}]", limits) for i, item in enumerate(value)]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if limits.get("path") and isinstance(value, str):
        value = str(expanded(value)) if value.startswith("~") else value
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{name}={value!r} is a {type(value).__name__}; it must be a {hint.__name__}")
    if value not in (allowed := limits.get("allowed", [value])):
        raise unknown_value(name, value, allowed)
    if not _inside(value, interval := limits.get("interval", "")):
        raise ConfigError(f"{name}={value} is outside {interval}")
    return value


def required(hint: Any) -> Any:
    """``X`` of ``X | None``; any other hint as it is."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    return next(option for option in typing.get_args(hint) if option is not type(None))


def _inside(value: Any, interval: str) -> bool:
    """Whether a number lies in ``[0, 1)`` or the like; NaN lies in none."""
    if not interval:
        return True
    low, high = (float(end) for end in interval[1:-1].replace("∞", "inf").split(","))
    return (low < value or (interval[0] == "[" and value == low)) and (
        value < high or (interval[-1] == "]" and value == high)
    )


def _first(schema: type) -> str:
    return dataclasses.fields(schema)[0].name
