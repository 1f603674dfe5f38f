"""Which clips make a batch: a pure function of seed and step, so that a resumed run draws what it would have drawn.

One language a batch is the default: with the language named in the prefix, clips of other languages are trivial
negatives, and a batch of them teaches little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from speechde.errors import ConfigError, DataError
from speechde.types import Utterance


class LanguageBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(utterance index, view index)`` for one epoch of a fixed number of steps.

    Args:
        utterances: the training clips.
        batch_size: pairs a batch; a language with fewer clips gives smaller batches.
        steps: batches an epoch.
        one_language: all clips of a batch share their language.
        exponent: languages are drawn with probability ∝ clips ** exponent (0 = all alike, 1 = as in the data).
        synthetic_share: share of each batch that is synthetic speech, where the language has any.
        views: number of recorded versions of each non-synthetic clip (speeds), drawn uniformly.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        one_language: bool = True,
        exponent: float = 0.5,
        synthetic_share: float = 0.0,
        views: int = 1,
    ) -> None:
        if batch_size < 2:
            raise ConfigError(f"trainer.batch_size={batch_size}: a contrastive batch needs at least 2 pairs")
        if not 0 <= synthetic_share <= 1:
            raise ConfigError(f"data.synthetic.share={synthetic_share} is not between 0 and 1")
        if not utterances:
            raise DataError("no training clip; check data.seen and the train split")
        self.batch_size, self.steps, self.seed, self.views = batch_size, steps, seed, views
        self.one_language, self.synthetic_share = one_language, synthetic_share
        self.epoch = 0
        languages = sorted({u.lang for u in utterances})
        self._real = [self._indices(utterances, lang, synthetic=False) for lang in languages]
        self._synthetic = [self._indices(utterances, lang, synthetic=True) for lang in languages]
        counts = np.array([len(a) + len(b) for a, b in zip(self._real, self._synthetic, strict=True)], dtype=np.float64)
        weights = counts**exponent
        self.probabilities = weights / weights.sum()

    @staticmethod
    def _indices(utterances: Sequence[Utterance], lang: str, synthetic: bool) -> np.ndarray:
        return np.array([i for i, u in enumerate(utterances) if u.lang == lang and u.synthetic == synthetic], np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.steps):
            yield self.batch(self.epoch * self.steps + step)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The batch of one global step."""
        rng = np.random.default_rng([self.seed, step])
        if self.one_language:
            sizes = {int(rng.choice(len(self.probabilities), p=self.probabilities)): self.batch_size}
        else:
            drawn = rng.multinomial(self.batch_size, self.probabilities)
            sizes = {lang: int(size) for lang, size in enumerate(drawn) if size}
        chosen: list[tuple[int, int]] = []
        for lang, size in sizes.items():
            real, synthetic = self._real[lang], self._synthetic[lang]
            from_synthetic = round(size * self.synthetic_share) if len(synthetic) else 0
            if not len(real):
                from_synthetic = size
            for pool, count, views in ((real, size - from_synthetic, self.views), (synthetic, from_synthetic, 1)):
                picked = rng.choice(pool, min(count, len(pool)), replace=False)
                chosen += [(int(index), int(rng.integers(views))) for index in picked]
        return chosen
