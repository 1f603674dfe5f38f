"""A sheet shows what was retrieved, frames what is right, and stays light."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

from speechde.errors import DataError
from speechde.evaluation.files import example_task
from speechde.evaluation.retrieval import Qrels, Retrieval
from speechde.reporting.contact_sheet import CELL, GAP, LABEL, MAX_BYTES, SheetRow, sheet_rows, write_sheet
from speechde.types import Audio, Example, Image, Item, Text

RED = np.full((20, 40, 3), (200, 0, 0), np.uint8)


def is_blue(sheet, column, row=0):
    """Whether the frame of an answer is that of a right one."""
    left = GAP * 3 + column * (CELL + GAP) if column else GAP
    pixel = np.asarray(sheet)[GAP + row * (CELL + LABEL + GAP) - 2, left + CELL // 2].astype(int)
    return bool(pixel[2] > 130 and pixel[0] < 90)


def test_rows_are_the_nearest_of_evenly_spread_queries():
    things = [f"thing {n}" for n in range(9)]
    examples = [Example(Item(Text(f"q {one}"), meaning=one), Item(Text(one), meaning=one)) for one in things]
    task = example_task("named", examples, "test")
    queries = np.roll(np.eye(9, dtype=np.float32), 1, axis=1)
    queries[:, 0] += 0.5
    queries[4] = np.eye(9)[4]
    rows = sheet_rows(task, queries, np.eye(9, dtype=np.float32), count=3, k=2)
    assert [row.query.meaning for row in rows] == ["thing 0", "thing 4", "thing 8"]
    assert [item.meaning for item in rows[0].answers] == ["thing 1", "thing 0"]
    assert [list(row.right) for row in rows] == [[False, True], [True, False], [False, False]]
    assert rows[0].scores == [1.0, 0.5]
    assert len(sheet_rows(task, queries, np.eye(9, dtype=np.float32), count=100)) == 9
    judged = Retrieval("j", "test", "r", task.queries, task.gallery, Qrels(np.array([[0, 0]])), np.arange(9))
    with pytest.raises(DataError, match="j has no labels"):
        sheet_rows(judged, queries, queries, 3)


def test_right_answers_are_framed_and_pictures_shown(tmp_path):
    picture, text = Item(Image(RED), meaning="red"), Item(Text("ένα λεωφορείο"), meaning="bus")
    both = Item(Image(RED), Audio("a.ogg"), lang="ro_ro", meaning="red, said")
    rows = [SheetRow(text, [picture, text], [0.5, 0.25], [False, True]), SheetRow(both, [picture], [1.0], [True])]
    path = write_sheet(rows, tmp_path / "sheet.jpg")
    sheet = Pillow.open(path)
    assert sheet.format == "JPEG" and path.stat().st_size < MAX_BYTES
    assert sheet.size == (GAP * 3 + 3 * (CELL + GAP), GAP + 2 * (CELL + LABEL + GAP))
    assert [is_blue(sheet, column) for column in (0, 1, 2)] == [False, False, True]
    assert [is_blue(sheet, column, 1) for column in (0, 1, 2)] == [False, True, False]
    middle = np.asarray(sheet)[GAP + CELL // 2, GAP * 3 + CELL + GAP + CELL // 2].astype(int)
    assert middle[0] > 150 and middle[1] < 60  # the picture, its sides kept


@pytest.mark.parametrize("shape", [(2, 1000, 3), (1000, 2, 3)])
def test_a_thin_picture_is_shown(tmp_path, shape):
    row = SheetRow(Item(Image(np.zeros(shape, np.uint8))), [Item(Text("a line"))], [0.0], [False])
    assert write_sheet([row], tmp_path / "a.jpg").is_file()


def test_a_sheet_is_light_or_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3), np.uint8)
    row = SheetRow(Item(Image(noise)), [Item(Image(noise))] * 5, [0.0] * 5, [False] * 5)
    assert write_sheet([row] * 6, tmp_path / "a.jpg").stat().st_size <= MAX_BYTES
    with pytest.raises(DataError, match="60 rows are more than 200,000 bytes; ask for fewer"):
        write_sheet([row] * 60, tmp_path / "b.jpg")
    assert not (tmp_path / "b.jpg").exists()
    with pytest.raises(DataError, match="at least one query"):
        write_sheet([], tmp_path / "b.jpg")
