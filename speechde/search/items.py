r"""What the arguments of a command name: clips, pictures and texts, from files, folders, patterns and standard input.

| argument | gives |
| --- | --- |
| a folder | every audio file and picture below it; what it passes over is listed, linked folders among it |
| a pattern (``clips/*.ogg``, ``**`` too) | what each match gives |
| ``.tsv``, ``.jsonl``, ``.parquet`` | the clips of a manifest (or its texts) |
| ``.txt`` | a text a line |
| ``-`` | a text a line, from standard input |
| any other file | a picture where its name ends as one, else a clip |
| anything else | the argument itself, as a text |

A name that looks like a file and is none is an error, and not a text: one with the suffix of one (``b.ogg``), and one
without spaces that starts or ends as a path does, is a pattern of one, or lies in a folder that is there. ``AC/DC`` is
a text. The id of a clip or picture is its name; bytes in it that are no UTF-8 are spelled ``\xff``.
"""

from __future__ import annotations

import glob
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speechde.corpora import manifest
from speechde.errors import DataError
from speechde.text import BadLine, read_lines, storable
from speechde.types import Dropped

SPEECH, TEXT, IMAGE = "speech", "text", "image"
# what a folder is searched for; libsndfile decodes nothing from .amr on: it is there to be counted, not passed over
AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64",
         ".rf64", ".sph", ".amr", ".m4a", ".aac", ".mp4", ".webm", ".wma")  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg")
PATH_STARTS = ("/", "./", "../", "~/")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to embed: a clip (``audio``), a picture (``image``), or a text, which has neither.

    ``text`` of a clip is its transcript, None where it has none.
    """

    id: str
    language: str | None
    text: str | None
    audio: str | None
    image: str | None = None

    @property
    def kind(self) -> str:
        """``speech``, ``image`` or ``text``."""
        return SPEECH if self.audio is not None else IMAGE if self.image is not None else TEXT

    @property
    def file(self) -> str | None:
        """The path or locator of a clip or a picture."""
        return self.image if self.audio is None else self.audio


def collect(
    arguments: Sequence[str],
    language: str | None = None,
    *,
    texts: bool = False,
    stdin: BinaryIO | None = None,
    only: str | None = None,
) -> tuple[list[Item], list[Dropped]]:
    """The items that ``arguments`` name, in order, and what was left out.

    What is named twice is taken once.

    Args:
        language: FLEURS code of all of them; None takes that of a manifest's rows, and no language elsewhere.
        texts: take the texts of a manifest, and not its clips.
        stdin: what ``-`` reads.
        only: ``TEXT`` takes every argument as a text, whatever it looks like, and ``SPEECH`` as the name of files.

    Raises:
        DataError: an argument that names nothing, two items of one id, or nothing at all.
    """
    dropped: list[Dropped] = []
    items: dict[str, Item] = {}
    for number, argument in enumerate(arguments, 1):
        if only == TEXT:
            found = _lines([os.fsencode(argument)], f"argument {number}", language, dropped)
        elif only == SPEECH and not _names_a_file(argument):
            raise DataError(f"{argument} names no file; leave --audio out to search for it as a text")
        else:
            found = _named(argument, number, language, texts, stdin, dropped)
        for item in found:
            if items.setdefault(item.id, item) != item:
                raise DataError(f"two inputs have the id {item.id!r}; ids name one clip or text, so embed them apart")
    if not items:
        reasons = f" ({dropped[0].id}: {dropped[0].reason})" if dropped else ""
        named = ", ".join(argument or "an empty argument" for argument in arguments) or "no arguments"
        raise DataError(f"there is nothing to embed in {named}{reasons}")
    return list(items.values()), dropped


def looks_like_file(argument: str) -> bool:
    """Whether an argument that names no file was meant to (see the module)."""
    if os.path.splitext(argument)[1].lower() in (*AUDIO, *PICTURES, ".txt", *manifest.SUFFIXES):
        return True
    if os.sep not in argument or any(c.isspace() for c in argument):
        return False
    path = argument.startswith(PATH_STARTS) or argument.endswith(os.sep) or glob.has_magic(argument)
    return path or os.path.isdir(os.path.dirname(argument))


def _names_a_file(argument: str) -> bool:
    return os.path.exists(argument) or bool(glob.has_magic(argument) and glob.glob(argument, recursive=True))


def _named(
    argument: str, number: int, language: str | None, texts: bool, stdin: BinaryIO | None, dropped: list[Dropped]
) -> Iterator[Item]:
    if argument == "-" and stdin is not None:
        yield from _lines(stdin, "stdin", language, dropped)
    elif os.path.isdir(argument):
        before = len(dropped)
        found = _below(argument, dropped)
        if not found:
            passed = "".join(f"; {item.id}: {item.reason}" for item in dropped[before : before + 3])
            raise DataError(
                f"{argument} holds no audio file or picture; files end in {' '.join((*AUDIO, *PICTURES))}{passed}"
            )
        yield from (_medium(path, language) for path in found)
    elif os.path.exists(argument):
        yield from _file(argument, language, texts, dropped)
    elif glob.has_magic(argument) and (found := sorted(glob.glob(argument, recursive=True))):
        for path in found:
            if os.path.exists(path):
                yield from _named(path, number, language, texts, None, dropped)
            else:
                dropped.append(Dropped(storable(path), "dangling link"))
    elif looks_like_file(argument):
        what = "matches no file" if glob.has_magic(argument) else "does not exist"
        raise DataError(
            f"{argument} {what}; a text that looks like a path can be given on standard input (-), or with --text to "
            "speechde search"
        )
    else:
        if os.sep in argument:
            log.info("%r names no file and is taken as a text", argument)
        yield from _lines([os.fsencode(argument)], f"argument {number}", language, dropped)


def _below(folder: str, dropped: list[Dropped]) -> list[str]:
    """The audio files and pictures below a folder, in order; what is passed over is listed, by suffix at last."""

    def unreadable(error: OSError) -> None:
        dropped.append(Dropped(storable(error.filename), "unreadable folder", error.strerror))

    found: list[str] = []
    others: dict[str, list[str]] = defaultdict(list)
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        for name in sorted(folders):
            if os.path.islink(path := os.path.join(parent, name)):
                dropped.append(Dropped(storable(path), "linked folder", "name it too, for what is in it"))
        for name in sorted(names):
            path, suffix = os.path.join(parent, name), os.path.splitext(name)[1].lower()
            if not os.path.exists(path):
                dropped.append(Dropped(storable(path), "dangling link"))
            elif suffix not in (*AUDIO, *PICTURES):
                others[suffix].append(path)
            elif os.path.isfile(path):
                found.append(str(Path(path)))
            else:
                dropped.append(Dropped(storable(path), "not a file"))
    for suffix, paths in sorted(others.items()):
        called = storable(os.path.join(folder, f"**/*{suffix}"))
        dropped.append(
            Dropped(called, "not a suffix of audio or pictures", f"{len(paths)} files, the first: {storable(paths[0])}")
        )
    return sorted(found, key=Path)


def _file(path: str, language: str | None, texts: bool, dropped: list[Dropped]) -> Iterator[Item]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".txt":
        yield from _lines(path, storable(path), language, dropped)
    elif suffix in manifest.SUFFIXES:
        corpus = manifest.read_manifest(path)
        dropped += corpus.dropped
        for u in corpus.utterances:
            yield Item(u.id, language or u.lang, u.text, None if texts else os.path.abspath(u.audio))
    else:
        yield _medium(path, language)


def _medium(path: str, language: str | None) -> Item:
    whole = os.path.abspath(path)
    if os.path.splitext(path)[1].lower() in PICTURES:
        return Item(storable(path), language, None, None, whole)
    return Item(storable(path), language, None, whole)


def _lines(source: str | Iterable[bytes], name: str, language: str | None, dropped: list[Dropped]) -> Iterator[Item]:
    for number, text in read_lines(source):
        id_ = name if name.startswith("argument ") else f"{name}:{number}"
        if isinstance(text, BadLine):
            dropped.append(Dropped(id_, text.reason, text.detail))
        elif text.strip():
            yield Item(id_, language, text, None)
        else:
            dropped.append(Dropped(id_, "empty text"))
