"""The keys of command-line overrides, checked against the typed configuration (``speechde.config``)."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from speechde.config import RunConfig, required
from speechde.errors import ConfigError, unknown_value

GROUPS = ("recipe", "size", "debug", "sweep")  # config groups that are no key of the configuration


def check_overrides(arguments: list[str]) -> None:
    """Check the keys of command-line overrides (``model.num_layers=4``) before Hydra sees them.

    Hydra refuses an unknown key too, but does not say which ones exist. Values, and the names of config groups
    (``model=…``), are for Hydra and ``build``.

    Raises:
        ConfigError: a key that the schema does not have.
    """
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        parts = key.split(".")
        if not equals or not all(part.isidentifier() for part in parts) or key in GROUPS or parts[0] == "hydra":
            continue
        schema: Any = RunConfig
        for depth, part in enumerate(parts):
            if not dataclasses.is_dataclass(schema):
                raise ConfigError(f"{'.'.join(parts[:depth])} is a single value and has no key {part!r}")
            names = [f.name for f in dataclasses.fields(schema)]
            if part not in names:
                where = ".".join(parts[:depth])
                raise unknown_value(f"config key {where or 'of the run'}", part, names if where else [*names, *GROUPS])
            schema = required(typing.get_type_hints(schema)[part])
