"""Which clips and translations make a batch: a pure function of seed and step, so that a resumed run draws what it
would have drawn.

One language a batch is the default: with the language named in the prefix, clips of other languages are trivial
negatives, and a batch of them teaches little.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from speechde.errors import ConfigError, DataError
from speechde.types import Utterance

TRANSLATION = -1  # in the place of a view: the index is that of a translation pair


class LanguageBatches(Sampler[list[tuple[int, int]]]):
    """Batches of ``(utterance index, view index)`` for one epoch of a fixed number of steps.

    With translations, ``(pair index, TRANSLATION)`` follow the clips of a batch: pairs of the same language where it
    has any, of a drawn one where it has none (English speech, say).

    Args:
        utterances: the training clips.
        batch_size: pairs a batch; a language with fewer clips or translations gives smaller batches.
        steps: batches an epoch.
        one_language: all clips of a batch share their language.
        exponent: languages are drawn with probability ∝ clips ** exponent (0 = all alike, 1 = as in the data).
        synthetic_share: share of each batch that is synthetic speech, where the language has any.
        synthetic_apart: that share of the batches is synthetic instead, and the others are not. Texts to be read aloud
            differ in style from transcripts, so that in a batch of both, each kind is a trivial negative of the other.
        views: number of recorded versions of each non-synthetic clip (speeds), drawn uniformly.
        translations: language of each translation pair.
        translation_share: share of each batch that is translation pairs; the rest is clips.
        group: languages that together are drawn with probability ``group_share``, all others with the rest.
        group_share: see ``group``.
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
        synthetic_apart: bool = False,
        views: int = 1,
        translations: Sequence[str] = (),
        translation_share: float = 0.0,
        group: Collection[str] = (),
        group_share: float = 0.0,
    ) -> None:
        if batch_size < 2:
            raise ConfigError(f"trainer.batch_size={batch_size}: a contrastive batch needs at least 2 pairs")
        if not 0 <= synthetic_share <= 1:
            raise ConfigError(f"data.synthetic.share={synthetic_share} is not between 0 and 1")
        pairs = round(batch_size * translation_share) if len(translations) else 0
        if not 0 <= translation_share < 1 or batch_size - pairs < 2:
            raise ConfigError(
                f"data.translations.share={translation_share} leaves {batch_size - pairs} of {batch_size} pairs of a "
                "batch for speech; it is at least 0, and must leave 2"
            )
        if not utterances:
            raise DataError("no training clip; check data.seen and the train split")
        self.clips, self.pairs = batch_size - pairs, pairs
        self.steps, self.seed, self.views = steps, seed, views
        self.one_language, self.synthetic_share, self.synthetic_apart = one_language, synthetic_share, synthetic_apart
        self.first, self.rank, self.ranks = 0, 0, 1
        self.languages = sorted({u.lang for u in utterances})
        self._real = [self._indices(utterances, lang, synthetic=False) for lang in self.languages]
        self._synthetic = [self._indices(utterances, lang, synthetic=True) for lang in self.languages]
        counts = [len(a) + len(b) for a, b in zip(self._real, self._synthetic, strict=True)]
        self.probabilities = _shares(counts, exponent)
        inside = np.isin(self.languages, list(group))
        if inside.any() and not inside.all():
            for part, share in ((inside, group_share), (~inside, 1 - group_share)):
                self.probabilities[part] *= share / self.probabilities[part].sum()
        tags = np.array(translations, dtype=str)
        self._pairs = {str(lang): np.flatnonzero(tags == lang) for lang in np.unique(tags)}
        self._pair_probabilities = _shares(map(len, self._pairs.values()), exponent)

    @staticmethod
    def _indices(utterances: Sequence[Utterance], lang: str, synthetic: bool) -> np.ndarray:
        return np.array([i for i, u in enumerate(utterances) if u.lang == lang and u.synthetic == synthetic], np.int64)

    def start(self, step: int, rank: int = 0, ranks: int = 1) -> None:
        """Choose what the next iteration draws: from global ``step`` to the end of its epoch, the part of a rank."""
        self.first, self.rank, self.ranks = step, rank, ranks

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        end = (self.first // self.steps + 1) * self.steps
        for step in range(self.first, end):
            yield split(self.batch(step), self.rank, self.ranks)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The batch of one global step."""
        rng = np.random.default_rng([self.seed, step])
        if self.one_language:
            sizes = {int(rng.choice(len(self.probabilities), p=self.probabilities)): self.clips}
        else:
            drawn = rng.multinomial(self.clips, self.probabilities)
            sizes = {lang: int(size) for lang, size in enumerate(drawn) if size}
        share = self.synthetic_share
        if self.synthetic_apart:
            share = float(rng.random() < share)
        chosen: list[tuple[int, int]] = []
        for lang, size in sizes.items():
            pools = (self._real[lang], self.views), (self._synthetic[lang], 1)
            for (pool, views), count in zip(pools, self._counts(lang, size, share), strict=True):
                picked = rng.choice(pool, count, replace=False)
                chosen += [(int(index), int(rng.integers(views))) for index in picked]
        return chosen + self._translations(rng, [self.languages[lang] for lang in sizes])

    def _translations(self, rng: np.random.Generator, languages: list[str]) -> list[tuple[int, int]]:
        """The translation pairs of a batch whose clips are in ``languages``."""
        if not self.pairs:
            return []
        names = list(self._pairs)
        if not self.one_language:
            drawn = rng.multinomial(self.pairs, self._pair_probabilities)
        else:
            own = [lang for lang in languages if lang in self._pairs]
            lang = own[0] if own else names[int(rng.choice(len(names), p=self._pair_probabilities))]
            drawn = [self.pairs * (name == lang) for name in names]
        chosen = []
        for pool, size in zip(self._pairs.values(), drawn, strict=True):
            picked = rng.choice(pool, min(int(size), len(pool)), replace=False)
            chosen += [(int(index), TRANSLATION) for index in picked]
        return chosen

    def effective_epochs(self, total_steps: int, synthetic: bool = False) -> dict[str, float]:
        """Expected number of times each recorded (or each synthetic) clip of a language is drawn in ``total_steps``.

        Exact for the exponent, the synthetic share, one or several languages a batch, and languages smaller than
        their part of a batch. All clips of one kind and language are drawn alike; languages without one are left out.
        """
        epochs = {}
        for lang, (name, probability) in enumerate(zip(self.languages, self.probabilities, strict=True)):
            clips = len((self._synthetic if synthetic else self._real)[lang])
            if not clips:
                continue
            if self.one_language:
                drawn = probability * self._expected(lang, self.clips)[synthetic]
            else:  # the part of one language in a multinomial draw is binomial
                drawn = sum(
                    _binomial(size, self.clips, probability) * self._expected(lang, size)[synthetic]
                    for size in range(self.clips + 1)
                )
            epochs[name] = float(total_steps * drawn / clips)
        return epochs

    def _expected(self, lang: int, size: int) -> tuple[float, float]:
        """``_counts`` on average over the kinds of batch."""
        share = self.synthetic_share
        if not self.synthetic_apart:
            return self._counts(lang, size, share)
        kinds = self._counts(lang, size, 0.0), self._counts(lang, size, 1.0)
        return tuple((1 - share) * recorded + share * made for recorded, made in zip(*kinds, strict=True))

    def _counts(self, lang: int, size: int, share: float) -> tuple[int, int]:
        """Recorded and synthetic clips among the ``size`` of one language."""
        real, synthetic = len(self._real[lang]), len(self._synthetic[lang])
        from_synthetic = round(size * share) if synthetic else 0
        if not real:
            from_synthetic = size
        return min(size - from_synthetic, real), min(from_synthetic, synthetic)


def split(batch: list[tuple[int, int]], rank: int, ranks: int) -> list[tuple[int, int]]:
    """Every ``ranks``-th clip and translation pair: together the ranks have each of the batch once.

    Raises:
        DataError: a rank would have no clip.
    """
    clips = [key for key in batch if key[1] != TRANSLATION]
    if len(clips) < ranks:
        raise DataError(
            f"a batch has {len(clips)} clips for {ranks} processes: its language has no more; use fewer processes, "
            "trainer.one_language=false, or leave the language out of data.seen"
        )
    return clips[rank::ranks] + batch[len(clips) + rank :: ranks]


def _shares(counts: Iterable[int], exponent: float) -> np.ndarray:
    """Probabilities ∝ counts ** exponent; an empty array for no count."""
    weights = np.fromiter(counts, np.float64) ** exponent
    return weights / weights.sum()


def _binomial(k: int, n: int, p: float) -> float:
    """Probability of ``k`` successes in ``n`` trials, through logarithms: binomial coefficients overflow a float."""
    if p >= 1:
        return float(k == n)
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))
