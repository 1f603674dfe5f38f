"""Files of examples: what is read, what is dropped and why, and that JSON Lines and Parquet are one."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechde.corpora.examples_file import COLUMNS, FileExamples, is_examples_file, read_examples
from speechde.corpora.examples_writer import write_examples
from speechde.errors import ConfigError, DataError
from speechde.types import Audio, Text

ROWS = [
    {
        "query": {"parts": [{"text": "Who wrote it?"}], "lang": "en"},
        "positive": {
            "parts": [{"text": "Ann did:"}, {"audio": "ann.wav"}],
            "title": "Ann",
            "meaning": "doc",
            "id": "7",
        },
        "negatives": [{"parts": [{"text": "Nobody did."}]}, {"parts": [{"text": "Ben did."}], "lang": "de"}],
        "stratum": "questions",
        "source": "recorded",
    },
    {
        "query": {"parts": [{"audio": "ann.wav"}], "lang": "de"},
        "positive": {"parts": [{"text": "Ja."}]},
        "source": "synthetic",
    },
    {"query": {"parts": [{"text": "Wer?"}]}, "positive": {"parts": [{"text": "Ben."}]}, "split": "test"},
    {"query": {"parts": [{"text": "Wen?"}]}, "positive": {"parts": [{"text": "Cem."}]}, "split": "dev"},
]


def write(folder, rows):
    path = folder / "examples.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def content(example):
    items = (example.query, example.positive, *example.negatives)
    parts = [[(part.modality, part.content) for part in item.parts] for item in items]
    named = [(item.id, item.lang, item.meaning, item.title) for item in items]
    return parts, named, example.stratum, example.source, example.also


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ann.wav").touch()
    return tmp_path


def test_what_is_read(folder):
    examples = read_examples(write(folder, ["", *ROWS]))
    first, second, third, _ = examples
    audio = str(folder / "ann.wav")
    assert [type(part) for part in first.positive.parts] == [Text, Audio]
    assert first.positive.parts[1].content == audio
    assert (first.positive.id, first.positive.title, first.positive.meaning) == ("7", "Ann", "doc")
    assert first.query.lang == "en_us" and first.query.meaning == "Who wrote it?"
    assert [negative.lang for negative in first.negatives] == [None, "de_de"]
    assert first.also == ((None, "doc"),)
    assert second.query.id == second.query.meaning == audio
    assert third.query.parts[0].content == "Wer?"
    assert examples.strata == ["questions", "de_de", "", ""]
    assert examples.sources == ["recorded", "synthetic", "", ""]
    assert examples.splits == ["train", "train", "test", "dev"]
    assert examples.dropped == []


def test_a_string_is_an_item_of_one_text(folder):
    (short,) = read_examples(write(folder, [{"query": "a", "positive": "b", "negatives": ["c"]}]))
    (long,) = read_examples(
        write(folder, [{"query": {"parts": [{"text": "a"}]}, "positive": {"parts": ["b"]}, "negatives": ["c"]}])
    )
    assert content(short) == content(long)


def test_parquet_is_read_as_json_lines(folder):
    """Rows in several groups; columns that Parquet fills up with nulls are absent."""
    expected = read_examples(write(folder, ROWS))
    rows = [{column: row.get(column) for column in COLUMNS} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), folder / "examples.parquet", row_group_size=3)
    found = read_examples(folder / "examples.parquet")
    assert [content(example) for example in found] == [content(example) for example in expected]
    assert [content(found[i]) for i in (3, 0)] == [content(expected[i]) for i in (3, 0)]
    assert (found.strata, found.sources, found.splits) == (expected.strata, expected.sources, expected.splits)


def test_a_split_and_its_clips(folder):
    examples = read_examples(write(folder, ROWS))
    assert [content(example) for example in examples.select("test")] == [content(examples[2])]
    assert len(examples.select("train")) == 2
    (clip,) = examples.clips()  # once, though two examples have it
    assert clip.id == clip.audio == str(folder / "ann.wav") == examples[1].query.parts[0].content
    assert (clip.split, clip.synthetic) == ("train", False)
    assert examples.select("dev").clips() == []
    with pytest.raises(ConfigError, match="allowed: dev, test, train"):
        examples.select("valid")


def test_other_processes_read_the_same(folder):
    examples = read_examples(write(folder, ROWS))
    copy = pickle.loads(pickle.dumps(examples))
    assert [content(example) for example in copy] == [content(example) for example in examples]
    assert [content(examples[i]) for i in (-1, -4)] == [content(examples[i]) for i in (3, 0)]
    with pytest.raises(IndexError):
        examples[4]


GOOD = {"query": "good", "positive": "fine"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "malformed line"),
        ('{"query": "a", "positive": "b", "n": ' + "1" * 5000 + "}", "malformed line"),  # Python reads no such number
        ("[1]", "malformed line"),
        ({"query": "a"}, "missing field"),
        ({"query": None, "positive": "b"}, "missing field"),
        ({"query": "a", "positive": 3}, "bad value"),
        ({"query": "a", "positive": {"text": "b"}}, "bad value"),
        ({"query": "a", "positive": {"parts": []}}, "bad value"),
        ({"query": "a", "positive": {"parts": [3]}}, "bad value"),
        ({"query": "a", "positive": {"parts": [{"image": "cat.png"}]}}, "missing file"),
        ({"query": "a", "positive": {"parts": [{"image": ""}]}}, "empty image"),
        ({"query": "a", "positive": {"parts": [{"video": "ann.wav"}]}}, "unknown modality"),
        ({"query": "a", "positive": {"parts": [{"text": "b", "audio": "ann.wav"}]}}, "unknown modality"),
        ({"query": "a", "positive": {"parts": [{"text": None}]}}, "unknown modality"),
        ({"query": "a", "positive": " "}, "empty text"),
        ({"query": "a\0", "positive": "b"}, "invalid text"),
        ('{"query": "a", "positive": "\\ud800"}', "invalid text"),
        ({"query": {"parts": [{"audio": "ben.wav"}]}, "positive": "b"}, "missing file"),
        ({"query": "a", "positive": "b", "negatives": [{"parts": [{"audio": "ben.wav"}]}]}, "missing file"),
        ({"query": {"parts": ["a"], "lang": "klingon"}, "positive": "b"}, "unknown language"),
        ({"query": "a", "positive": "b", "split": "valid"}, "bad split"),
        ({"query": "a", "positive": "b", "negatives": "c"}, "bad value"),
        ({"query": "a", "positive": {"parts": ["b"], "shared": "yes"}}, "bad value"),
        ({"query": "a", "positive": "b", "negatives": ["c", "B!"]}, "negative means the positive"),
        ({"query": "a", "positive": "b", "negatives": ["A"]}, "negative means the positive"),
        (
            {"query": "a", "positive": {"parts": ["b"], "meaning": "m"},
             "negatives": [{"parts": ["c"], "meaning": "m"}]},
            "negative means the positive",
        ),
        (
            {"query": "a", "positive": {"parts": ["b"], "meaning": "m"}, "negatives": ["b"]},
            "negative means the positive",
        ),
    ],
)  # fmt: skip
def test_a_bad_line_is_listed_and_skipped(folder, row, reason):
    path = write(folder, [GOOD, row])
    examples = read_examples(path)
    assert [example.query.parts[0].content for example in examples] == ["good"]
    assert [(dropped.id, dropped.reason) for dropped in examples.dropped] == [("line 2", reason)]
    with pytest.raises(DataError, match=f"no usable example: line 1: {reason}"):
        read_examples(write(folder, [row]))


def test_a_line_that_is_no_text(folder):
    path = folder / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"query": "a", "positive": "b"}\r\n{"query": "\xff", "positive": "b"}\n')
    examples = read_examples(path)
    assert (len(examples), examples.dropped[0].reason) == (1, "not UTF-8")


@pytest.mark.parametrize(
    ("shared", "kept"),
    [(False, ["another", "dev", "the test", "Test"]), (True, ["label", "another", "dev", "the test", "Test"])],
)
def test_what_is_held_out_stays_out(folder, shared, kept):
    """By query and positive, as normalised; where a positive is a label, by the query alone."""
    rows = [
        {"query": "the TEST!", "positive": "1"},
        {"query": "3", "positive": "Test"},
        {"query": "label", "positive": {"parts": ["yes."], "shared": shared}},
        {"query": "another", "positive": "no"},
        {"query": "test", "positive": "maybe", "split": "dev"},
        {"query": "dev", "positive": "other", "split": "dev"},
        {"query": "the test", "positive": "Yes", "split": "test"},
        {"query": "Test", "positive": "Yes", "split": "test"},
    ]
    examples = read_examples(write(folder, rows))
    assert [example.query.parts[0].content for example in examples] == kept
    reasons = {d.id: d.reason for d in examples.dropped}
    assert reasons["line 1"] == reasons["line 2"] == "train text is in test"
    assert reasons["line 5"] == "dev text is in test"
    assert ("line 3" in reasons) is not shared


def test_a_file_that_cannot_be_used(folder):
    with pytest.raises(DataError, match="does not exist"):
        read_examples(folder / "none.jsonl")
    with pytest.raises(ConfigError, match="jsonl, "):
        read_examples(folder / "none.jsonl.gz")
    (folder / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_examples(folder / "bad.parquet")
    with pytest.raises(DataError, match="it is empty"):
        read_examples(write(folder, []))


def test_a_file_that_changes_while_it_is_used(folder):
    path = write(folder, [GOOD, GOOD])
    examples = read_examples(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="was changed while it was used"):
        examples[1]


def test_examples_are_told_from_clips(folder):
    assert is_examples_file(write(folder, ROWS))
    assert not is_examples_file(write(folder, [{"id": "1", "lang": "de", "text": "a", "audio": "ann.wav"}]))
    assert not is_examples_file(write(folder, ["{"])) and not is_examples_file(folder / "ann.wav")
    pq.write_table(pa.Table.from_pylist([GOOD]), folder / "a.parquet")
    pq.write_table(pa.Table.from_pylist([{"id": "1"}]), folder / "b.parquet")
    assert is_examples_file(folder / "a.parquet") and not is_examples_file(folder / "b.parquet")


def test_what_is_written_is_read_back(folder, tmp_path_factory):
    """Beside the audio and elsewhere; what the reader fills in is not written."""
    train = read_examples(write(folder, ROWS)).select("train")
    for place in (folder / "again.jsonl", tmp_path_factory.mktemp("other") / "again.jsonl"):
        assert write_examples(train, place) == place
        found = read_examples(place)
        assert [content(one) for one in found] == [content(one) for one in train]
        assert (found.strata, found.sources, found.splits) == (train.strata, train.sources, ["train"] * 2)
    lines = [json.loads(line) for line in (folder / "again.jsonl").read_text("utf-8").splitlines()]
    assert lines[0]["positive"]["parts"][1] == {"audio": "ann.wav"} and lines[0]["positive"]["meaning"] == "doc"
    assert "meaning" not in lines[0]["query"] and "title" not in lines[0]["query"]
    assert write_examples(train, folder / "dev.jsonl", "dev") and read_examples(folder / "dev.jsonl").splits[0] == "dev"


def test_text_is_not_parsed_to_look_for_clips(tmp_path, make_wav, monkeypatch):
    clip = str(make_wav("a.wav", 0.3))
    lines = [{"query": f"q {n}", "positive": f"p {n}"} for n in range(5)]
    lines[3]["negatives"] = [{"parts": [{"audio": clip}], "lang": "fr"}]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = read_examples(path).subset(np.array([1, 3, 4]))
    assert list(found.spoken) == [False, True, False]
    parsed, real = [], FileExamples.__getitem__
    monkeypatch.setattr(FileExamples, "__getitem__", lambda self, row: parsed.append(row) or real(self, row))
    assert [(u.audio, u.lang) for u in found.clips()] == [(clip, "fr_fr")] and parsed == [1]


def test_pictures_are_parts_like_others(tmp_path, make_wav):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"any")
    make_wav("a.wav", 0.3)
    query = {"parts": [{"image": "a.png"}, {"audio": "a.wav"}, {"text": "which?"}], "lang": "fr"}
    path = write(tmp_path, [
        {"query": query, "positive": {"parts": [{"image": "b.png"}]}, "negatives": [{"parts": [{"image": "a.png"}]}]},
        {"query": "a", "positive": "b"},
    ])  # fmt: skip
    found = read_examples(path)
    assert found[0].query.make_up == ("image", "speech", "text") and found[0].positive.id == str(tmp_path / "b.png")
    assert found.pictures() == [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert (list(found.pictured), list(found.spoken)) == ([True, False], [True, False])
    assert len(found.clips()) == 1
    write_examples(found, tmp_path / "again.jsonl")
    again = read_examples(tmp_path / "again.jsonl")
    assert [content(one) for one in again] == [content(one) for one in found]
    assert '{"image": "a.png"}' in (tmp_path / "again.jsonl").read_text("utf-8")
