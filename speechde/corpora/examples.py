"""Training examples, made when they are asked for: clips with their transcripts, texts with their English."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from speechde.corpora.bitext import ENGLISH, TextPair
from speechde.types import Audio, Example, Item, Text, Utterance

RECORDED, SYNTHETIC, TRANSLATION = SOURCES = ("recorded", "synthetic", "translation")


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
