"""Recall@1 on dev: the only number that chooses a checkpoint.

It is that of the clips, averaged over the seen languages, and of each file of examples that has a dev split; all of
them count alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from speechde.distributed import rank
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import Retrieval, evaluate
from speechde.evaluation.speech import speech_tasks
from speechde.models.dual_encoder import DualEncoder
from speechde.models.prompt import Prompt
from speechde.progress import on_terminal
from speechde.types import Utterance


@dataclass
class CutTexts:
    """Texts (language, text) longer than ``model.max_tokens``, whose start alone is read in training and on dev."""

    training: set[tuple[str | None, str]] = field(default_factory=set)
    dev: set[tuple[str | None, str]] = field(default_factory=set)

    def counts(self, tokens: int) -> dict[str, int]:
        """As ``noted`` of ``metrics.json`` has them."""
        sets = {"training text": self.training, "dev text": self.dev}
        return {f"{name} cut at {tokens} tokens": len(texts) for name, texts in sets.items() if texts}


class DevRecall:
    """Callable: model → R@1 of dev, by the evaluator that reports it.

    Args:
        utterances: recordings of the dev split of seen languages; there may be none where there are ``tasks``.
        items: stored speech items by id, or by the locator of a clip of a file of examples.
        cut: told each text that is cut (``Prompt.text_ids``).
        tasks: of the files of examples.
    """

    def __init__(
        self,
        prompt: Prompt,
        utterances: Sequence[Utterance],
        items: Mapping[str, np.ndarray],
        cut: Callable[[tuple[str | None, str]], object] | None = None,
        tasks: Sequence[Retrieval] = (),
    ) -> None:
        self.prompt, self.items, self.cut = prompt, items, cut
        spoken = speech_tasks(utterances, {"seen": sorted({u.lang for u in utterances})}) if utterances else []
        self.tasks = [*(task for task in spoken if task.name == "audio_to_text"), *tasks]

    def __call__(self, model: DualEncoder) -> float:
        """See the class; NaN where there is nothing to ask."""
        if not self.tasks:
            return math.nan
        shown = rank() == 0 and not on_terminal()  # there the bar of the training stands
        embed = stored_embed(model, self.prompt, self.items, "dev recall" if shown else None, self.cut)
        results = evaluate(self.tasks, embed, label=None)
        return float(np.mean([results.mean(name)["recall@1"] for name in results.rows]))
