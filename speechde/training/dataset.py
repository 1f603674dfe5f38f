"""Training examples for Lightning: stored items and token ids become ``types.Batch``.

Nothing here grows with rows × text but what a frozen LLM needs: the token ids of all transcripts, whose states are
computed before training. Else texts are read as they are drawn, and the first ``REMEMBERED`` of them are kept.

Each row has the ids of what its two sides mean, and the loss takes no two rows that share one for each other's
negatives. They are hashes, so that all processes agree on them and none holds a table of millions of translations.

A batch has as many hard negatives of each row as its task asks for, and where an example has fewer, one of its items is
encoded in their place and counts for nothing: all processes then encode alike, as sharded models need.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from speechde.corpora.examples import JOINT, ConsecutiveClips, Joined, SpeechExamples
from speechde.errors import DataError
from speechde.evaluation.retrieval import DOCUMENT, QUERY
from speechde.losses.meaning import ABSENT
from speechde.models.embed import Cut, stored_key
from speechde.models.frontends.base import pad_items
from speechde.models.prompt import Prompt, Words
from speechde.training.bank import TextBank
from speechde.training.letters import Alphabet
from speechde.training.mixture import Mixture, Row
from speechde.types import Batch, Example, Inputs, Item, Part, Rows, Sequences, Text

Side = tuple[Item, Row, str]  # an item, its row, and which side of it the item is
REMEMBERED = 100_000  # texts whose token ids are kept: some 50 MB
IDS = 4  # columns of ``Batch.meaning`` before those of the hard negatives


@dataclass(frozen=True, slots=True)
class Reading:
    """How the examples of a task are read.

    Args:
        query, document: names of the prompts (``Prompt.named``) of what asks and of what answers; None for prefixes.
        negatives: how many hard negatives of an example.
        banked: whether clips are told from further transcripts than those of their batch.
    """

    query: str | None = None
    document: str | None = None
    negatives: int = 0
    banked: bool = False


class ExampleDataset(Dataset):
    """The examples of each task, by the rows of a ``Mixture``.

    A clip of a file of examples is in the first of ``views``, by its locator; one of a corpus in all, by its id.

    Args:
        tasks: their examples, in the order of the mixture.
        views: feature stores, one per version of the recorded clips; synthetic clips are in the first only.
        cut: told each text that is cut.
        readings: of each task; () reads no negatives, and items with their prefixes.
        alphabet: of the transcripts whose letters are learned too.
        known: number the transcripts (``Rows.known``) and keep their token ids (``known_ids``).
    """

    def __init__(
        self,
        tasks: Sequence[Joined],
        views: Sequence[Mapping[str, np.ndarray]],
        prompt: Prompt,
        cut: Cut | None = None,
        readings: Sequence[Reading] = (),
        alphabet: Alphabet | None = None,
        known: bool = True,
    ) -> None:
        self.tasks, self.views, self.prompt, self.cut = tasks, [Consecutive(view) for view in views], prompt, cut
        self.alphabet = alphabet
        self.readings = list(readings) or [Reading()] * len(tasks)
        kinds = (SpeechExamples, ConsecutiveClips)
        spoken = [stream for task in tasks for stream in task.streams if isinstance(stream, kinds)]
        for store in self.views:
            first = store is self.views[0]
            missing = [
                u.id for stream in spoken for u in stream.utterances if u.id not in store and (first or not u.synthetic)
            ]
            if missing:
                raise DataError(f"{len(missing)} training clips have no features, e.g. {missing[0]!r}")
        texts = dict.fromkeys(text for stream in spoken for text in stream.texts)
        ids = prompt.ids_of_texts(texts, cut)
        if not known:
            deque(ids if cut else (), maxlen=0)  # what is cut is told, whether it is drawn or not
            texts, ids = {}, iter(())
        self._known = {text: row for row, text in enumerate(texts)}
        self.known_ids = TokenIds(ids)  # of transcripts, read once
        self._remembered: dict[tuple, list[tuple[str, np.ndarray]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.tasks))

    def bank(self, size: int) -> TextBank:
        """Draws ``size`` of the transcripts whose states are known."""
        meanings = [_hashed(lang, text) for lang, text in self._known]
        return TextBank([lang for lang, _ in self._known], meanings, size)

    def __getitem__(self, row: Row) -> Row:
        return row

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Pad one batch, examples that are made up alike together."""
        alike: dict[tuple, list[tuple[Example, Row]]] = defaultdict(list)
        reading = self.readings[rows[0].task]  # a batch is of one task
        hard = reading.negatives
        for row in rows:
            example = self.tasks[row.task][row.example]
            items = (example.query, example.positive, *_negatives(example, hard))
            alike[tuple(item.make_up for item in items)].append((example, row))
        every = [pair for group in alike.values() for pair in group]
        meaning = [meaning_ids(*pair) + negative_ids(*pair, hard) for pair in every]
        return Batch([self._rows(group, hard) for group in alike.values()], torch.tensor(meaning), reading.banked)

    def _rows(self, group: Sequence[tuple[Example, Row]], hard: int) -> Rows:
        positives = [(example.positive, row, DOCUMENT) for example, row in group]
        negatives = [(item, row, DOCUMENT) for example, row in group for item in _negatives(example, hard)]
        return Rows(
            query=self._inputs([(example.query, row, QUERY) for example, row in group]),
            positive=self._inputs(positives),
            known=self._places(positives),
            negatives=self._inputs(negatives) if negatives else None,
            known_negatives=self._places(negatives) if negatives else None,
            letters=self._letters([example.query for example, _ in group]),
        )

    def _places(self, sides: Sequence[Side]) -> torch.Tensor | None:
        """Of texts that are all transcripts, the rows of their states; None where one is not."""
        found = [self._place(*side) for side in sides]
        return None if None in found else torch.tensor(found)

    def _letters(self, queries: Sequence[Item]) -> Sequences | None:
        """Letters spoken in clips; None where they are not learned, or the queries are no clips."""
        if self.alphabet is None or set(queries[0].make_up) != {"speech"}:
            return None
        return self.alphabet.batch(item.id for item in queries)

    def _place(self, item: Item, row: Row, role: str) -> int | None:
        return None if self._prompt(row, role) else self._known.get(_written(item))

    def _prompt(self, row: Row, role: str) -> str | None:
        """The name of the prompt of one side of a row."""
        reading = self.readings[row.task]
        return None if row.bare else reading.query if role == QUERY else reading.document

    def _inputs(self, sides: Sequence[Side]) -> Inputs:
        return pad_items([self._parts(*side) for side in sides])

    def _parts(self, item: Item, row: Row, role: str) -> list[tuple[str, np.ndarray]]:
        if (known := self._place(item, row, role)) is not None:
            return [("text", self.known_ids[known])]
        if written := _written(item):
            return self._read(written, item, self._prompt(row, role))
        store = self.views[row.view]
        return [
            (modality, store[stored_key(store, item, values)] if isinstance(values, Part) else values)
            for modality, values in self.prompt.segments(item, self.cut, self._prompt(row, role))
        ]

    def _read(self, written: Words, item: Item, name: str | None) -> list[tuple[str, np.ndarray]]:
        """The token ids of an item that is one text; those of templates that name its title are not remembered."""
        key = (written, name)
        if item.title or (found := self._remembered.get(key)) is None:
            found = self.prompt.segments(item, self.cut, name)
            if not item.title and len(self._remembered) < REMEMBERED:
                self._remembered[key] = found
        return found


class Consecutive(Mapping[str, np.ndarray]):
    """A view of a store that also holds its clips one after another, under their ids with ``JOINT`` between them."""

    def __init__(self, store: Mapping[str, np.ndarray]) -> None:
        self.store = store

    def __getitem__(self, key: str) -> np.ndarray:
        clips = [self.store[one] for one in key.split(JOINT)]
        return clips[0] if len(clips) == 1 else np.concatenate(clips)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and all(one in self.store for one in key.split(JOINT))

    def __iter__(self) -> Iterator[str]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)


class TokenIds(Sequence[np.ndarray]):
    """Token ids ``(time,)`` int64 of many texts; kept in 32 bits, one after another."""

    def __init__(self, texts: Iterable[np.ndarray]) -> None:
        lengths = array("q")
        values = array("i")
        for ids in texts:
            lengths.append(len(ids))
            values.frombytes(ids.astype(np.int32).tobytes())
        self._values = np.frombuffer(values, np.int32) if values else np.empty(0, np.int32)
        self._ends = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._values[self._ends[index] : self._ends[index + 1]].astype(np.int64)


def _written(item: Item) -> Words | None:
    """Language and words of an item that is one text."""
    first, *others = item.parts
    return (item.lang, first.content) if isinstance(first, Text) and not others else None


def _negatives(example: Example, count: int) -> list[Item]:
    """``count`` items: the first hard negatives of an example, and in the place of those it has not, another item.

    Raises:
        DataError: they are not made up alike.
    """
    own = list(example.negatives[:count])
    if len({item.make_up for item in own}) > 1:
        kinds = ", ".join("+".join(item.make_up) for item in own)
        raise DataError(
            f"example {example.query.id!r}: its hard negatives are of {kinds}; give it those of one kind, and make "
            "another example of the rest"
        )
    return own + [own[0] if own else example.positive] * (count - len(own))


def negative_ids(example: Example, row: Row, count: int) -> list[int]:
    """``count`` numbers: what each hard negative means, ``ABSENT`` for those that are not there.

    One without a meaning is like no other item, as in ``meaning_ids``.
    """
    found = [
        _hashed(item.lang, item.meaning) if item.meaning else _hashed(None, f"\0{row.task}\0{row.example}\0{place}")
        for place, item in enumerate(example.negatives[:count])
    ]
    return found + [ABSENT] * (count - len(found))


def meaning_ids(example: Example, row: Row) -> list[int]:
    """``IDS`` numbers: what the query means, the positive, and both; the first stands for what is not there.

    An example without any meaning is like no other: its number is that of its place.
    """
    query, positive = example.query, example.positive
    stated = [(query.lang, query.meaning), (positive.lang, positive.meaning), *example.also]
    place = (None, f"\0{row.task}\0{row.example}")
    found = [_hashed(*one) for one in stated if one[1]] or [_hashed(*place)]
    return found + [found[0]] * (IDS - len(found))


@lru_cache(maxsize=2**20)
def _hashed(lang: str | None, meaning: str) -> int:
    """A signed number of 64 bits: of a million texts no two share one, but for a chance of 1 in 10^7."""
    key = f"{lang or ''}\0{meaning}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little", signed=True)


class ExampleDataModule(pl.LightningDataModule):
    """Serves the training batches of one epoch at a time, to each process its part of them.

    The loader is rebuilt each epoch (``reload_dataloaders_every_n_epochs=1``) so that the mixture starts from the
    trainer's step also after a resume, in whichever step and with however many processes. ``equal`` as in
    ``Mixture.start``: sharded models need it.
    """

    def __init__(self, dataset: ExampleDataset, mixture: Mixture, workers: int = 0, equal: bool = False) -> None:
        super().__init__()
        self.dataset, self.mixture, self.workers, self.equal = dataset, mixture, workers, equal

    def train_dataloader(self) -> DataLoader:
        """What is left of the current epoch."""
        trainer = self.trainer
        self.mixture.start(trainer.global_step, trainer.global_rank, trainer.world_size, self.equal)
        return DataLoader(
            self.dataset, batch_sampler=self.mixture, collate_fn=self.dataset.collate, num_workers=self.workers
        )
