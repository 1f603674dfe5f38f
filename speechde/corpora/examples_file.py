"""Training examples that a user brings: queries, the items that answer them, and hard negatives, of any modality.

JSON Lines (UTF-8) with one object a line, or Parquet with one a row, in the same layout::

    {"query": {"parts": [{"text": "who wrote it?"}], "lang": "en"},
     "positive": {"parts": [{"text": "Ann did."}, {"audio": "ann.wav"}], "title": "Ann", "meaning": "doc 7", "id": "7"},
     "negatives": [{"parts": [{"text": "Nobody did."}]}],
     "stratum": "questions", "source": "recorded", "split": "train"}

``query`` and ``positive`` are required, and of an item its ``parts``, in reading order; a string stands for an item, or
a part, that is this text. ``audio`` and ``image`` are paths, relative to the file's folder or absolute, or
``CONTAINER::MEMBER``.
``lang`` is any tag that ``speechde.languages.resolve`` knows. Items of equal ``meaning``, in whatever language, are
never each other's negatives; without one an item means its content, so a document that answers two queries is not held
against either. ``stratum`` is what a batch has one of (default: the language of the query), ``source`` what shares of a
batch speak of, ``split`` is train unless it says dev or test. Null is the same as absent; other keys are ignored.

The file is read once, to check it, and then each example when it is asked for. Of JSON Lines memory holds where each
line starts; a Parquet file, which cannot be read by the row, is held as Arrow columns. A bad line is listed in
``dropped`` and skipped; a file without a usable one is an error. What is held out stays out: an example of train whose
query or positive is one of dev or test, as ``normalise_text`` gives it, is dropped. A positive with ``"shared": true``
is a label, or of a collection that all splits ask in (the intents of a classification), and is not held out.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechde.corpora.examples import SYNTHETIC
from speechde.corpora.leaks import LATER
from speechde.corpora.manifest import BadRow, check_file
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.languages import resolve
from speechde.text import normalise_text
from speechde.types import SPLITS, Audio, Dropped, Example, Image, Item, Part, Text, Utterance

SUFFIXES = (".jsonl", ".parquet")
MEDIA = {"audio": Audio, "image": Image}
PARTS = ("text", *MEDIA)
COLUMNS = ("query", "positive", "negatives", "stratum", "source", "split")
INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")  # tabs and line breaks belong to documents


class FileExamples(Sequence[Example]):
    """Examples of a file, each parsed when it is asked for; :func:`read_examples` makes them.

    ``strata``, ``sources`` and ``splits`` are those of each example, ``spoken`` whether it has a clip and ``pictured``
    a picture, so that nobody parses text to look for them; ``dropped`` lists what was left out of the file.
    """

    def __init__(
        self, rows: _Lines | _Table, index: np.ndarray, labels: Sequence[Sequence], dropped: list[Dropped]
    ) -> None:
        self._rows, self._index, self._labels, self.dropped = rows, index, labels, dropped
        self.strata, self.sources, self.splits, self.spoken, self.pictured = labels
        self.path = rows.path

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Example:
        return _example(self._rows[int(self._index[index])], self.path.parent)

    def select(self, split: str) -> FileExamples:
        """The examples of a split, in their order; there may be none."""
        if split not in SPLITS:
            raise unknown_value("split", split, SPLITS)
        return self.subset(np.flatnonzero(np.array(self.splits, dtype=str) == split))

    def clips(self) -> list[Utterance]:
        """Every clip once, as what features are extracted of; its ``id`` is its locator, ``Audio.content``."""
        found: dict[str, Utterance] = {}
        for row in (row for row, spoken in enumerate(self.spoken) if spoken):
            for audio, lang in clips_of(self[row]):
                found.setdefault(audio, _clip(audio, lang, self.splits[row], self.sources[row]))
        return list(found.values())

    def pictures(self) -> list[str]:
        """The locator of every picture once: ``Image.content``."""
        rows = (row for row, pictured in enumerate(self.pictured) if pictured)
        return list(dict.fromkeys(picture for row in rows for picture in pictures_of(self[row])))

    def held_out_names(self) -> np.ndarray:
        """What each example must not share with another split ``(n, 2)``: query and positive, or the query alone."""
        found = [_held_out(self._rows[int(row)], self.path.parent) for row in self._index]
        return np.array(found, np.uint64).reshape(-1, 2)

    def without_leaks(self) -> FileExamples:
        """The examples less those of train (of dev) that are in dev or test (in test), which ``dropped`` lists then."""
        names = self.held_out_names()
        splits, kept = np.array(self.splits, dtype=str), np.ones(len(self), bool)
        for split, laters in LATER.items():
            for later in laters:
                held_out = names[splits == later].ravel()
                leaks = kept & (splits == split) & np.isin(names, held_out).any(axis=1)
                kept &= ~leaks
                reason = f"{split} text is in {later}"
                self.dropped += [Dropped(self._rows.place(self._index[row]), reason) for row in np.flatnonzero(leaks)]
        return self.subset(np.flatnonzero(kept))

    def subset(self, chosen: np.ndarray) -> FileExamples:
        """The examples of some places ``(n,)``; ``dropped`` goes on to be one list for both."""
        labels = [[values[row] for row in chosen] for values in self._labels]
        return FileExamples(self._rows, self._index[chosen], labels, self.dropped)


def read_examples(path: str | Path) -> FileExamples:
    """Check a file of examples and make them available; see the module for the layout.

    Raises:
        ConfigError: the suffix is none of ``SUFFIXES``.
        DataError: the file is missing, unreadable, or has no usable example.
    """
    rows = _open(Path(path))
    index, labels = array("q"), ([], [], [], [], [])
    known: dict[str, str] = {}  # one string for each label, however many examples have it
    dropped: list[Dropped] = []
    for number, (place, row) in enumerate(rows.scan()):
        try:
            if isinstance(row, BadRow):
                raise row
            example = _example(row, rows.path.parent)
            split = _split(row)
            _check(example)
        except BadRow as bad:
            dropped.append(Dropped(place, bad.reason, bad.detail))
            continue
        index.append(number)
        for values, label in zip(labels[:3], (example.stratum, example.source, split), strict=True):
            values.append(known.setdefault(label, label))
        labels[3].append(any(clips_of(example)))
        labels[4].append(any(pictures_of(example)))
    found = FileExamples(rows, np.array(index, np.int64), labels, dropped)
    kept = found.without_leaks() if set(labels[2]) - {"train"} else found
    if not len(kept):
        reasons = "; ".join(f"{d.id}: {d.reason} {d.detail}" for d in dropped[:3]) or "it is empty"
        raise DataError(f"{rows.path} has no usable example: {reasons}. docs/data.md describes the layout")
    return kept


def names(item: Item) -> set[int | str]:
    """What an item is known by: its content and its meaning, up to case, punctuation and spaces."""
    return {_name(item), _meant(item)}


def answers(example: Example) -> set[int | str]:
    """The ``names`` that no hard negative of an example may have."""
    return {_name(example.positive), *map(_meant, (example.query, example.positive))}


def is_examples_file(path: str | Path) -> bool:
    """Whether a file has examples rather than clips: its first line, or its columns, have a query and a positive."""
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        return False
    rows = _open(path)
    columns = rows.columns if isinstance(rows, _Table) else next((row for _, row in rows.scan()), {})
    return isinstance(columns, Mapping | list) and {"query", "positive"} <= set(columns)


def _open(path: Path) -> _Lines | _Table:
    kinds = {".jsonl": _Lines, ".parquet": _Table}
    if path.suffix not in kinds:
        raise unknown_value("suffix of an examples file", path.suffix, SUFFIXES, "Decompress it where it is packed.")
    if not path.is_file():
        raise DataError(f"examples file {path} does not exist; give the path of a .jsonl or .parquet file")
    return kinds[path.suffix](path)


class _Lines:
    """Objects of JSON Lines: where each line starts. No file stays open, so that processes and threads can share it."""

    def __init__(self, path: Path) -> None:
        self.path, self._starts, self._numbers = path, array("q"), array("q")

    def place(self, number: int) -> str:
        """Where the i-th object is, for people."""
        return f"line {self._numbers[number]}"

    def scan(self) -> Iterator[tuple[str, dict | BadRow]]:
        """Place and object of every line that is not blank, or why it is none; ``[i]`` gives the i-th afterwards."""
        start, self._starts, self._numbers = 0, array("q"), array("q")
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    self._starts.append(start)
                    self._numbers.append(number)
                    yield f"line {number}", _object(raw)
                start += len(raw)

    def __getitem__(self, number: int) -> dict:
        with self.path.open("rb") as file:
            file.seek(self._starts[number])
            row = _object(file.readline())
        if isinstance(row, BadRow):
            raise DataError(f"{self.path} was changed while it was used ({row.reason}: {row.detail}); start again")
        return row


def _object(raw: bytes) -> dict | BadRow:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", str(error))
    except (ValueError, RecursionError) as error:
        return BadRow("malformed line", str(error))
    return row if isinstance(row, dict) else BadRow("malformed line", "not a JSON object")


class _Table:
    """Rows of a Parquet file, as Arrow columns in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                self.columns = [name for name in COLUMNS if name in file.schema_arrow.names]
                self._batches = list(file.iter_batches(columns=self.columns))
        except PermissionError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"examples file {path} is not a readable Parquet file: {error}") from error
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def place(self, number: int) -> str:
        """Where the i-th object is, for people."""
        return f"row {number + 1}"

    def scan(self) -> Iterator[tuple[str, dict]]:
        """Place and object of every row."""
        for number, row in enumerate(row for batch in self._batches for row in batch.to_pylist()):
            yield self.place(number), row

    def __getitem__(self, number: int) -> dict:
        which = bisect_right(self._ends, number)
        start = self._ends[which] - self._batches[which].num_rows
        return self._batches[which].slice(number - start, 1).to_pylist()[0]


def _example(row: Mapping[str, Any], folder: Path) -> Example:
    query, positive = (_item(row.get(side), folder, side) for side in ("query", "positive"))
    given = row.get("negatives") or []
    if not isinstance(given, list):
        raise BadRow("bad value", f"negatives is of type {type(given).__name__}; expected a list")
    negatives = tuple(_item(value, folder, "negatives") for value in given)
    stated = (_string(value, "meaning") for side in ("query", "positive") if isinstance(value := row[side], Mapping))
    return Example(
        query,
        positive,
        stratum=_string(row, "stratum") or query.lang or positive.lang or "",
        source=_string(row, "source"),
        also=tuple((None, meaning) for meaning in stated if meaning),
        negatives=negatives,
        shared=_is_shared(row),
    )


def _item(value: Any, folder: Path, side: str) -> Item:
    if isinstance(value, str):
        value = {"parts": [value]}
    if value is None:
        raise BadRow("missing field", side)
    if not isinstance(value, Mapping) or not isinstance(value.get("parts"), list) or not value["parts"]:
        raise BadRow("bad value", f'{side} is no item; expected a string or {{"parts": [{{"text": …}}, …]}}')
    parts = [_part(part, folder, side) for part in value["parts"]]
    tag = _string(value, "lang")
    try:
        lang = resolve(tag) if tag else None
    except ConfigError as error:
        raise BadRow("unknown language", tag) from error
    first_file = next((part.content for part in parts if not isinstance(part, Text)), "")
    return Item(
        *parts,
        id=_string(value, "id") or first_file,
        lang=lang,
        meaning=_string(value, "meaning") or "\n".join(part.content for part in parts),
        title=_string(value, "title"),
    )


def _part(value: Any, folder: Path, side: str) -> Part:
    given = {"text": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise BadRow("bad value", f"a part of {side} is of type {type(value).__name__}")
    given = {name: content for name, content in given.items() if content is not None}
    if len(given) != 1 or not given.keys() <= set(PARTS):
        names = ", ".join(given) or "nothing"
        raise BadRow("unknown modality", f"a part of {side} has {names}; allowed is one of {', '.join(PARTS)}")
    ((name, _),) = given.items()
    content = _string(given, name)
    if not content.strip():
        raise BadRow(f"empty {name}", side)
    if name in MEDIA:
        return MEDIA[name](str(folder / content))
    if INVALID.search(content):
        raise BadRow("invalid text", "a control or replacement character: the text was decoded wrongly")
    return Text(content)


def _string(row: Mapping[str, Any], key: str) -> str:
    """A value that is a string, or an id that is a whole number; empty where there is none."""
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow("bad value", f"{key} is of type {type(value).__name__}; expected a string")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise BadRow("invalid text", f"{key} has a lone surrogate") from error
    return str(value)


def _split(row: Mapping[str, Any]) -> str:
    split = _string(row, "split") or "train"
    if split not in SPLITS:
        raise BadRow("bad split", f"{split!r}; allowed: {', '.join(SPLITS)}")
    return split


def _check(example: Example) -> None:
    if example.negatives:
        answer = answers(example)
        for number, negative in enumerate(example.negatives, 1):
            if not answer.isdisjoint(names(negative)):
                raise BadRow("negative means the positive", f"negative {number}")
    for file in (*(clip for clip, _ in clips_of(example)), *pictures_of(example)):
        check_file(file)


def _meant(item: Item) -> str:
    return normalise_text(item.meaning) or item.meaning


def clips_of(example: Example) -> Iterator[tuple[str, str | None]]:
    """Locator and language of every clip of an example, hard negatives included."""
    for item in example.items:
        yield from ((part.content, item.lang) for part in item.parts if isinstance(part, Audio))


def pictures_of(example: Example) -> Iterator[str]:
    """Locator of every picture of an example, hard negatives included."""
    for item in example.items:
        yield from (part.content for part in item.parts if isinstance(part, Image))


def _clip(audio: str, lang: str | None, split: str, source: str) -> Utterance:
    return Utterance(audio, lang or "", "", audio, "", split, source=source, synthetic=source == SYNTHETIC)


def pair_name(example: Example) -> tuple[int, int]:
    """64 bits of the content of query and positive: examples that share both are repeats of each other."""
    return _name(example.query), _name(example.positive)


def _held_out(row: Mapping[str, Any], folder: Path) -> tuple[int, int]:
    """What an example must not share with another split: query and positive, or the query alone."""
    example = _example(row, folder)
    query, positive = pair_name(example)
    return query, query if example.shared else positive


def _is_shared(row: Mapping[str, Any]) -> bool:
    positive = row["positive"]
    shared = positive.get("shared") if isinstance(positive, Mapping) else None
    if not isinstance(shared, bool | None):
        raise BadRow("bad value", f"shared is of type {type(shared).__name__}; expected true or false")
    return bool(shared)


def _name(item: Item) -> int:
    """64 bits of the content of an item, as what is held out is compared."""
    content = "\0".join(f"{part.modality}\0{_plain(part)}" for part in item.parts)
    return int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "little")


def _plain(part: Part) -> str:
    return (normalise_text(part.content) if isinstance(part, Text) else "") or part.content
