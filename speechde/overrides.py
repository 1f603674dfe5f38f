"""Command-line overrides, made ready for Hydra: keys and group options are checked, paths are quoted.

Hydra refuses an unknown key or option too, but not in one line with those that exist; and it reads a value by a grammar
in which most of what a path may hold (``é``, ``=``, ``,``, brackets, ``~``) is an error or means something else.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechde.config import RunConfig
from speechde.config.earlier import MOVED
from speechde.errors import ConfigError, unknown_value
from speechde.schema import required

GROUPS = ("recipe", "arm", "size", "debug", "sweep")  # config groups that are no key of the configuration
_MULTIRUN = ("-m", "--multirun")
_OTHER_FOLDERS = ("--config-dir", "-cd", "--config-path", "-cp", "hydra.searchpath")  # options that conf/ does not have
# a value that Hydra reads as the string that it is
_PLAIN = re.compile(r"[A-Za-z_/.$%*@?|-][\w/.$%*@?|+ :-]*", re.ASCII)
_OTHER_TYPE = re.compile(r"true|false|[+-]?(inf|nan|[\d_.]+(e[+-]?\d+)?)", re.IGNORECASE)
_FUNCTION = re.compile(r"(choice|range|interval|glob|tag|sort|shuffle|extend_list|str|int|float|bool|json_str)\(.*\)")


def prepare(
    arguments: Sequence[str],
    conf: Path,
    groups: Sequence[str] | None = None,
    strings: Sequence[str] = (),
) -> list[str]:
    """The arguments of a script, checked, with what is a string by the schema quoted where Hydra would not read it so.

    A value that is quoted already, or has a backslash, is Hydra's to read. With ``-m`` a comma separates values.

    Args:
        arguments: without the name of the script.
        conf: the folder of the config groups.
        groups: those that the script composes; None for all of ``conf``.
        strings: top-level keys that the script has beside the schema, all of them strings.

    Raises:
        ConfigError: a key that the schema does not have, or a group or option that ``conf`` does not have.
    """
    several = any(argument in _MULTIRUN for argument in arguments)
    elsewhere = any(argument.startswith(_OTHER_FOLDERS) for argument in arguments)
    options = _options(conf)
    out = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        name, plus = key.lstrip("+"), key[: len(key) - len(key.lstrip("+"))]
        group = name.partition("@")[0]
        if equals and group in options and not value.startswith("{") and not elsewhere:
            _check_group(group, plus, value, options, groups, several)
        elif equals and (name in strings or _checked(name, plus) is str):
            argument = f"{key}={_quoted(value, several)}"
        out.append(argument)
    return out


def _options(conf: Path) -> dict[str, list[str]]:
    """The options of each config group, but for Hydra's own."""
    found: dict[str, list[str]] = {}
    for path in sorted(conf.glob("*/**/*.yaml")):
        group, *option = path.relative_to(conf).with_suffix("").parts
        if group != "hydra":
            found.setdefault(group, []).append("/".join(option))
    return found


def _check_group(
    group: str,
    plus: str,
    value: str,
    options: dict[str, list[str]],
    groups: Sequence[str] | None,
    several: bool,
) -> None:
    if groups is not None and group not in groups:
        raise unknown_value("config group", group, groups, "The others come with the model that is evaluated.")
    if _FUNCTION.fullmatch(value) or value == "null":
        return
    named = [part.strip(" '\"") for part in value.strip("[]").split(",")]
    for name in named:
        if name not in options[group]:
            raise unknown_value(group, name, options[group])
    if len(named) > 1 and not several and not value.startswith("["):
        raise ConfigError(f"{group}={value} names several; add -m to run one after the other")
    if (group == "sweep") != bool(plus):
        right = f"-m +sweep={value}" if group == "sweep" else f"{group}={value}"
        raise ConfigError(f"{plus}{group}={value}: write {right}")


def _checked(name: str, plus: str) -> Any:
    """The type of a key of the schema, without ``None``; None for what only Hydra knows.

    Raises:
        ConfigError: the schema has no such key, or has it by another name now.
    """
    parts = name.split(".")
    if plus or not all(part.isidentifier() for part in parts) or name in GROUPS or parts[0] == "hydra":
        return None
    schema: Any = RunConfig
    if name in MOVED:
        raise ConfigError(f"{name} is now {MOVED[name]}")
    for depth, part in enumerate(parts):
        if typing.get_origin(schema) is dict:  # of names of the user's own
            schema = required(typing.get_args(schema)[1])
            continue
        if not dataclasses.is_dataclass(schema):
            raise ConfigError(f"{'.'.join(parts[:depth])} is a single value and has no key {part!r}")
        names = [f.name for f in dataclasses.fields(schema)]
        if part not in names:
            where = ".".join(parts[:depth])
            raise unknown_value(f"config key {where or 'of the run'}", part, names if where else [*names, *GROUPS])
        schema = required(typing.get_type_hints(schema)[part])
    return schema


def _quoted(value: str, several: bool) -> str:
    """A string as Hydra reads it back."""
    if _FUNCTION.fullmatch(value) or "\\" in value or "${" in value:
        return value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value
    if several and "," in value and not set(value) & set("'\"[]{}"):
        return ",".join(_quoted(part, False) for part in value.split(","))
    if value in ("", "null") or (_PLAIN.fullmatch(value) and not _OTHER_TYPE.fullmatch(value) and ": " not in value):
        return value
    return "'" + value.replace("'", "\\'") + "'"
