"""What a run trains on: tasks by name."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from speechde.errors import ConfigError
from speechde.schema import bounded, choice

CLIPS, TRANSLATIONS = "clips", "translations"  # what ``examples`` may be beside a file
SPEECH = "speech"  # the task of every recipe
TRANSLATION = "translation"
SOURCES = ("synthetic", TRANSLATION)  # what a task of clips may have a share of


@dataclass
class TaskConfig:
    """A stream of training examples; a batch holds those of one task. See ``speechde.training.mixture.Task``."""

    # clips: those of data with their transcripts; translations: texts and their English; ateb:NAME: a set of ATEB; or a
    # file
    examples: str = ""
    rate: float = bounded(1.0, "(0, ∞)")  # how often a batch is of this task, relative to the others
    batch_size: int | None = bounded(None, "[2, ∞)")  # None: trainer.batch_size
    shares: dict[str, float] = field(default_factory=dict, metadata={"interval": "[0, 1]"})  # of a batch, by source
    apart: list[str] = field(default_factory=list)  # sources with that share of the batches, instead of each batch
    one_language: bool = True  # a batch is of one language
    language_exponent: float = bounded(0.5, "[0, 1]")  # 0: languages drawn alike, 1: by their number of examples
    length_bins: int = bounded(1, "[1, ∞)")  # a batch is of one of so many parts of its language, by length of the text
    consecutive: int = bounded(1, "[1, ∞)")  # above 1, an example is two to so many clips, one after another as one
    query: str = ""  # prompt of what asks, "task: question answering | query: {item}"; none: that of model.prefix
    document: str = ""  # prompt of what answers, "title: {title} | text: {item}"
    prompt_dropout: float = bounded(0.0, "[0, 1)")  # share of the examples that are read without their prompts
    negatives: int = bounded(0, "[0, ∞)")  # hard negatives of an example that are read
    by_language: bool = False  # of a file: dev and test have a gallery for each language, and their mean counts
    gallery: str = choice("all", "all", "own")  # of a query of dev or test: all answers, or its own and its negatives

    def check(self, name: str) -> None:
        """Refuse what does not fit together.

        Raises:
            ConfigError: there are no examples, or a setting that they have no use for.
        """
        if not self.examples:
            ways = f"{CLIPS}, {TRANSLATIONS}, ateb:NAME or an examples file"
            raise ConfigError(f"tasks.{name} has no examples; set tasks.{name}.examples to {ways}, or drop the task")
        for source in self.apart:
            if source not in self.shares:
                raise ConfigError(f"tasks.{name}.apart names {source!r}, which has no share; set shares.{source}")
        self._check_sums(name)
        allowed = {CLIPS: SOURCES, TRANSLATIONS: ()}.get(self.examples)
        if allowed is not None and (unknown := [source for source in self.shares if source not in allowed]):
            raise ConfigError(
                f"tasks.{name}.shares names {unknown[0]!r}; {self.examples} have "
                + (f"shares of {' and '.join(allowed)}" if allowed else "one source alone, without a share")
            )
        if self.examples not in (CLIPS, TRANSLATIONS) and self.length_bins > 1:
            raise ConfigError(
                f"tasks.{name}.length_bins={self.length_bins}: a file of examples is read when it is drawn, and its "
                f"lengths are not known before; use 1, or examples={CLIPS} or {TRANSLATIONS}"
            )
        if self.examples == CLIPS and (self.query or self.document or self.prompt_dropout):
            raise ConfigError(f"tasks.{name} has a prompt; clips and transcripts have those of model.prefix: set these")
        if self.examples != CLIPS and self.consecutive > 1:
            raise ConfigError(
                f"tasks.{name}.consecutive={self.consecutive} is of clips; set examples={CLIPS}, or use 1"
            )
        if self.examples in (CLIPS, TRANSLATIONS) and self.by_language:
            raise ConfigError(f"tasks.{name}.by_language: {self.examples} are scored by language as it is; name a file")
        if self.by_language and self.gallery == "own":
            raise ConfigError(
                f"tasks.{name}.by_language: with gallery=own each query has a gallery of its own; drop one"
            )
        if self.examples in (CLIPS, TRANSLATIONS) and self.negatives:
            raise ConfigError(f"tasks.{name}.negatives={self.negatives}: {self.examples} have none; name a file")

    def check_sources(self, name: str, sources: Collection[str]) -> None:
        """Refuse a share of a source that the file of examples does not have.

        Raises:
            ConfigError: the first such.
        """
        if unknown := [source for source, share in self.shares.items() if share and source not in sources]:
            raise ConfigError(
                f"tasks.{name}.shares names {unknown[0]!r}, of which {self.examples} has no example; its sources are "
                f"{', '.join(map(repr, sorted(sources))) or 'none'}; drop it: tasks.{name}.shares.{unknown[0]}=0"
            )

    def _check_sums(self, name: str) -> None:
        """Refuse shares that add up to more than there is: of a batch, or of the batches where sources are apart."""
        for apart, whole in ((False, "a batch"), (True, "the batches")):
            shares = {source: share for source, share in self.shares.items() if (source in self.apart) == apart}
            if (total := math.fsum(shares.values())) > 1 + 1e-9:
                listed = ", ".join(f"{source}={share:g}" for source, share in shares.items())
                raise ConfigError(
                    f"tasks.{name}.shares of {whole} are {listed}, {total:g} together; lower them to 1 at most"
                )


def speech_task() -> dict[str, TaskConfig | None]:
    """The one task that a run has where nothing else is said."""
    return {SPEECH: TaskConfig(examples=CLIPS, shares=dict.fromkeys(SOURCES, 0.0))}
