"""The group ``eval``: what a trained model is evaluated on, and beside what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from speechde.conditions import CLEAN, Condition, parse
from speechde.errors import unknown_value
from speechde.schema import bounded, choice

BASELINES = ("chance", "untrained", "oracle", "cascade_chars", "cascade_text", "cascade_e5", "mean_pooled", "dtw")
BASELINE_KINDS = ("cascade", "rival", "run")  # with the name of a model, or a run directory, behind a colon


@dataclass
class EvalConfig:
    """The final evaluation."""

    split: str = choice("test", "dev", "test")
    languages: str = choice("all", "all", "seen")  # seen: those trained on alone, as decisions may look at
    # sentences of each language, drawn with data.split_seed, and all recordings of these; None: all sentences
    per_language: int | None = bounded(None, "[1, ∞)")
    baselines: list[str] = field(default_factory=list)  # of BASELINES, or KIND:MODEL; docs/protocol.md
    # conditions.py; clean is always among them, and what the others are compared with
    conditions: list[str] = field(default_factory=lambda: [CLEAN.name])
    asr: str = "packaged:whisper-base"  # the Whisper model that transcribes for the cascades

    def __post_init__(self) -> None:  # refused before anything is fetched
        for name in self.baselines:
            if name not in BASELINES and not re.fullmatch(rf"({'|'.join(BASELINE_KINDS)}):.+", name):
                raise unknown_value("eval.baselines", name, [*BASELINES, *(f"{kind}:MODEL" for kind in BASELINE_KINDS)])
        _ = self.degraded

    @property
    def degraded(self) -> list[Condition]:
        """The conditions beside clean, each once.

        Raises:
            ConfigError: one is unknown.
        """
        return [each for each in dict.fromkeys(map(parse, self.conditions)) if each != CLEAN]
