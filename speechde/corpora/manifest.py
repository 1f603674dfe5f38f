"""A user's own corpus: one table with a row per recording, as Parquet, JSON Lines or TSV (chosen by the suffix).

Columns ``id, lang, text, audio`` are required; ``audio`` is a path, relative to the manifest's folder or absolute, of
a file or of ``CONTAINER::MEMBER`` (``speechde.media.containers``).
``sentence_id, split, translation, speaker, source, synthetic, seconds`` are optional and other columns are ignored.
``lang`` may be any tag that ``speechde.languages.resolve`` knows. ``seconds`` saves the plan from reading headers; what
is decoded decides all else. TSV has a header row and tabs between fields; it is plain, or quoted as pandas and
spreadsheets do (``speechde.text``).

A bad row is listed in ``Corpus.dropped`` with its line and skipped; a manifest without one usable row is an error.
Audio files are only looked for here; they are decoded, and checked again, when they are used.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from speechde.cache import atomic_write
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.languages import resolve, resolve_roles
from speechde.media.containers import split_locator
from speechde.text import BadLine, normalise_text, quoted, read_lines, read_rows
from speechde.types import SPLITS, Corpus, Dropped, Utterance

SUFFIXES = (".parquet", ".jsonl", ".tsv")
REQUIRED = ("id", "lang", "text", "audio")
COLUMNS = tuple(field.name for field in fields(Utterance))
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\ufffd]")  # control characters (category Cc), and the replacement
_UNTIDY = re.compile(r"//|/$|(?:^|/)\.(?:/|$)")  # of a path: what pathlib leaves out
_FLAGS = {"": False, "false": False, "0": False, "true": True, "1": True}


class BadRow(Exception):
    """A row that is left out: ``reason`` and ``detail`` go to ``Dropped``."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail


def clean_text(text: str) -> str:
    """A transcript as it is stored: Unicode NFC, whitespace collapsed, ends stripped."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_manifest(
    path: str | Path,
    seen: Sequence[str] = (),
    zero_shot: Sequence[str] | None = None,
    split: str = "test",
    name: str | None = None,
) -> Corpus:
    """Read a manifest into a ``Corpus``.

    ``seen`` and ``zero_shot`` are language tags; with ``zero_shot=None`` every other language of the manifest is
    zero-shot, otherwise rows of further languages are dropped. ``split`` is for rows that name none. A row without
    ``sentence_id`` gets one from its language and normalised text, so that recordings of one transcript share it.

    Raises ``ConfigError`` for an unknown suffix, split or language, ``DataError`` when the file is missing or
    unreadable, lacks a required column, or has no usable row.
    """
    path = Path(path)
    if split not in SPLITS:
        raise unknown_value("split", split, SPLITS)
    seen_codes, zero_codes = resolve_roles(seen, zero_shot)
    utterances: list[Utterance] = []
    dropped: list[Dropped] = []
    ids: set[str] = set()
    folder = str(path.parent)
    for place, row in read_table(path):
        try:
            if isinstance(row, BadRow):
                raise row
            utterance = _utterance(row, folder, split)
            if utterance.id in ids:
                raise BadRow("duplicate id")
            if zero_codes is not None and utterance.lang not in seen_codes + zero_codes:
                raise BadRow("language not used", utterance.lang)
        except BadRow as bad:
            row_id = row.get("id") if isinstance(row, dict) else None
            dropped.append(Dropped(str(row_id or place), bad.reason, f"{place}: {bad.detail}" if bad.detail else place))
            continue
        ids.add(utterance.id)
        utterances.append(utterance)
    corpus = Corpus(name or path.stem, utterances, seen_codes, zero_codes or (), dropped)
    if not utterances:
        counts = ", ".join(f"{reason} ({n})" for reason, n in corpus.dropped_counts().items()) or "no rows at all"
        first = f" First: {dropped[0].reason} at {dropped[0].detail}." if dropped else ""
        raise DataError(f"manifest {path} has no usable row: {counts}.{first}")
    if zero_codes is None:
        corpus.zero_shot = tuple(sorted({u.lang for u in utterances} - set(seen_codes)))
    return corpus


def write_manifest(utterances: Iterable[Utterance], path: str | Path) -> Path:
    """Write all fields so that ``read_manifest`` gives the same utterances; the file appears whole or not at all.

    Audio paths under the manifest's folder are stored relative to it. Raises ``ConfigError`` for an unknown suffix
    and ``DataError`` for a TSV field that holds a tab or a line break.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise unknown_value("manifest suffix", path.suffix, SUFFIXES)
    folder = path.parent.absolute()
    rows = []
    for utterance in utterances:
        audio = Path(utterance.audio).absolute()
        audio = audio.relative_to(folder) if audio.is_relative_to(folder) else audio
        rows.append({**asdict(utterance), "audio": audio.as_posix()})
    with atomic_write(path) as part:
        if path.suffix == ".parquet":
            kinds = {"synthetic": pa.bool_(), "seconds": pa.float64()}
            schema = pa.schema([(column, kinds.get(column, pa.string())) for column in COLUMNS])
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
        elif path.suffix == ".jsonl":
            part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        else:
            lines = ["\t".join(COLUMNS), *(_tsv_line(row) for row in rows)]
            part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def _tsv_line(row: dict) -> str:
    values = ["" if row[column] is None else str(row[column]) for column in COLUMNS]
    for column, value in zip(COLUMNS, values, strict=True):
        if set(value) & set("\t\n\r"):
            raise DataError(f"utterance {row['id']!r}: {column} has a tab or line break; use .jsonl or .parquet")
    return "\t".join(map(quoted, values))


def read_table(
    path: Path, required: Sequence[str] = REQUIRED, columns: Sequence[str] = COLUMNS
) -> Iterator[tuple[str, dict | BadRow]]:
    """Yield ``("line 3", row)``, or the reason why that line is no row.

    Args:
        required: columns that a TSV or Parquet file must have; of JSON Lines each row says what it has.
        columns: those that are read of a Parquet file.

    Raises:
        ConfigError: an unknown suffix.
        DataError: the file is missing or unreadable, or lacks a required column.
    """
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".tsv": _read_tsv}
    if path.suffix not in readers:
        raise unknown_value("manifest suffix", path.suffix, SUFFIXES)
    if not path.is_file():
        raise DataError(f"manifest {path} does not exist; give the path of a .parquet, .jsonl or .tsv file")
    return readers[path.suffix](path, required, columns)


def _read_parquet(path: Path, required: Sequence[str], columns: Sequence[str]) -> Iterator[tuple[str, dict | BadRow]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if b"speechde" in (file.schema_arrow.metadata or {}):
                raise DataError(f"{path} holds vectors, not clips or texts: speechde embed wrote it; index or mine it")
            _require_columns(path, names, required)
            number = 0
            for batch in file.iter_batches(columns=[column for column in columns if column in names]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"manifest {path} is not a readable Parquet file: {error}") from error


def _read_jsonl(path: Path, *_: Sequence[str]) -> Iterator[tuple[str, dict | BadRow]]:
    for number, line in read_lines(path):
        place = f"line {number}"
        if isinstance(line, BadLine):
            yield place, BadRow(line.reason, line.detail)
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield place, BadRow("malformed line", str(error))
                continue
            yield place, row if isinstance(row, dict) else BadRow("malformed line", "not a JSON object")


def _read_tsv(path: Path, required: Sequence[str], _: Sequence[str]) -> Iterator[tuple[str, dict | BadRow]]:
    rows = read_rows(path)
    _, names = next(rows, (0, []))
    if isinstance(names, BadLine):
        raise DataError(f"manifest {path}: the header is no text ({names.reason}: {names.detail})")
    _require_columns(path, names, required)
    for number, values in rows:
        place = f"line {number}"
        if isinstance(values, BadLine):
            yield place, BadRow(values.reason, values.detail)
        elif len(values) == len(names):
            yield place, dict(zip(names, values, strict=True))
        elif any(map(str.strip, values)):
            yield place, BadRow("malformed line", f"{len(values)} fields, the header has {len(names)}")


def _require_columns(path: Path, names: Sequence[str], required: Sequence[str]) -> None:
    if missing := [column for column in required if column not in names]:
        raise DataError(
            f"manifest {path} lacks the columns {', '.join(missing)}; it has {', '.join(names) or 'none'}. "
            f"Required: {', '.join(required)}."
        )


def _utterance(row: dict, folder: str, default_split: str) -> Utterance:
    value = {column: text_value(row, column) for column in COLUMNS}
    if missing := [column for column in REQUIRED if not value[column]]:
        raise BadRow("missing field", ", ".join(missing))
    text = clean_text(value["text"])
    check_text(text)
    try:
        lang = resolve(value["lang"])
    except ConfigError as error:
        raise BadRow("unknown language", value["lang"]) from error
    split = value["split"] or default_split
    if split not in SPLITS:
        raise BadRow("bad split", f"{split!r}; allowed: {', '.join(SPLITS)}")
    if value["synthetic"].lower() not in _FLAGS:
        raise BadRow("bad value", f"synthetic is {value['synthetic']!r}; allowed: true, false")
    seconds = _seconds(value["seconds"])
    audio = locate(folder, value["audio"])
    check_file(audio)
    digest = hashlib.sha256(normalise_text(text).encode()).hexdigest()[:16]
    return Utterance(
        id=value["id"],
        lang=lang,
        text=text,
        audio=audio,
        sentence_id=value["sentence_id"] or f"{lang}:{digest}",
        split=split,
        speaker=value["speaker"],
        translation=clean_text(value["translation"]),
        source=value["source"],
        synthetic=_FLAGS[value["synthetic"].lower()],
        seconds=seconds,
    )


def _seconds(text: str) -> float | None:
    """A length; None where the field is empty, or NaN as data frames write an empty field."""
    try:
        seconds = float(text or "nan")
    except ValueError:
        seconds = -1.0
    if seconds <= 0 or math.isinf(seconds):
        raise BadRow("bad value", f"seconds is {text!r}; expected a positive number")
    return None if math.isnan(seconds) else seconds


def text_value(row: dict, column: str) -> str:
    """A field as a string, empty where it is absent; raises ``BadRow`` for what can be none."""
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        # Typed formats may store ids as integers, the flag as a boolean, seconds as a number; nothing else is meant.
        kinds = {"text": (), "seconds": int | float}.get(column, int)
        if not isinstance(value, kinds) or (column == "seconds" and isinstance(value, bool)):
            raise BadRow("bad value", f"{column} is of type {type(value).__name__}; expected a string")
        value = str(value)
    value = value.strip()
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow("bad value", f"{column} has a lone surrogate") from error
    return value


def check_text(text: str) -> None:
    """Raise ``BadRow`` for a text that was decoded wrongly, or that says nothing."""
    if _UNREADABLE.search(text):
        raise BadRow("invalid text", "a control or replacement character: the text was decoded wrongly")
    if not any(character.isalnum() for character in text):
        raise BadRow("invalid text", f"{text!r} has no letter or digit")


def check_file(audio: str) -> None:
    """Raise ``BadRow`` where neither the file nor, of a locator, its container is there."""
    if not os.path.isfile(audio) and not os.path.isfile((split_locator(audio) or (audio,))[0]):
        raise BadRow("missing file", audio)


def locate(folder: str, name: str) -> str:
    """``str(Path(folder) / name)``; pathlib, a tenth of all reading, is left out where it has nothing to tidy."""
    if _UNTIDY.search(name):
        return str(Path(folder) / name)
    return os.path.join("" if folder == "." else folder, name)
