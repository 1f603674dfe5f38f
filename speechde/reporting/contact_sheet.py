"""A contact sheet: queries and what was retrieved for each, pictures as pictures, the right answers framed.

A row is a query and its nearest answers, in one JPEG that is light enough to be committed beside the numbers. A clip is
shown by its language, because a sheet cannot sound.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from speechde.cache import atomic_write
from speechde.errors import DataError
from speechde.evaluation.metrics import BLOCK
from speechde.evaluation.retrieval import Labels, Retrieval
from speechde.media.image import read_image
from speechde.types import Audio, Image, Item, Text

MAX_BYTES = 200_000
CELL, GAP, LABEL, FRAME = 104, 8, 16, 4  # pixels
RIGHT, LINE, GROUND = "#0072b2", "#bbbbbb", "white"  # told apart by those who are colour-blind too
LETTERS, LETTER = 11, 7  # their height, and the width of most
QUALITIES = (85, 75, 60, 45, 30)


@dataclass(frozen=True)
class SheetRow:
    """A query, its nearest answers with their scores, and whether each is right."""

    query: Item
    answers: Sequence[Item]
    scores: Sequence[float]
    right: Sequence[bool]


def sheet_rows(task: Retrieval, queries: np.ndarray, gallery: np.ndarray, count: int, k: int = 5) -> list[SheetRow]:
    """The ``k`` nearest of ``count`` queries, spread evenly over the task: none is chosen by how well it went.

    Args:
        queries, gallery: vectors ``(n, dim)`` and ``(m, dim)`` of the task's.

    Raises:
        DataError: the task tells right answers one by one, and not by labels.
    """
    if not isinstance(task.relevance, Labels):
        raise DataError(f"{task.name} has no labels; a contact sheet is made of files of examples")
    chosen = np.unique(np.linspace(0, len(task.queries) - 1, min(count, len(task.queries), BLOCK)).round().astype(int))
    rows = []
    for query, scores in zip(chosen, queries[chosen] @ gallery.T, strict=True):
        nearest = np.argsort(-scores, kind="stable")[:k]
        right = task.relevance.gallery[nearest] == task.relevance.query[query]
        answers = [task.gallery[i] for i in nearest]
        rows.append(SheetRow(task.queries[query], answers, scores[nearest].tolist(), right.tolist()))
    return rows


def write_sheet(rows: Sequence[SheetRow], path: str | Path, max_bytes: int = MAX_BYTES) -> Path:
    """Draw the rows below each other and write them as a JPEG of at most ``max_bytes``.

    Raises:
        ConfigError, DataError: a picture cannot be read, there is no row, or so many that no quality is light enough.
    """
    if not rows:
        raise DataError("a contact sheet needs at least one query")
    columns = 1 + max(len(row.answers) for row in rows)
    step, height = CELL + GAP, CELL + LABEL + GAP
    sheet = Pillow.new("RGB", (GAP * 3 + columns * step, GAP + len(rows) * height), GROUND)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = GAP + number * height
        _place(sheet, draw, _face(row.query), (GAP, top), LINE, _asked(row.query))
        for column, (answer, score, right) in enumerate(zip(row.answers, row.scores, row.right, strict=True), 1):
            left = GAP * 3 + column * step  # the query stands apart
            _place(sheet, draw, _face(answer), (left, top), RIGHT if right else LINE, f"{score:.2f}", right)
    for quality in QUALITIES:
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=quality, optimize=True)
        if len(file.getvalue()) <= max_bytes:
            with atomic_write(path) as temporary:
                temporary.write_bytes(file.getvalue())
            return Path(path)
    raise DataError(f"{len(rows)} rows are more than {max_bytes:,} bytes; ask for fewer")


def _face(item: Item) -> Pillow.Image:
    """A square that shows an item: its picture, with its words below where it has both."""
    pictures = [part.content for part in item.parts if isinstance(part, Image)]
    words = " ".join(_words(part, item.lang) for part in item.parts if not isinstance(part, Image))
    face = Pillow.new("RGB", (CELL, CELL), GROUND)
    if pictures:
        side = CELL if len(pictures) == 1 and not words else CELL * 3 // 4 // (1 if len(pictures) == 1 else 2)
        for place, content in enumerate(pictures[:2]):
            picture = _within(Pillow.fromarray(read_image(content)), side)
            face.paste(picture, (place * side + (side - picture.width) // 2, (side - picture.height) // 2))
    if words:
        lines = textwrap.wrap(words, CELL // LETTER)[: 2 if pictures else 7]
        top = CELL * 3 // 4 if pictures else (CELL - len(lines) * (LETTERS + 3)) // 2
        ImageDraw.Draw(face).multiline_text((2, top), "\n".join(lines), fill="black", font=_font(), spacing=2)
    return face


def _within(picture: Pillow.Image, side: int) -> Pillow.Image:
    """A picture whose longer side has ``side`` pixels; of one that is very thin the other has one."""
    scale = side / max(picture.size)
    return picture.resize(tuple(max(1, round(scale * length)) for length in picture.size))


def _words(part: Text | Audio, lang: str | None) -> str:
    return part.content if isinstance(part, Text) else f"[speech{f', {lang}' if lang else ''}]"


def _asked(item: Item) -> str:
    return item.meaning if len(item.meaning) <= CELL // LETTER else f"{item.meaning[: CELL // LETTER - 1]}…"


def _place(
    sheet: Pillow.Image, draw: ImageDraw.ImageDraw, face: Pillow.Image, at: tuple[int, int], colour: str, label: str,
    thick: bool = False,
) -> None:  # fmt: skip
    left, top = at
    sheet.paste(face, at)
    width = FRAME if thick else 1
    draw.rectangle((left - width, top - width, left + CELL - 1 + width, top + CELL - 1 + width), None, colour, width)
    draw.text((left, top + CELL + 4), label, fill="black", font=_font())


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans has the letters of most languages, and matplotlib brings it."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), LETTERS)
