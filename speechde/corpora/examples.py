"""Training examples, made when they are asked for: clips with their transcripts, texts with their English."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from speechde.corpora.bitext import ENGLISH, TextPair
from speechde.types import Audio, Example, Item, Text, Utterance

RECORDED, SYNTHETIC, TRANSLATION = SOURCES = ("recorded", "synthetic", "translation")
JOINT = "\n"  # between the ids of clips that are read one after another; no id of a table of clips holds one


class SpeechExamples(Sequence[Example]):
    """A recording asks for its transcript.

    Args:
        across: whether a batch may hold several languages, or translations. Where it may, an example also means its
            sentence, which the corpus may have in other languages, and its translation; otherwise its transcript alone.
    """

    def __init__(self, utterances: Sequence[Utterance], across: bool = False) -> None:
        self.utterances, self.across = utterances, across
        self.strata = [u.lang for u in utterances]
        self.sources = [SYNTHETIC if u.synthetic else RECORDED for u in utterances]

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Language and words of each transcript."""
        return [(u.lang, u.text) for u in self.utterances]

    @property
    def lengths(self) -> list[int]:
        """Characters of each transcript."""
        return [len(u.text) for u in self.utterances]

    def __getitem__(self, index: int) -> Example:
        u = self.utterances[index]
        query = Item(Audio(u.audio), id=u.id, lang=u.lang, meaning=u.text)
        positive = Item(Text(u.text), lang=u.lang, meaning=u.text)
        also = []
        if self.across and u.sentence_id:
            also.append((None, u.sentence_id))
        if self.across and u.translation:
            also.append((ENGLISH, u.translation))
        return Example(query, positive, stratum=u.lang, source=self.sources[index], also=tuple(also))


class ConsecutiveClips(Sequence[Example]):
    """Clips one after another as one clip, which asks for their transcripts one after another: sentences of phrases.

    There is an example for each clip, which it begins; one to ``most - 1`` others follow, drawn from those of its
    language and source and, where these are known, its speaker. A clip that none can follow makes no example.

    Args:
        utterances: whose features are known by their ids.
        most: clips of one example.
        seconds: of each clip, by id; together they last ``limit`` at most. None: not known.
        seed: of the draw, for each clip on its own: it does not depend on the other clips that begin.
    """

    def __init__(
        self, utterances: Sequence[Utterance], most: int, *,
        seconds: Mapping[str, float] | None = None, limit: float = math.inf, seed: int = 0,
    ) -> None:  # fmt: skip
        alike: dict[tuple, list[int]] = defaultdict(list)
        for place, u in enumerate(utterances):
            alike[u.lang, u.synthetic, u.speaker].append(place)
        self.utterances, self._runs = utterances, []
        for place, u in enumerate(utterances):
            rng = random.Random(f"{seed} {u.id}")
            run, left = [place], limit - (seconds or {}).get(u.id, 0.0)
            for other in rng.choices(alike[u.lang, u.synthetic, u.speaker], k=rng.randint(1, most - 1)):
                lasts = (seconds or {}).get(utterances[other].id, 0.0)
                if other not in run and lasts <= left:
                    run.append(other)
                    left -= lasts
            if len(run) > 1:
                self._runs.append(run)
        first = [utterances[run[0]] for run in self._runs]
        self.strata = [u.lang for u in first]
        self.sources = [SYNTHETIC if u.synthetic else RECORDED for u in first]

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Language and words of the transcripts of each example."""
        return [(self.utterances[run[0]].lang, self._text(run)) for run in self._runs]

    @property
    def lengths(self) -> list[int]:
        """Characters of the transcripts of each example."""
        return [len(text) for _, text in self.texts]

    def __getitem__(self, index: int) -> Example:
        run = self._runs[index]
        key, text, lang = JOINT.join(self.utterances[place].id for place in run), self._text(run), self.strata[index]
        query = Item(Audio(key), id=key, lang=lang, meaning=text)
        return Example(query, Item(Text(text), lang=lang, meaning=text), stratum=lang, source=self.sources[index])

    def _text(self, run: Sequence[int]) -> str:
        """Transcripts as sentences of one text."""
        texts = (self.utterances[place].text.strip() for place in run)
        return " ".join(text if not text[-1:].isalnum() else f"{text}." for text in texts)


class TranslationExamples(Sequence[Example]):
    """A text asks for its English."""

    def __init__(self, pairs: Sequence[TextPair]) -> None:
        self.pairs = pairs
        self.strata = [pair.lang for pair in pairs]
        self.sources = [TRANSLATION] * len(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def lengths(self) -> list[int]:
        """Characters of each text."""
        return [len(pair.text) for pair in self.pairs]

    def __getitem__(self, index: int) -> Example:
        pair = self.pairs[index]
        query = Item(Text(pair.text), lang=pair.lang, meaning=pair.text)
        positive = Item(Text(pair.english), lang=ENGLISH, meaning=pair.english)
        return Example(query, positive, stratum=pair.lang, source=TRANSLATION)


class Stream(Protocol):
    """Examples, with the stratum and the source of each."""

    strata: Sequence[str]
    sources: Sequence[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


class Joined(Sequence[Example]):
    """Several streams one after another."""

    def __init__(self, *streams: Stream) -> None:
        self.streams = streams
        self._ends = list(accumulate(map(len, streams)))
        self.strata = [stratum for stream in streams for stratum in stream.strata]
        self.sources = [source for stream in streams for source in stream.sources]

    @property
    def lengths(self) -> list[int]:
        """Of each example; of clips and translations, whose texts are at hand."""
        return [length for stream in self.streams for length in stream.lengths]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect_right(self._ends, index)
        return self.streams[which][index - (self._ends[which] - len(self.streams[which]))]
