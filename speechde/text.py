"""Text files as people have them, read line by line: the one reader of lines and of tab-separated rows.

Only LF and CRLF end a line: U+2028, U+0085 and the like belong to the text. The encoding is UTF-8, with or without a
byte order mark, or what a mark says: UTF-16 or UTF-32, as spreadsheets and PowerShell write it. A line that is no text
comes as a ``BadLine``, so that one among a million can be counted and passed over.

A row of tab-separated values is *plain* (a ``"`` is a character like any other) or *quoted* as pandas and spreadsheets
do: a field with a ``"``, a tab or a line break is put between quotation marks, and those within are doubled. Nothing in
a file says which. It is read as quoted when every field that holds a ``"`` is so; and in a file that is not, a single
field that has doubled ones between its quotation marks is freed of them.
"""

from __future__ import annotations

import codecs
import gzip
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

# UTF-32 comes first: its little-endian mark begins with that of UTF-16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_REPLACEMENT = "\ufffd"
_FIELD = r'(?:"(?:[^"]|"")*"|[^"\t]*)'
_QUOTED_ROW = re.compile(rf"{_FIELD}(?:\t{_FIELD})*")
_QUOTED_FIELD = re.compile(rf"(?:^|\t)({_FIELD})")
_LONGEST_ROW = 1000  # lines; a quotation mark that is not closed within them opened nothing
# FLEURS languages written without spaces between words: words cannot be counted, so characters are.
CHARACTER_LANGS = frozenset({"cmn_hans_cn", "ja_jp", "km_kh", "lo_la", "my_mm", "th_th", "yue_hant_hk"})


def normalise_text(text: str) -> str:
    """NFKC, case folded, Unicode punctuation (categories P*) removed, whitespace collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_NO_PUNCTUATION).split())


class _NoPunctuation(dict):
    """A table of ``str.translate``, filled as characters occur: two to eight times as fast as asking again."""

    def __missing__(self, code: int) -> int | None:
        self[code] = None if unicodedata.category(chr(code)).startswith("P") else code
        return self[code]


_NO_PUNCTUATION = _NoPunctuation()


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no text: ``reason`` to be counted, ``detail`` to be read."""

    reason: str
    detail: str


def read_lines(source: str | Path | Iterable[bytes]) -> Iterator[tuple[int, str | BadLine]]:
    """Number (from 1) and text of every line, without its end; blank lines too.

    ``source`` is a path (``.gz`` is decompressed), an open binary file, or lines of bytes; read as it comes.

    Raises:
        OSError, EOFError, zlib.error: the file cannot be opened or decompressed.
    """
    if isinstance(source, str | Path):
        with _open(Path(source)) as file:
            yield from _lines(file)
    else:
        yield from _lines(source)


def read_rows(path: str | Path, *, quoting: bool | None = None) -> Iterator[tuple[int, list[str] | BadLine]]:
    """Number of the first line and fields of every row of tab-separated values; a blank line is ``[""]``.

    ``quoting=False`` is for a format that has no quoting, and None finds out, by reading the file before. Raises as
    ``read_lines``.
    """
    if quoting is None and _is_quoted(path):
        for number, row in _joined(read_lines(path)):
            yield number, row if isinstance(row, BadLine) else [_freed(f) for f in _QUOTED_FIELD.findall(row)]
        return
    for number, line in read_lines(path):
        if isinstance(line, BadLine):
            yield number, line
        else:
            fields = line.split("\t")
            yield number, fields if quoting is False else [unquoted(f) if '""' in f[1:-1] else f for f in fields]


def unquoted(field: str) -> str:
    """The text of a field that is quoted, and any other field as it is.

    >>> unquoted('"A ""word"" in it."'), unquoted('"One," he said.')
    ('A "word" in it.', '"One," he said.')
    """
    inner = field[1:-1]
    quoted = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else field


def quoted(field: str) -> str:
    """A field as ``read_rows`` and pandas read it back: quoted where it holds a ``"``, a tab or a line break."""
    return '"' + field.replace('"', '""') + '"' if set(field) & set('"\t\r\n') else field


def storable(name: str) -> str:
    r"""A name of the file system as text that can be stored: bytes that are no UTF-8 are spelled ``\xff``.

    Python keeps such bytes as lone surrogates, which neither UTF-8 nor Parquet can hold.
    """
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _freed(field: str) -> str:
    return field[1:-1].replace('""', '"') if field.startswith('"') else field


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, str | BadLine]]:
    raw_lines = iter(file)
    first = next(raw_lines, b"")
    encoding = next((name for mark, name in _MARKS.items() if first.startswith(mark)), "utf-8")
    raw_lines = chain([first] if first else [], raw_lines)
    decode = _wide if encoding[:6] in ("utf-16", "utf-32") else _utf8
    for number, line in enumerate(decode(raw_lines, encoding), 1):
        if isinstance(line, str) and "\0" in line:
            yield number, BadLine("NUL character", "UTF-16 without a byte order mark, or no text; save it as UTF-8")
        else:
            yield number, line


def _utf8(raw_lines: Iterable[bytes], encoding: str) -> Iterator[str | BadLine]:
    for raw in raw_lines:
        try:
            yield raw.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield BadLine("not UTF-8", str(error))
        encoding = "utf-8"  # the mark is that of the first line


def _wide(raw_lines: Iterable[bytes], encoding: str) -> Iterator[str | BadLine]:
    """Lines of UTF-16 or UTF-32, whose bytes of a line feed may be part of another character."""
    decoder, rest = codecs.getincrementaldecoder(encoding)("replace"), ""
    for raw in chain(raw_lines, [None]):
        *lines, rest = (rest + decoder.decode(raw or b"", final=raw is None)).split("\n")
        lines += [rest] if raw is None and rest else []
        for line in lines:
            bad = _REPLACEMENT in line
            yield BadLine(f"not {encoding.upper()}", f"{line[:40]!r}") if bad else line.rstrip("\r")


def _is_quoted(path: str | Path) -> bool:
    """Whether a file has fields with a ``"``, and all of them are quoted."""
    with _open(Path(path)) as file:
        if not any(b'"' in block for block in iter(lambda: file.read(1 << 20), b"")):
            return False
    found = False
    for _, row in _joined(read_lines(path)):
        if isinstance(row, str) and '"' in row:
            if not _QUOTED_ROW.fullmatch(row):
                return False
            found = True
    return found


def _joined(lines: Iterable[tuple[int, str | BadLine]]) -> Iterator[tuple[int, str | BadLine]]:
    """Lines joined to rows where a quoted field goes on in the next; a row with a bad line is bad."""
    parts: list[str] = []
    start, opened, bad = 0, False, None
    for number, line in lines:
        if not opened:
            parts, start, bad = [], number, None
        if isinstance(line, BadLine):
            bad = line
        else:
            parts.append(line)
            opened ^= line.count('"') % 2 == 1
        if not opened or len(parts) > _LONGEST_ROW:
            yield start, bad or "\n".join(parts)
            opened = False
    if opened:
        yield start, bad or "\n".join(parts)
