"""What a run trains on: tasks by name, and where their settings stood before there were tasks."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from speechde.errors import ConfigError
from speechde.schema import bounded

CLIPS, TRANSLATIONS = "clips", "translations"  # what ``examples`` may be beside a file
SPEECH = "speech"  # the task of every recipe
SOURCES = ("synthetic", "translation")  # what a task of clips may have a share of

# settings of before, and where they stand now
MOVED = {
    "data.synthetic.share": f"tasks.{SPEECH}.shares.synthetic",
    "data.synthetic.apart": f"tasks.{SPEECH}.apart=[synthetic]",
    "data.translations.share": f"tasks.{SPEECH}.shares.translation",
    "trainer.one_language": f"tasks.{SPEECH}.one_language",
    "trainer.language_exponent": f"tasks.{SPEECH}.language_exponent",
}


@dataclass
class TaskConfig:
    """A stream of training examples; a batch holds those of one task. See ``speechde.training.mixture.Task``."""

    examples: str = ""  # clips: those of data with their transcripts; translations: texts and their English; or a file
    rate: float = bounded(1.0, "(0, ∞)")  # how often a batch is of this task, relative to the others
    batch_size: int | None = bounded(None, "[2, ∞)")  # None: trainer.batch_size
    shares: dict[str, float] = field(default_factory=dict, metadata={"interval": "[0, 1]"})  # of a batch, by source
    apart: list[str] = field(default_factory=list)  # sources with that share of the batches, instead of each batch
    one_language: bool = True  # a batch is of one language
    language_exponent: float = bounded(0.5, "[0, 1]")  # 0: languages drawn alike, 1: by their number of examples
    query: str = ""  # prompt of what asks, "task: question answering | query: {item}"; none: that of model.prefix
    document: str = ""  # prompt of what answers, "title: {title} | text: {item}"
    prompt_dropout: float = bounded(0.0, "[0, 1)")  # share of the examples that are read without their prompts
    negatives: int = bounded(0, "[0, ∞)")  # hard negatives of an example that are read

    def check(self, name: str) -> None:
        """Refuse what does not fit together.

        Raises:
            ConfigError: there are no examples, or a setting that they have no use for.
        """
        if not self.examples:
            ways = f"{CLIPS}, {TRANSLATIONS} or an examples file"
            raise ConfigError(f"tasks.{name} has no examples; set tasks.{name}.examples to {ways}, or drop the task")
        for source in self.apart:
            if source not in self.shares:
                raise ConfigError(f"tasks.{name}.apart names {source!r}, which has no share; set shares.{source}")
        allowed = {CLIPS: SOURCES, TRANSLATIONS: ()}.get(self.examples)
        if allowed is not None and (unknown := [source for source in self.shares if source not in allowed]):
            raise ConfigError(
                f"tasks.{name}.shares names {unknown[0]!r}; {self.examples} have "
                + (f"shares of {' and '.join(allowed)}" if allowed else "one source alone, without a share")
            )
        if self.examples == CLIPS and (self.query or self.document or self.prompt_dropout):
            raise ConfigError(f"tasks.{name} has a prompt; clips and transcripts have those of model.prefix: set these")
        if self.examples in (CLIPS, TRANSLATIONS) and self.negatives:
            raise ConfigError(f"tasks.{name}.negatives={self.negatives}: {self.examples} have none; name a file")


def speech_task() -> dict[str, TaskConfig | None]:
    """The one task that a run has where nothing else is said."""
    return {SPEECH: TaskConfig(examples=CLIPS, shares=dict.fromkeys(SOURCES, 0.0))}


def moved(values: Mapping[str, Any]) -> None:
    """Refuse settings of before.

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


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that a run stored before there were tasks, as it is written now."""
    if "tasks" in values:
        return dict(values)
    values = deepcopy(dict(values))
    data, trainer = values.get("data", {}), values.get("trainer", {})
    synthetic, translations = data.get("synthetic", {}), data.get("translations", {})
    task = {
        "examples": CLIPS,
        "shares": {"synthetic": synthetic.pop("share", 0.0), "translation": translations.pop("share", 0.0)},
        "apart": ["synthetic"] if synthetic.pop("apart", False) else [],
        **{key: trainer.pop(key) for key in ("one_language", "language_exponent") if key in trainer},
    }
    old = values.get("adapt", {}).get("old") or {}
    for name in ("synthetic", "translations"):
        for key in ("share", "apart"):
            old.get(name, {}).pop(key, None)
    return values | {"tasks": {SPEECH: task}}
