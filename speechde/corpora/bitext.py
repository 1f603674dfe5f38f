"""Machine-translation pairs with English, read from mined or collected bitext by streaming.

Layouts, each plain or gzip-compressed:

- WikiMatrix (Schwenk et al. 2019, arXiv 1907.05791), ``WikiMatrix.<a>-<b>.tsv.gz``: margin score, text of ``a``, text
  of ``b``. The two codes are in alphabetical order, so English is on either side (``de-en`` but ``en-fr``) and the name
  says which. Lines are sorted by falling score. Its authors recommend a threshold of 1.04 for most language pairs.
  The data are CC BY-SA.
- Two-column TSV: text, English; ``.en-<b>.`` in the name swaps the columns. Plain, or quoted as pandas and
  spreadsheets do (``speechde.text``); WikiMatrix has no quoting.
- Moses: two files aligned by line, ``name.<xx>`` and ``name.en``.

A limit keeps the pairs with the smallest hash of seed and content (bottom-k sampling; Cohen and Kaplan 2007). Unlike a
reservoir or the head of the file, that sample depends neither on the order of the lines nor on their scores, and equal
pairs meet in it, so that memory is bounded by the limit.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar
from unicodedata import east_asian_width

from speechde.corpora.manifest import clean_text
from speechde.errors import ConfigError, DataError
from speechde.languages import get, resolve
from speechde.text import CHARACTER_LANGS, BadLine, normalise_text, read_lines, read_rows

ENGLISH = "en_us"
_END = object()
_Row = tuple[float | None, str, str]
_Read = TypeVar("_Read")
_TSV_NAME = re.compile(r"(?:.*\.)?([a-z_]+)-([a-z_]+)\.tsv")
# Width of an average word where words are not separated: on some 200 translated sentences each, Thai and Khmer take 4
# characters per English word, Japanese and Chinese 2.2 and 1.4 characters of two columns.
_COLUMNS_PER_WORD = 4
_FIRST_WIDE = "\u1100"


@dataclass(frozen=True, slots=True)
class TextPair:
    """A sentence of ``lang`` (FLEURS code) and its English; ``score`` is the margin, ``source`` is ``FILE:LINE``."""

    lang: str
    text: str
    english: str
    score: float | None
    source: str


@dataclass
class Bitext:
    """Pairs in an order fixed by seed and content, and how many lines each reason dropped; both sum to all lines."""

    pairs: list[TextPair]
    dropped: dict[str, int]

    def counts(self) -> dict:
        """What ``metrics.json`` says of them."""
        by_language = dict(Counter(pair.lang for pair in self.pairs))
        return {"pairs": len(self.pairs), "by language": by_language, "dropped": self.dropped}


def find_bitext(root: str | Path, lang: str) -> list[Path]:
    """Files of a folder that pair ``lang`` with English, by their names alone; sorted.

    Raises ``DataError`` when there is no such folder.
    """
    root, lang = Path(root), resolve(lang)
    if not root.is_dir():
        raise DataError(f"bitext folder {root} does not exist")
    return [path for path in sorted(root.iterdir()) if path.is_file() and _pairs_with_english(path, lang)]


def _pairs_with_english(path: Path, lang: str) -> bool:
    if match := _TSV_NAME.fullmatch(_plain(path.name)):
        return {_code(tag) for tag in match.groups()} == {lang, ENGLISH}
    return _code(_plain(path.name).rpartition(".")[2]) == lang and bool(_english_sides(path))


def read_bitext(
    path: str | Path,
    lang: str,
    *,
    min_score: float = 1.04,
    min_words: int = 3,
    max_words: int = 100,
    max_ratio: float = 3.0,
    limit: int | None = None,
    seed: int = 0,
    exclude: Iterable[str] = (),
) -> Bitext:
    """Read the pairs of ``lang`` and English from a file; see the module for layouts.

    ``path`` is a ``.tsv`` file or the Moses file of ``lang``, with ``.gz`` or without. Pairs that score below
    ``min_score`` are dropped, where the file has scores. Each side has ``min_words`` to ``max_words`` words, estimated
    from the width in languages written without spaces. The wider side is at most ``max_ratio`` times as wide as the
    other; width counts characters other than spaces, East Asian wide ones twice (Unicode UAX 11), which makes scripts
    comparable. ``exclude`` holds texts of dev and test sets: a pair with one of them on either side, compared as
    ``normalise_text`` gives it, is never used. Of equal pairs the best-scored one stays. ``limit`` bounds pairs and
    memory; a repeat of a pair outside the sample counts as "over the limit".

    Raises ``ConfigError`` for an impossible setting; ``DataError`` when the file is missing or damaged, names other
    languages, has unequal Moses sides, or no pair is left.
    """
    path, lang = Path(path), resolve(lang)
    if lang == ENGLISH:
        raise ConfigError("bitext language en_us: English is the other side; give the language it is paired with")
    if not 1 <= min_words <= max_words:
        raise ConfigError(f"bitext min_words={min_words}, max_words={max_words}: need 1 <= min_words <= max_words")
    if not max_ratio >= 1:
        raise ConfigError(f"bitext max_ratio={max_ratio}: the longer side by the shorter one is at least 1")
    if limit is not None and limit < 1:
        raise ConfigError(f"bitext limit={limit}: give a positive number, or None for all pairs")
    excluded = {normalise_text(text) for text in exclude}
    sample = _Sample(limit, seed)
    dropped: Counter[str] = Counter()
    for number, row in _rows(path, lang):
        if isinstance(row, str):
            dropped[row] += 1
            continue
        score, text, english = row[0], clean_text(row[1]), clean_text(row[2])
        reason = "below score" if score is not None and score < min_score else None
        reason = reason or _bad_length(text, english, lang, min_words, max_words, max_ratio)
        if reason is None and text.casefold() == english.casefold():
            reason = "identical sides"
        if reason is None and excluded and not excluded.isdisjoint(map(normalise_text, (text, english))):
            reason = "held out"
        reason = reason or sample.add(TextPair(lang, text, english, score, f"{path.name}:{number}"))
        if reason is not None:
            dropped[reason] += 1
    if not sample.kept:
        counts = ", ".join(f"{reason} ({n})" for reason, n in dropped.most_common()) or "it has no lines"
        raise DataError(f"bitext {path} has no usable pair: {counts}")
    return Bitext([pair for _, pair in sorted(sample.kept.items())], dict(dropped.most_common()))


class _Sample:
    """The ``limit`` different pairs with the smallest keyed hashes."""

    def __init__(self, limit: int | None, seed: int) -> None:
        self.limit, self.key = limit, str(seed).encode()
        self.kept: dict[bytes, TextPair] = {}
        self._largest: list[int] = []  # negated hashes: the root is the largest

    def add(self, pair: TextPair) -> str | None:
        """Offer a pair; the reason why this or an earlier one is dropped, if any is."""
        name = blake2b(f"{pair.text}\n{pair.english}".encode(), digest_size=16, key=self.key).digest()
        if (known := self.kept.get(name)) is not None:
            if pair.score is not None and pair.score > known.score:
                self.kept[name] = pair
            return "duplicate"
        self.kept[name] = pair
        if self.limit is None:
            return None
        heappush(self._largest, -int.from_bytes(name, "big"))
        if len(self.kept) <= self.limit:
            return None
        del self.kept[(-heappop(self._largest)).to_bytes(16, "big")]
        return "over the limit"


def _rows(path: Path, lang: str) -> Iterator[tuple[int, _Row | str]]:
    """Number and ``(score, text, English)`` of every line, or the reason why it is none."""
    if _plain(path.name).endswith(".tsv"):
        return _tsv_rows(path, _english_column(path, lang))
    return _moses_rows(path, _english_file(path, lang))


def _tsv_rows(path: Path, english: int) -> Iterator[tuple[int, _Row | str]]:
    scored = path.name.startswith("WikiMatrix.")
    for number, fields in _whole(path, read_rows(path, quoting=False if scored else None)):
        if isinstance(fields, BadLine):
            yield number, fields.reason
            continue
        if len(fields) != 2 + scored:
            yield number, "wrong column count"
            continue
        try:
            score = float(fields[0]) if scored else None
        except ValueError:
            score = math.nan
        if score is not None and not math.isfinite(score):
            yield number, "bad score"
        else:
            yield number, (score, fields[scored + 1 - english], fields[scored + english])


def _moses_rows(path: Path, english: Path) -> Iterator[tuple[int, _Row | str]]:
    both = (_whole(side, read_lines(side)) for side in (path, english))
    for number, found in enumerate(zip_longest(*both, fillvalue=(0, _END)), 1):
        sides = [line for _, line in found]
        if _END in sides:
            longer = (path, english)[sides[0] is _END]
            raise DataError(
                f"bitext {path} and {english} are not aligned: line {number} exists only in {longer.name}; "
                f"get both files again"
            )
        bad = [side.reason for side in sides if isinstance(side, BadLine)]
        yield number, bad[0] if bad else (None, *sides)


def _whole(path: Path, lines: Iterator[_Read]) -> Iterator[_Read]:
    """What a reader gives, with a missing or damaged file as a ``DataError``."""
    try:
        yield from lines
    except FileNotFoundError as error:
        raise DataError(f"bitext {path} does not exist") from error
    except PermissionError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"bitext {path} cannot be read ({error}); get the file again") from error


def _plain(name: str) -> str:
    return name.removesuffix(".gz")


def _english_column(path: Path, lang: str) -> int:
    """0 or 1, whichever text column is English."""
    match = _TSV_NAME.fullmatch(_plain(path.name))
    codes = [_code(tag) for tag in match.groups()] if match else []
    if not match or (None in codes and ENGLISH not in codes and not path.name.startswith("WikiMatrix.")):
        return 1  # the name says nothing about languages
    if sorted(map(str, codes)) != sorted((lang, ENGLISH)):
        raise DataError(
            f"bitext {path.name} pairs {match[1]} with {match[2]}, wanted {lang} with English; "
            f"give the file of {get(lang).name} and English"
        )
    return codes.index(ENGLISH)


def _english_file(path: Path, lang: str) -> Path:
    """The English side of a Moses pair."""
    stem, _, tag = _plain(path.name).rpartition(".")
    if not stem or _code(tag) != lang:
        raise DataError(
            f"bitext {path.name}: neither .tsv nor the {lang} side of a Moses pair. "
            f"Names: WikiMatrix.<a>-<b>.tsv.gz, <name>.tsv, or <name>.<xx> beside <name>.en; each with or without .gz"
        )
    if not (found := _english_sides(path)):
        raise DataError(f"bitext {path}: its English side {stem}.en or {stem}.en.gz is not beside it")
    return found[0]


def _english_sides(path: Path) -> list[Path]:
    stem = _plain(path.name).rpartition(".")[0]
    beside = (path.with_name(f"{stem}.en{suffix}") for suffix in ("", ".gz"))
    return [side for side in beside if stem and side.is_file()]


def _code(tag: str) -> str | None:
    try:
        return resolve(tag)
    except ConfigError:
        return None


def _bad_length(text: str, english: str, lang: str, min_words: int, max_words: int, max_ratio: float) -> str | None:
    widths = _columns(text), _columns(english)
    words = widths[0] / _COLUMNS_PER_WORD if lang in CHARACTER_LANGS else text.count(" ") + bool(text)
    counts = words, english.count(" ") + bool(english)
    if min(counts) < min_words:
        return "too short"
    if max(counts) > max_words:
        return "too long"
    return "length ratio" if max(widths) > max_ratio * min(widths) else None


def _columns(text: str) -> int:
    length = len(text) - text.count(" ")
    if not text or max(text) < _FIRST_WIDE:
        return length
    return length + sum(east_asian_width(character) in "WF" for character in text)
