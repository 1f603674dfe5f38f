"""Recall@1 on the dev split of the seen languages: the only number that chooses a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from speechde.distributed import rank
from speechde.evaluation.metrics import ranks
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_speech, embed_texts
from speechde.models.prompt import Prompt
from speechde.progress import on_terminal
from speechde.types import Utterance


class DevRecall:
    """Callable: model → audio→text R@1, averaged over languages.

    Args:
        utterances: recordings of the dev split of seen languages.
        items: their stored speech items by id.
    """

    def __init__(self, prompt: Prompt, utterances: list[Utterance], items: Mapping[str, np.ndarray]) -> None:
        self.prompt, self.utterances = prompt, utterances
        self.items = [items[u.id] for u in utterances]
        self.texts = list(dict.fromkeys((u.lang, u.text) for u in utterances))
        self.text_ids = [prompt.text_ids(text, lang) for lang, text in self.texts]

    def __call__(self, model: DualEncoder) -> float:
        """See the class."""
        langs = [u.lang for u in self.utterances]
        shown = rank() == 0 and not on_terminal()  # there the bar of the training stands
        label = "dev recall" if shown else None
        speech = embed_speech(model, self.prompt, self.items, langs, label)
        text = embed_texts(model, self.text_ids, label)
        row = {pair: i for i, pair in enumerate(self.texts)}
        correct = np.array([row[u.lang, u.text] for u in self.utterances])
        scores = []
        for lang in sorted(set(langs)):
            queries = np.array([i for i, own in enumerate(langs) if own == lang])
            gallery = np.array([i for i, (own, _) in enumerate(self.texts) if own == lang])
            scores.append(float((ranks(speech[queries], text[gallery], correct[queries], gallery) == 1).mean()))
        return float(np.mean(scores))
