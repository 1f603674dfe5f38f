"""Recall@1 on the dev split of the seen languages: the only number that chooses a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from speechde.distributed import rank
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import evaluate
from speechde.evaluation.speech import speech_tasks
from speechde.models.dual_encoder import DualEncoder
from speechde.models.prompt import Prompt
from speechde.progress import on_terminal
from speechde.types import Utterance


class DevRecall:
    """Callable: model → audio→text R@1, averaged over languages, by the evaluator that reports it.

    Args:
        utterances: recordings of the dev split of seen languages.
        items: their stored speech items by id.
    """

    def __init__(self, prompt: Prompt, utterances: Sequence[Utterance], items: Mapping[str, np.ndarray]) -> None:
        self.prompt, self.items = prompt, items
        tasks = speech_tasks(utterances, {"seen": sorted({u.lang for u in utterances})})
        self.tasks = [task for task in tasks if task.name == "audio_to_text"]

    def __call__(self, model: DualEncoder) -> float:
        """See the class."""
        shown = rank() == 0 and not on_terminal()  # there the bar of the training stands
        embed = stored_embed(model, self.prompt, self.items, "dev recall" if shown else None)
        return evaluate(self.tasks, embed, label=None).mean("audio_to_text")["recall@1"]
