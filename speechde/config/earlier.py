"""Configurations of earlier versions, which results, model folders and runs half done have kept."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from speechde.config.tasks import CLIPS, SPEECH
from speechde.errors import ConfigError

# settings that stood elsewhere, and what is written now
MOVED = {
    "adapt.checkpoint": "init",
    "data.synthetic.share": f"tasks.{SPEECH}.shares.synthetic",
    "data.synthetic.apart": f"tasks.{SPEECH}.apart=[synthetic]",
    "data.translations.share": f"tasks.{SPEECH}.shares.translation",
    "trainer.one_language": f"tasks.{SPEECH}.one_language",
    "trainer.language_exponent": f"tasks.{SPEECH}.language_exponent",
}


def refuse_moved(values: Mapping[str, Any]) -> None:
    """Refuse settings of earlier versions.

    Raises:
        ConfigError: there is one; the message says where it stands now.
    """
    for name, now in MOVED.items():
        group: Any = values
        *groups, key = name.split(".")
        for each in groups:
            group = group.get(each) if isinstance(group, Mapping) else None
        if isinstance(group, Mapping) and key in group:
            raise ConfigError(f"{name} is now {now}")


def as_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration, of whatever version, as it is written now."""
    values = deepcopy(dict(values))
    if "checkpoint" in (adapt := values.get("adapt") or {}):
        values["init"] = adapt.pop("checkpoint")
        adapt["enabled"] = values["init"] is not None
    return values if "tasks" in values else _with_tasks(values)


def _with_tasks(values: dict[str, Any]) -> dict[str, Any]:
    """With the one task that there was before there were tasks."""
    data, trainer = values.get("data", {}), values.get("trainer", {})
    synthetic, translations = data.get("synthetic", {}), data.get("translations", {})
    task = {
        "examples": CLIPS,
        "shares": {"synthetic": synthetic.pop("share", 0.0), "translation": translations.pop("share", 0.0)},
        "apart": ["synthetic"] if synthetic.pop("apart", False) else [],
        **{key: trainer.pop(key) for key in ("one_language", "language_exponent") if key in trainer},
    }
    old = (values.get("adapt") or {}).get("old") or {}
    for name in ("synthetic", "translations"):
        for key in ("share", "apart"):
            old.get(name, {}).pop(key, None)
    return values | {"tasks": {SPEECH: task}}
