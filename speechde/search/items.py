"""What the arguments of a command name: clips and texts, from files, folders, patterns, manifests and standard input.

| argument | gives |
| --- | --- |
| a folder | every audio file below it |
| a pattern (``clips/*.ogg``, ``**`` too) | what each match gives |
| ``.tsv``, ``.jsonl``, ``.parquet`` | the clips of a manifest (or its texts) |
| ``.txt`` | a text a line |
| ``-`` | a text a line, from standard input |
| any other file | a clip |
| anything else | the argument itself, as a text |

A name that looks like a file and is none is an error, and not a text.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speechde.data import manifest
from speechde.errors import DataError
from speechde.types import Dropped

SPEECH, TEXT = "speech", "text"
# what a folder is searched for; libsndfile decodes nothing from .amr on: it is there to be counted, not passed over
AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
         ".rf64", ".sph", ".amr", ".m4a", ".aac", ".mp4", ".webm", ".wma")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to embed; ``audio`` is None for a text, and ``text`` is None for a clip without a transcript."""

    id: str
    language: str | None
    text: str | None
    audio: str | None

    @property
    def kind(self) -> str:
        """``speech`` or ``text``."""
        return TEXT if self.audio is None else SPEECH


def collect(
    arguments: Sequence[str], language: str | None = None, *, texts: bool = False, stdin: BinaryIO | None = None
) -> tuple[list[Item], list[Dropped]]:
    """The items that ``arguments`` name, in order, and what was left out.

    What is named twice is taken once.

    Args:
        language: FLEURS code of all of them; None takes that of a manifest's rows, and no language elsewhere.
        texts: take the texts of a manifest, and not its clips.
        stdin: what ``-`` reads.

    Raises:
        DataError: an argument that names nothing, two items of one id, or nothing at all.
    """
    dropped: list[Dropped] = []
    items: dict[str, Item] = {}
    for number, argument in enumerate(arguments, 1):
        for item in _named(argument, number, language, texts, stdin, dropped):
            if items.setdefault(item.id, item) != item:
                raise DataError(f"two inputs have the id {item.id!r}; ids name one clip or text, so embed them apart")
    if not items:
        reasons = f" ({dropped[0].id}: {dropped[0].reason})" if dropped else ""
        raise DataError(f"there is nothing to embed in {', '.join(arguments) or 'no arguments'}{reasons}")
    return list(items.values()), dropped


def looks_like_file(argument: str) -> bool:
    """Whether an argument that names no file was meant to: by its suffix, or a path without spaces."""
    suffix = os.path.splitext(argument)[1].lower()
    path = os.sep in argument and not any(c.isspace() for c in argument)
    return path or suffix in (*AUDIO, ".txt", *manifest.SUFFIXES)


def _named(
    argument: str, number: int, language: str | None, texts: bool, stdin: BinaryIO | None, dropped: list[Dropped]
) -> Iterator[Item]:
    if argument == "-" and stdin is not None:
        yield from _lines(stdin, "stdin", language, dropped)
    elif os.path.isdir(argument):
        found = sorted(path for path in Path(argument).rglob("*") if path.suffix.lower() in AUDIO and path.is_file())
        if not found:
            raise DataError(f"{argument} holds no audio file; files end in {' '.join(AUDIO)}")
        yield from (_clip(str(path), language) for path in found)
    elif os.path.exists(argument):
        yield from _file(argument, language, texts, dropped)
    elif glob.has_magic(argument) and (found := sorted(glob.glob(argument, recursive=True))):
        for path in found:
            yield from _named(path, number, language, texts, None, dropped)
    elif looks_like_file(argument):
        what = "matches no file" if glob.has_magic(argument) else "does not exist"
        raise DataError(f"{argument} {what}; a text that looks like a path can be given on standard input (-)")
    else:
        yield from _lines([argument.encode("utf-8", "surrogateescape")], f"argument {number}", language, dropped)


def _file(path: str, language: str | None, texts: bool, dropped: list[Dropped]) -> Iterator[Item]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".txt":
        with open(path, "rb") as lines:
            yield from _lines(lines, path, language, dropped)
    elif suffix in manifest.SUFFIXES:
        corpus = manifest.read_manifest(path)
        dropped += corpus.dropped
        for u in corpus.utterances:
            yield Item(u.id, language or u.lang, u.text, None if texts else os.path.abspath(u.audio))
    else:
        yield _clip(path, language)


def _clip(path: str, language: str | None) -> Item:
    return Item(path, language, None, os.path.abspath(path))


def _lines(lines: Iterable[bytes], name: str, language: str | None, dropped: list[Dropped]) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        id_ = name if name.startswith("argument ") else f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            dropped.append(Dropped(id_, "not UTF-8", str(error)))
            continue
        if text.strip():
            yield Item(id_, language, text, None)
        else:
            dropped.append(Dropped(id_, "empty text"))
