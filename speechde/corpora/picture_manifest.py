"""A user's own pictures: one table with a row per picture and text, as files of training examples.

The formats are those of a manifest of clips (:mod:`speechde.corpora.manifest`): Parquet, JSON Lines or TSV. ``image``
and ``lang`` are required, and of ``text`` (a caption, or what is spoken) and ``audio`` at least one. ``split`` is
train, dev or test (default: train). ``image`` and ``audio`` are paths, relative to the table's folder or absolute, or
``CONTAINER::MEMBER``. Rows of one ``meaning`` are about one thing, without it rows of one picture are.

A manifest of clips is another table: what trains and is tested there is a recording and its transcript, and a picture
has neither. So pictures become what all tasks but speech are made of, a file for each way to ask, as the stamps do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from speechde.corpora.manifest import BadRow, check_file, check_text, clean_text, locate, read_table, text_value
from speechde.corpora.picture_rows import Row, examples_of
from speechde.corpora.pictures import Found, readable
from speechde.errors import ConfigError, DataError
from speechde.languages import resolve
from speechde.types import SPLITS, Dropped

COLUMNS = ("image", "lang", "text", "audio", "split", "meaning")
REQUIRED = COLUMNS[:2]


def read_pictures(path: str | Path) -> tuple[Found, list[Dropped]]:
    """The examples of a table by way to ask and split, and the rows and pictures that were left out.

    Raises:
        ConfigError: an unknown suffix.
        DataError: the table is missing or unreadable, lacks a required column, or has no usable row.
    """
    rows, dropped = _rows(Path(path))
    rows = _with_meanings(rows, Path(path).parent)
    usable, unusable = readable(dict.fromkeys((row.meaning, row.image) for row in rows))
    dropped += unusable
    last = {}  # what is held out stays out: of several splits a thing is in the last
    for row in rows:
        last[row.meaning] = max(last.get(row.meaning, row.split), row.split, key=SPLITS.index)
    kept = []
    for row in rows:
        if row.split != last[row.meaning]:
            dropped.append(Dropped(row.place, f"{row.split} picture is in {last[row.meaning]}", row.image))
        elif row.image in usable.get(row.meaning, ()):
            kept.append(row)
    if not kept:
        first = f"; first: {dropped[0].reason} at {dropped[0].id}" if dropped else ""
        raise DataError(f"{path} has no usable picture with a text or a clip{first}")
    return examples_of(kept), dropped


def _rows(path: Path) -> tuple[list[Row], list[Dropped]]:
    rows, dropped = [], []
    for place, row in read_table(path, REQUIRED, COLUMNS):
        try:
            if isinstance(row, BadRow):
                raise row
            rows.append(_row(place, row, str(path.parent)))
        except BadRow as bad:
            dropped.append(Dropped(place, bad.reason, bad.detail))
    return rows, dropped


def _with_meanings(rows: list[Row], folder: Path) -> list[Row]:
    """Rows without a meaning get that of another row of their file, however it spells the path, or else the file's."""
    meanings = {row.image: row.meaning for row in reversed(rows) if row.meaning}  # the first that is stated
    for row in rows:
        meanings.setdefault(row.image, f"picture {os.path.relpath(row.image, folder)}")
    return [replace(row, meaning=row.meaning or meanings[row.image]) for row in rows]


def _row(place: str, row: Mapping, folder: str) -> Row:
    value = {column: text_value(row, column) for column in COLUMNS}
    if missing := [column for column in REQUIRED if not value[column]]:
        raise BadRow("missing field", ", ".join(missing))
    if not (value["text"] or value["audio"]):
        raise BadRow("neither text nor audio", value["image"])
    try:
        lang = resolve(value["lang"])
    except ConfigError as error:
        raise BadRow("unknown language", value["lang"]) from error
    split = value["split"] or "train"
    if split not in SPLITS:
        raise BadRow("bad split", f"{split!r}; allowed: {', '.join(SPLITS)}")
    if text := clean_text(value["text"]):
        check_text(text)
    image, audio = (value[name] and locate(folder, value[name]) for name in ("image", "audio"))
    if audio:
        check_file(audio)
    return Row(place, image, lang, text, audio, split, value["meaning"])
