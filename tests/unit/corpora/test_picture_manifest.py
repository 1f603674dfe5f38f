"""A table of pictures with texts and clips, as files of examples."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from speechde.corpora.examples_file import read_examples
from speechde.corpora.picture_manifest import read_pictures
from speechde.corpora.pictures import write_found
from speechde.errors import ConfigError, DataError
from speechde.types import SPLITS


@pytest.fixture
def files(tmp_path, make_wav):
    """Six pictures and two clips beside the table."""
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    make_wav("clip.wav")
    make_wav("other.wav", seed=1)
    return tmp_path


ROWS = [
    {"image": "0.png", "lang": "fr", "text": "Un autobus.", "split": "train"},
    {"image": "0.png", "lang": "fr", "text": "un bus jaune", "split": "train", "audio": "clip.wav"},
    {"image": "0.png", "lang": "ro", "text": "un autobuz", "split": "train"},
    {"image": "1.png", "lang": "fr", "text": "un AUTOBUS", "split": "train"},  # a text of 0.png
    {"image": "2.png", "lang": "fr", "text": "un chat"},  # no split: train
    {"image": "3.png", "lang": "fr", "audio": "other.wav", "split": "test"},  # no text
    {"image": "4.png", "lang": "fr", "text": "une vache", "split": "test", "meaning": "cow"},
    {"image": "4.png", "lang": "fr", "text": "une vache rousse", "split": "test", "meaning": "cow"},
    {"image": "5.png", "lang": "fr", "text": "la vache", "split": "test", "meaning": "cow"},
]


def write(folder, rows, suffix):
    path = folder / f"pictures{suffix}"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif suffix == ".tsv":
        lines = [columns, *([row.get(column, "") for column in columns] for row in rows)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(column, pa.string()) for column in columns])), path)
    return path


def asked(found, task, split):
    return [(one.query, one.positive, one.stratum) for one in found[task][split]]


@pytest.mark.parametrize("suffix", [".jsonl", ".tsv", ".parquet"])
def test_rows_become_every_way_to_ask(files, suffix):
    found, dropped = read_pictures(write(files, ROWS, suffix))
    assert not dropped
    counts = write_found(found, files / "out")
    assert counts == {
        "image_to_text": {"train": 5, "dev": 0, "test": 2},  # a picture asks once in a language outside train
        "text_to_image": {"train": 5, "dev": 0, "test": 3},
        "speech_to_image": {"train": 1, "dev": 0, "test": 1},
        "image_speech_to_text": {"train": 1, "dev": 0, "test": 0},
    }
    read = {task: read_examples(files / "out" / f"{task}.jsonl") for task in counts}
    for task, file in read.items():
        assert not file.dropped and [file.splits.count(split) for split in SPLITS] == list(counts[task].values())
        for one in file:
            assert one.query.meaning == one.positive.meaning and one.stratum in ("fr_fr", "ro_ro")
    train = {one.positive.parts[0].content: one.query.meaning for one in read["image_to_text"].select("train")}
    assert train["Un autobus."] == train["un AUTOBUS"] == train["un autobuz"] != train["un chat"]
    assert {one.query.meaning for one in read["text_to_image"].select("test")} == {"cow"}
    (mixed,) = read["image_speech_to_text"]
    assert mixed.query.make_up == ("image", "speech") and mixed.positive.parts[0].content == "un bus jaune"


@pytest.mark.parametrize("rows", [
    [{"image": "0.png", "lang": "fr", "text": "un bus"}, {"image": "./0.png", "lang": "ro", "text": "un autobuz"}],
    [{"image": "0.png", "lang": "fr", "text": "a"}, {"image": "0.png", "lang": "ro", "text": "b", "meaning": "bus"}],
])  # fmt: skip
def test_a_picture_is_one_thing_however_its_rows_name_it(files, rows):
    found, dropped = read_pictures(write(files, rows, ".jsonl"))
    assert not dropped and len({one.query.meaning for one in found["image_to_text"]["train"]}) == 1
    assert len(found["image_to_text"]["train"]) == 2


def test_members_of_containers(files, tmp_path):
    pixels = [(files / f"{number}.png").read_bytes() for number in range(2)]
    pq.write_table(pa.table({"image": [{"bytes": data} for data in pixels]}), files / "packed.parquet")
    rows = [{"image": f"packed.parquet::image/{n}", "lang": "fr", "text": f"image {n}"} for n in (0, 1, 7)]
    found, dropped = read_pictures(write(files, rows, ".jsonl"))
    assert len(found["image_to_text"]["train"]) == 2
    assert [one.reason for one in dropped] == ["missing file"] and "7" in dropped[0].id


def test_what_is_left_out_is_said(files):
    (files / "bad.png").write_bytes(b"no picture")
    (files / "copy.png").write_bytes((files / "3.png").read_bytes())
    rows = [
        {"lang": "fr", "text": "sans image"},
        {"image": "0.png", "lang": "fr"},
        {"image": "0.png", "text": "sans langue"},
        {"image": "0.png", "lang": "klingon", "text": "a"},
        {"image": "0.png", "lang": "fr", "text": "a", "split": "valid"},
        {"image": "0.png", "lang": "fr", "text": "\ufffd"},
        {"image": "0.png", "lang": "fr", "audio": "gone.wav"},
        {"image": "gone.png", "lang": "fr", "text": "a"},
        {"image": "bad.png", "lang": "fr", "text": "b"},
        {"image": "3.png", "lang": "fr", "text": "c"},
        {"image": "copy.png", "lang": "fr", "text": "d"},
        {"image": "1.png", "lang": "fr", "text": "e", "split": "train"},
        {"image": "1.png", "lang": "fr", "text": "f", "split": "test"},
    ]
    found, dropped = read_pictures(write(files, rows, ".jsonl"))
    assert sorted(one.reason for one in dropped) == sorted([
        "missing field", "neither text nor audio", "missing field", "unknown language", "bad split", "invalid text",
        "missing file", "missing file", "unreadable", "copied picture of several concepts",
        "copied picture of several concepts", "train picture is in test",
    ])  # fmt: skip
    assert {split: len(some) for split, some in found["image_to_text"].items()} == {"train": 0, "dev": 0, "test": 1}


def test_wholly_bad_tables(files):
    with pytest.raises(DataError, match=r"no usable picture with a text or a clip; first: unknown language at line 1"):
        read_pictures(write(files, [{"image": "0.png", "lang": "klingon", "text": "a"}], ".jsonl"))
    with pytest.raises(DataError, match=r"lacks the columns lang; .*Required: image, lang"):
        read_pictures(write(files, [{"image": "0.png", "text": "a"}], ".tsv"))
    with pytest.raises(ConfigError, match="manifest suffix"):
        read_pictures(files / "pictures.csv")
    with pytest.raises(DataError, match="does not exist"):
        read_pictures(files / "gone.tsv")
