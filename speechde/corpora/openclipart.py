"""Open Clip Art: some 7,500 drawings in the public domain, with the titles and keywords in them.

The drawings are the SVG files of the Debian package openclipart-svg; the links among them are other names of the same
file and are passed over. A title is ``dc:title`` of the drawing, in the language that ``dc:language`` states, which is
English nearly always, also where the title is Italian. Many titles say nothing of what is drawn: those that ten or more
drawings have are of a collection, and those that begin with "Clipart by" name their author and often another drawing.
Numbers at the end of a title are dropped.

In train a drawing has two texts: its title, and its title with its keywords (``dc:subject``). In dev and test it has
its title. The split is by title. As emoji they are for training before the stamps, so a drawing is left out when its
title or a keyword of it is a text of a stamp of dev or test, in any language, with or without its article.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from speechde.cache import atomic_directory, fingerprint
from speechde.corpora import debian, stamps
from speechde.corpora.manifest import clean_text
from speechde.corpora.picture_rows import Row, examples_of
from speechde.corpora.pictures import Found, readable
from speechde.errors import ConfigError, DataError
from speechde.languages import resolve
from speechde.media.image import VERSION as DRAWN
from speechde.media.image import ImageError, read_image
from speechde.progress import progress
from speechde.text import normalise_text
from speechde.types import Dropped

PACKAGE = "openclipart-svg"
VERSION = "1:0.18+dfsg-19"
SHA256 = "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"
LICENCE = "public domain"
FRACTIONS = (0.9, 0.05, 0.05)
DRAWINGS = PurePosixPath("usr/share/openclipart/svg")
COLLECTION = 10  # drawings that share a title which is of none of them
_COPYRIGHT = PurePosixPath("usr/share/doc") / PACKAGE / "copyright"
_NUMBERED = re.compile(r"[\s_.#-]*\d+$")
_WORD = re.compile(r"[^\W\d_]{3}")
_AUTHOR = "clipart by "
_NO_KEYWORDS = {"", "hash", "unsorted"}  # what is left of empty fields, and of a folder


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG file, by its path below ``DRAWINGS``, and what it says of itself; ``lang`` is as it is written there."""

    name: str
    title: str
    keywords: tuple[str, ...]
    lang: str


def find_drawings(archive: str | Path | None, cache_dir: str | Path, sha256: str | None = SHA256) -> Path:
    """The folder of the drawings, its package given, found or fetched as ``debian.find_archive`` does."""
    cache_dir = Path(cache_dir)
    path = debian.find_archive(PACKAGE, VERSION, sha256, archive, cache_dir / "downloads", "--archive")
    root = cache_dir / "corpora" / f"{PACKAGE}-{VERSION.partition(':')[2]}"
    return debian.unpack(path, root, _is_wanted, DRAWINGS) / DRAWINGS


def read_openclipart(
    folder: str | Path, cache_dir: str | Path, held_out: Iterable[str] = (), seed: int = 0
) -> tuple[Found, list[Dropped]]:
    """Examples of the drawings below ``folder`` by way to ask and split, and what was left out.

    Args:
        cache_dir: where the drawings are kept as PNG, drawn once.
        held_out: texts of any language, as ``emoji.held_out_texts`` gives them.

    Raises:
        AssetError: the extra ``images`` is not installed.
        DataError: no drawing is left.
    """
    drawings, dropped = _usable(*_read_drawings(Path(folder)), {normalise_text(text) for text in held_out})
    pictures, undrawn = _drawn(Path(folder), drawings, Path(cache_dir))
    things = {drawing.name: normalise_text(drawing.title) for drawing in drawings}
    found, unusable = readable((things[name], str(path)) for name, path in pictures.items())
    rows = []
    for drawing in drawings:
        thing = things[drawing.name]
        if str(picture := pictures.get(drawing.name)) in found.get(thing, ()):
            split = stamps.assign_split(thing, seed, FRACTIONS)
            texts = [drawing.title]
            if drawing.keywords and split == "train":
                texts.append(f"{drawing.title}: {', '.join(drawing.keywords)}")
            rows += [
                Row(drawing.name, str(picture), drawing.lang, text, "", split, f"drawing {thing}") for text in texts
            ]
    if not rows:
        raise DataError(f"{folder} has no drawing with a title that can be used")
    return examples_of(rows), [*dropped, *undrawn, *unusable]


def _read_drawings(folder: Path) -> tuple[list[Drawing], list[Dropped]]:
    drawings, dropped = [], []
    paths = sorted(folder.rglob("*.svg"))
    with progress("reading titles", len(paths), "drawings") as advance:
        for path in paths:
            name = path.relative_to(folder).as_posix()
            try:
                drawings.append(_described(name, path))
            except ElementTree.ParseError as error:
                dropped.append(Dropped(name, "unreadable", str(error)))
            advance(1)
    return drawings, dropped


def _described(name: str, path: Path) -> Drawing:
    facts: dict[str, list[str]] = {"title": [], "subject": [], "language": []}
    for _, element in ElementTree.iterparse(path):
        if element.tag.endswith("}Work"):
            for child in element:
                if (fact := _name(child)) in facts:
                    words = [one for one in child.iter() if one is child or _name(one) == "li"]
                    facts[fact] += [clean_text((one.text or "").replace("_", " ")) for one in words]
            break
    title = _NUMBERED.sub("", next(filter(None, facts["title"]), ""))
    keywords = tuple(dict.fromkeys(word for word in facts["subject"] if word.casefold() not in _NO_KEYWORDS))
    return Drawing(name, title, keywords, next(filter(None, facts["language"]), ""))


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _usable(
    drawings: Sequence[Drawing], dropped: list[Dropped], forbidden: set[str]
) -> tuple[list[Drawing], list[Dropped]]:
    """Drawings with a title that says what is drawn, in a known language, and the others."""
    counts = Counter(drawing.title.casefold() for drawing in drawings)
    kept = []
    for drawing in drawings:
        reason, detail, lang = "", drawing.title, ""
        if not drawing.title:
            reason = "no title"
        elif drawing.title.casefold().startswith(_AUTHOR):
            reason = "title of its author"
        elif counts[drawing.title.casefold()] >= COLLECTION:
            reason = "title of a collection"
        elif not _WORD.search(drawing.title):
            reason = "no word in its title"
        elif taken := [text for text in (drawing.title, *drawing.keywords) if normalise_text(text) in forbidden]:
            reason, detail = "named as a stamp of dev or test", taken[0]
        else:
            try:
                lang = resolve(drawing.lang)
            except ConfigError:
                reason, detail = "unknown language", drawing.lang
        if reason:
            dropped.append(Dropped(drawing.name, reason, detail))
        else:
            kept.append(Drawing(drawing.name, drawing.title, drawing.keywords, lang))
    return kept, dropped


def _drawn(folder: Path, drawings: Sequence[Drawing], cache_dir: Path) -> tuple[dict[str, Path], list[Dropped]]:
    """The PNG of each drawing that could be drawn, and the others; drawn once, whole or not at all."""
    names = [drawing.name for drawing in drawings]
    key = fingerprint([DRAWN, [(name, (folder / name).stat().st_size) for name in names]])
    kept, listed = cache_dir / "corpora" / f"{PACKAGE}-{VERSION.partition(':')[2]}-pictures-{key}", "undrawn.json"
    files = {name: f"{number:04d}.png" for number, name in enumerate(names)}
    if not kept.is_dir():
        with atomic_directory(kept) as part:
            undrawn = [(one.id, one.reason, one.detail) for one in _draw(folder, files, part)]
            (part / listed).write_text(json.dumps(undrawn), encoding="utf-8")
    undrawn = [Dropped(*one) for one in json.loads((kept / listed).read_text(encoding="utf-8"))]
    missing = {one.id for one in undrawn}
    return {name: kept / file for name, file in files.items() if name not in missing}, undrawn


def _draw(folder: Path, files: dict[str, str], out: Path) -> Iterator[Dropped]:
    with progress("drawing", len(files), "drawings") as advance:
        for name, file in files.items():
            try:
                Image.fromarray(read_image(folder / name)).save(out / file)
            except ImageError as error:
                yield Dropped(name, error.reason, error.detail)
            advance(1)


def _is_wanted(path: PurePosixPath) -> bool:
    return path == _COPYRIGHT or (path.is_relative_to(DRAWINGS) and path.suffix == ".svg")
