"""Which results rest on a fault that has been repaired since.

Every run records the ``version`` of the code that its numbers depend on; those of before have none, which counts as 1.
A repair that changes the numbers of some runs raises ``VERSION`` and says in ``CHANGES`` of which: their results are
void, are marked so on every page, and do not answer for a run. All others go on to count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 2


@dataclass(frozen=True)
class Change:
    """A repair: the first ``version`` that has it, what was wrong, and whether a configuration was concerned."""

    version: int
    fault: str
    concerns: Callable[[Mapping[str, Any]], bool]


def _masked(config: Mapping[str, Any]) -> bool:
    return _value(config, "loss.mask_duplicates", True)


CHANGES = (
    Change(
        2,
        "translation pairs met their own text, and clips their translation, as negatives",
        lambda config: _masked(config) and _value(config, "data.translations.share", 0.0) > 0,
    ),
    Change(
        2,
        "recordings of one sentence in two languages were negatives of each other",
        lambda config: _masked(config) and not _value(config, "trainer.one_language", True),
    ),
)


def void(version: int, config: Mapping[str, Any]) -> str:
    """Why results of a version and configuration do not count; empty where they do."""
    return "; ".join(change.fault for change in CHANGES if version < change.version and change.concerns(config))


def void_metrics(metrics: Mapping[str, Any]) -> str:
    """``void`` of a ``metrics.json``."""
    return void(metrics.get("version", 1), metrics.get("config") or {})


def _value(config: Mapping[str, Any], name: str, default: Any) -> Any:
    """A setting by its dotted name; the default where the configuration is older than the setting."""
    for key in name.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return default
        config = config[key]
    return config
