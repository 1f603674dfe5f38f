"""Records that pass between the packages: what a person means, and what a model reads.

``corpora/``, ``features/`` and ``models/`` never import each other; what they hand on is defined here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np

from speechde.errors import DataError

if TYPE_CHECKING:  # a corpus is read without them
    import torch
    from torch import Tensor

SPLITS = ("train", "dev", "test")
SAMPLE_RATE = 16_000  # samples per second of every waveform
# columns of token ids: words that enter the LLM with what they stand beside, and an item's own text beside media
WORDS = TEXT, WRITTEN = "text", "written"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A piece of one modality: the subclass says which, so that nothing is guessed from a string or an array's shape.

    ``modality`` names a feature extractor and a frontend.
    """

    modality: ClassVar[str]


@dataclass(frozen=True, slots=True, eq=False)
class Text(Part):
    """Written words."""

    modality: ClassVar[str] = "text"
    content: str


@dataclass(frozen=True, slots=True, eq=False)
class Audio(Part):
    """Speech: a path or locator, the bytes of a file, or samples; see ``media.inputs.read_clip``.

    ``sampling_rate`` (Hz) is that of samples that come without one.
    """

    modality: ClassVar[str] = "speech"
    content: str | Path | bytes | BinaryIO | np.ndarray | Tensor | Any
    sampling_rate: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Image(Part):
    """A picture: a path or locator, the bytes of a file, an array ``(height, width, 3)`` uint8, or a PIL image.

    ``media.image.read_image`` reads it.
    """

    modality: ClassVar[str] = "image"
    content: Any


@dataclass(frozen=True, slots=True, eq=False)
class Video(Part):
    """A film: a path or locator, or the bytes of a file.

    No model reads it as it is: ``media.video.as_pictures`` makes pictures with their times of it.
    """

    modality: ClassVar[str] = "video"
    content: str | Path | bytes | BinaryIO


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Item:
    """What becomes *one* vector: parts in reading order. Two items are the same when they are one object.

    ``lang`` is a FLEURS code (to ``SpeechTextEncoder`` any tag), None where it is not known. Items of equal, non-empty
    ``meaning`` are never each other's negatives: a clip's is its transcript. ``title`` is for prompts of documents.
    """

    parts: tuple[Part, ...]
    id: str
    lang: str | None
    meaning: str
    title: str

    def __init__(self, *parts: Part, id: str = "", lang: str | None = None, meaning: str = "", title: str = "") -> None:
        wrong = [part for part in parts if not isinstance(part, Part)]
        if wrong or not parts:
            given = f"a {type(wrong[0]).__name__}" if wrong else "no part"
            raise DataError(f"an item was given {given}; give Text(…), Audio(…), Image(…) or Video(…), at least one")
        values = {"parts": parts, "id": id, "lang": lang, "meaning": meaning, "title": title}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def make_up(self) -> tuple[str, ...]:
        """Modality of each part: what items have to share to be read as rows of one tensor."""
        return tuple(part.modality for part in self.parts)

    def in_language(self, lang: str) -> Item:
        """The same item in a language."""
        return Item(*self.parts, id=self.id, lang=lang, meaning=self.meaning, title=self.title)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its transcript.

    ``lang`` is a FLEURS code (``ca_es``). ``sentence_id`` names the *sentence*: all recordings of one sentence share
    it, in every language of a parallel corpus. ``translation`` is the English text, empty when the corpus has none.
    ``source`` names the corpus part, and ``synthetic`` marks machine-made speech. ``seconds`` is the length that the
    corpus states; None where it states none.
    """

    id: str
    lang: str
    text: str
    audio: str
    sentence_id: str
    split: str
    speaker: str = ""
    translation: str = ""
    source: str = ""
    synthetic: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """One item left out (or used with a remark, in ``Corpus.noted``).

    ``reason`` is short and stable, to be counted; ``detail`` is free, to be listed.
    """

    id: str
    reason: str
    detail: str = ""


@dataclass
class Corpus:
    """Utterances of one corpus, the role of each language, and what was dropped.

    ``seen`` languages may be trained on; ``zero_shot`` languages are only ever evaluated. So are ``proxy`` languages,
    whose synthetic speech a neighbouring language's voice reads: no mean mixes them with others. ``noted`` lists what
    is unusual about items that are used.
    """

    name: str
    utterances: list[Utterance]
    seen: tuple[str, ...]
    zero_shot: tuple[str, ...] = ()
    dropped: list[Dropped] = field(default_factory=list)
    licence: str = ""
    proxy: tuple[str, ...] = ()
    noted: list[Dropped] = field(default_factory=list)

    @property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """Languages by role; a corpus that is read knows nothing of those that a model heard elsewhere."""
        return {"seen": self.seen, "zero_shot": self.zero_shot, "proxy": self.proxy}

    def select(self, split: str | None = None, langs: Iterable[str] | None = None) -> list[Utterance]:
        """Utterances of one split and/or of some languages, in corpus order."""
        wanted = None if langs is None else set(langs)
        return [
            u for u in self.utterances if (split is None or u.split == split) and (wanted is None or u.lang in wanted)
        ]

    def dropped_counts(self) -> dict[str, int]:
        """How many items each reason dropped, most frequent first."""
        return dict(Counter(d.reason for d in self.dropped).most_common())

    def noted_counts(self) -> dict[str, int]:
        """How many used items each note is about, most frequent first."""
        return dict(Counter(d.reason for d in self.noted).most_common())


@dataclass
class Sequences:
    """A padded batch of sequences of one kind.

    ``values`` is ``(batch, time)`` int64 (token or unit ids) or ``(batch, time, dim)`` float (frames); ``mask`` is
    ``(batch, time)`` bool, true where real. ``lengths`` is ``(batch,)`` int64, the real positions of each row; it stays
    on the CPU, so that nobody has to wait for a GPU to know how long a batch is. None: it is not known there.
    """

    values: Tensor
    mask: Tensor
    lengths: Tensor | None = None

    def to(self, device: torch.device | str) -> Sequences:
        """The same batch on another device."""
        return Sequences(self.values.to(device), self.mask.to(device), self.lengths)

    def rows(self, index: Tensor) -> Sequences:
        """Some rows, cut to the longest of them."""
        there = index.to(self.mask.device, non_blocking=True)
        mask = self.mask[there]
        lengths = None if self.lengths is None else self.lengths[index.cpu()]
        longest = int((mask.sum(1) if lengths is None else lengths).max())
        return Sequences(self.values[there][:, :longest], mask[:, :longest], lengths)


@dataclass
class Inputs:
    """A padded batch of items as a model reads them.

    Column k is the k-th part of the rows that have one, with the modality that names its frontend; where a row has none
    its mask is empty. The words of a prompt are columns like any other. In an item that has media too, text of its own
    is ``WRITTEN``.
    """

    columns: list[tuple[str, Sequences]]

    def __len__(self) -> int:
        return len(self.columns[0][1].mask)

    @property
    def lengths(self) -> Tensor:
        """``(batch,)`` real positions of all columns together, on the CPU where each column knows its own."""
        return sum(column.mask.sum(1) if column.lengths is None else column.lengths for _, column in self.columns)

    def is_of(self, modality: str) -> bool:
        """Whether it holds this modality alone."""
        return all(name == modality for name, _ in self.columns)

    def rows(self, index: Tensor) -> Inputs:
        """Some rows, each column cut to the longest of them."""
        return Inputs([(modality, column.rows(index)) for modality, column in self.columns])

    def to(self, device: torch.device | str) -> Inputs:
        """The same batch on another device."""
        return Inputs([(modality, column.to(device)) for modality, column in self.columns])


@dataclass(frozen=True, slots=True)
class Example:
    """What training learns from: a query and the item that answers it.

    ``negatives`` are items that look like answers and are none, the hardest first, all made up alike. ``stratum`` is
    what a batch has one of (the language); ``source`` is what shares within a batch speak of: recorded, synthetic,
    translation. ``also`` lists what query and positive mean beside their own ``meaning``, as (language, meaning), or
    (None, meaning) of what is the same in every language. ``shared``: the positive is of all splits (a label).
    """

    query: Item
    positive: Item
    negatives: tuple[Item, ...] = ()
    stratum: str = ""
    source: str = ""
    also: tuple[tuple[str | None, str], ...] = ()
    shared: bool = False

    @property
    def items(self) -> tuple[Item, ...]:
        """Query, positive and hard negatives."""
        return (self.query, self.positive, *self.negatives)


@dataclass
class Rows:
    """Rows of a batch whose items are made up alike, so that they go through a model together.

    ``known`` is ``(rows,)`` int64: where the state of each positive is found among those computed before training.
    ``negatives`` are ``rows · n`` items, n of each row in turn, and ``known_negatives`` where theirs are found; in the
    place of one that is absent stands another item of the row. ``letters`` are those spoken in each query, where they
    are learned too; a row may have none.
    """

    query: Inputs
    positive: Inputs
    known: Tensor | None = None
    negatives: Inputs | None = None
    known_negatives: Tensor | None = None
    letters: Sequences | None = None

    @property
    def answers(self) -> list[tuple[Inputs, Tensor | None]]:
        """Positives and, where there are any, negatives, with what is known of them."""
        sides = (self.positive, self.known), (self.negatives, self.known_negatives)
        return [(items, known) for items, known in sides if items is not None]

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on another device."""
        every = self.query, self.positive, self.known, self.negatives, self.known_negatives, self.letters
        return Rows(*(part if part is None else part.to(device) for part in every))


@dataclass
class Batch:
    """Examples of one task, in parts one after another.

    ``meaning`` is ``(batch, k + n)`` int64: k ids of what query and positive of an example mean, and one of what each
    of its n hard negatives means (``losses.meaning.ABSENT`` where it has fewer). Rows that share any of the k are never
    each other's negatives. ``banked``: its queries are told from further transcripts too (``loss.bank``); all its
    positives are transcripts then, and mean their words.
    """

    rows: list[Rows]
    meaning: Tensor
    banked: bool = False

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device (the hook Lightning calls)."""
        return Batch([rows.to(device) for rows in self.rows], self.meaning.to(device), self.banked)
