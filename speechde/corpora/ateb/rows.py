"""Rows of ATEB's sets: an input of named fields, the answers it may get, and which of them is right.

Label classification, preference between two answers and multiple choice are one thing to an embedding model, an input
that asks for its answer among some, so they are one record here. Many of these texts are offensive, so that what is
left out is named by its place in a file and a reason, never by its words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechde.corpora.bitext import ENGLISH
from speechde.corpora.examples_file import INVALID
from speechde.corpora.manifest import BadRow, clean_text
from speechde.corpora.public import read_content
from speechde.errors import AssetError
from speechde.text import BadLine, normalise_text, read_lines
from speechde.types import Dropped


@dataclass(frozen=True, slots=True)
class Row:
    """One input. ``fields`` are (name, text) in reading order; ``answers[right]`` is the right one.

    ``explanation`` says why it is right, empty where nobody does. ``part`` is the part of the set that is scored apart
    (a language, a kind of adversary), ``lang`` a FLEURS code or None for a language that FLEURS has not. Rows of one
    ``group`` (a claim and its twin) are on one side of a split, and drawn together by the bootstrap.
    """

    id: str
    fields: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]
    right: int
    explanation: str = ""
    part: str = ENGLISH
    lang: str | None = ENGLISH
    group: str = ""

    def __post_init__(self) -> None:
        plain = [normalise_text(answer) or answer for answer in self.answers]
        if len(set(plain)) < len(plain):
            raise BadRow("two answers are one")
        if not 0 <= self.right < len(self.answers):
            raise BadRow("no right answer")

    @property
    def asked(self) -> str:
        """The input up to case, punctuation and spaces: what no two splits may share."""
        return "\n".join(normalise_text(text) or text for _, text in self.fields)

    @property
    def family(self) -> str:
        """Its group, or itself."""
        return self.group or self.id


Parse = Callable[[str, Any], Row]  # the id of a row, and what the file has of it


def read_records(path: Path, records: Iterable[Any], parse: Parse) -> tuple[list[Row], list[Dropped]]:
    """Rows of a file, each with an id made of the file's name and its place there; what is no row is dropped."""
    rows, dropped = [], []
    name = path.name.removesuffix(".gz")
    for number, record in enumerate(records):
        place = f"{name}:{number}"
        try:
            if isinstance(record, BadRow):
                raise record
            rows.append(parse(place, record))
        except BadRow as bad:
            dropped.append(Dropped(place, bad.reason))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # whose messages quote the record
            dropped.append(Dropped(place, "malformed row"))
    return rows, dropped


def json_lines(path: Path) -> Iterator[Mapping | BadRow]:
    """Objects of JSON Lines; blank lines are none."""
    for _, line in read_lines(path):
        if isinstance(line, BadLine):
            yield BadRow("no text")
        elif line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield BadRow("malformed line")


def json_list(path: Path) -> list:
    """The one list of a JSON file.

    Raises:
        AssetError: it holds none.
    """
    try:
        found = json.loads(read_content(path))
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path} is no JSON; get it again") from error
    if not isinstance(found, list):
        raise AssetError(f"{path} holds no list of rows; get it again")
    return found


def text_of(record: Mapping[str, Any], key: str) -> str:
    """A text, cleaned; one that is empty or missing makes a bad row."""
    value = record.get(key)
    if not isinstance(value, str) or not (text := clean_text(value)):
        raise BadRow(f"no {key}")
    if INVALID.search(text):
        raise BadRow("invalid text")
    return text


def fields_of(record: Mapping[str, Any], **keys: str) -> tuple[tuple[str, str], ...]:
    """Fields by the keys that a record has them under: ``claim="sentence"``."""
    return tuple((name, text_of(record, key)) for name, key in keys.items())


def place_of(answers: tuple[str, ...], label: object) -> int:
    """Where a label is among the labels of a set; any other makes a bad row."""
    if label not in answers:
        raise BadRow("another label")
    return answers.index(label)


def beginning(text: str, words: int = 6) -> str:
    """The first words: twins, which differ in a word further on, share them."""
    return " ".join(normalise_text(text).split()[:words])
