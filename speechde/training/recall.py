"""Recall@1 on the dev split of the seen languages: the only number that chooses a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from speechde.evaluation.metrics import ranks
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_speech, embed_texts
from speechde.models.prompt import Prompt
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
    """Callable: model → audio→text R@1, averaged over languages.

    Args:
        utterances: recordings of the dev split of seen languages.
        items: their stored speech items by id.
        cut: told each text that is cut (``Prompt.text_ids``).
    """

    def __init__(
        self,
        prompt: Prompt,
        utterances: list[Utterance],
        items: Mapping[str, np.ndarray],
        cut: Callable[[tuple[str | None, str]], object] | None = None,
    ) -> None:
        self.prompt, self.utterances = prompt, utterances
        self.items = [items[u.id] for u in utterances]
        self.texts = list(dict.fromkeys((u.lang, u.text) for u in utterances))
        self.text_ids = [prompt.text_ids(text, lang, cut) for lang, text in self.texts]

    def __call__(self, model: DualEncoder) -> float:
        """See the class."""
        langs = [u.lang for u in self.utterances]
        speech = embed_speech(model, self.prompt, self.items, langs)
        text = embed_texts(model, self.text_ids)
        row = {pair: i for i, pair in enumerate(self.texts)}
        correct = np.array([row[u.lang, u.text] for u in self.utterances])
        scores = []
        for lang in sorted(set(langs)):
            queries = np.array([i for i, own in enumerate(langs) if own == lang])
            gallery = np.array([i for i, (own, _) in enumerate(self.texts) if own == lang])
            scores.append(float((ranks(speech[queries], text[gallery], correct[queries], gallery) == 1).mean()))
        return float(np.mean(scores))
