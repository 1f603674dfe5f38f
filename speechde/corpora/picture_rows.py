"""Rows of a picture and a text, or a clip, as training examples: where a picture may have several texts of a language.

A row is an example of each way to ask that it allows. What names one thing is the row's to say; things of a split that
share a text in a language, in whatever case and punctuation, mean the same: neither answer is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from speechde.corpora.examples import RECORDED
from speechde.corpora.pictures import Found
from speechde.groups import joined
from speechde.text import normalise_text
from speechde.types import SPLITS, Audio, Example, Image, Item, Text


@dataclass(frozen=True, slots=True)
class Row:
    """A picture with a text, a clip, or both; ``text`` and ``audio`` are empty where there is none.

    ``meaning`` names the thing; ``place`` is what messages call the row.
    """

    place: str
    image: str
    lang: str
    text: str
    audio: str
    split: str
    meaning: str


def examples_of(rows: Sequence[Row]) -> Found:
    """The examples of rows, by way to ask and split.

    Outside train a picture asks once in a language, whatever number of texts it has there: any of them is right.
    """
    by_split = {split: _joined([row for row in rows if row.split == split]) for split in SPLITS}
    return {task: {split: list(_once(ask, own)) for split, own in by_split.items()} for task, ask in _TASKS.items()}


def _joined(rows: Sequence[Row]) -> list[Row]:
    """The rows of a split, those that mean the same by one name: of the first thing among them."""
    shared = [[("thing", row.meaning), *([("text", row.lang, normalise_text(row.text))] if row.text else [])]
              for row in rows]  # fmt: skip
    return [replace(row, meaning=rows[first].meaning) for row, first in zip(rows, joined(shared), strict=True)]


def _once(ask: Callable[[Row], Example | None], rows: Sequence[Row]) -> Iterator[Example]:
    """The example of each row that has one; outside train one query is asked once."""
    asked = set()
    for row in rows:
        if example := ask(row):
            query = (row.lang, *(part.content for part in example.query.parts))
            if row.split == "train" or query not in asked:
                yield example
            asked.add(query)


def _image_to_text(row: Row) -> Example | None:
    return Example(_image(row), _text(row), stratum=row.lang) if row.text else None


def _text_to_image(row: Row) -> Example | None:
    return Example(_text(row), _image(row), stratum=row.lang) if row.text else None


def _speech_to_image(row: Row) -> Example | None:
    query = Item(Audio(row.audio), lang=row.lang, meaning=row.meaning)
    return Example(query, _image(row), stratum=row.lang, source=RECORDED) if row.audio else None


def _image_speech_to_text(row: Row) -> Example | None:
    query = Item(Image(row.image), Audio(row.audio), lang=row.lang, meaning=row.meaning)
    return Example(query, _text(row), stratum=row.lang, source=RECORDED) if row.audio and row.text else None


def _image(row: Row) -> Item:
    return Item(Image(row.image), meaning=row.meaning)


def _text(row: Row) -> Item:
    return Item(Text(row.text), lang=row.lang, meaning=row.meaning)


_TASKS: Mapping[str, Callable[[Row], Example | None]] = {
    "image_to_text": _image_to_text,
    "text_to_image": _text_to_image,
    "speech_to_image": _speech_to_image,
    "image_speech_to_text": _image_speech_to_text,
}
