import csv
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechde.corpora import manifest
from speechde.corpora.manifest import BadRow, read_manifest, write_manifest
from speechde.errors import ConfigError, DataError
from speechde.types import Utterance

GOOD = {"id": "a", "lang": "ro", "text": "Un urs.", "audio": "a.wav"}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"RIFF")
    return tmp_path


def write_jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def utterances(folder):
    return [
        Utterance(
            id=f"u{i}",
            lang=lang,
            text=text,
            audio=str(folder / name),
            sentence_id=f"s{i}",
            split=split,
            speaker="x",
            translation='A "bear"',
            source="test",
            synthetic=i == 1,
            seconds=1.25 if i else None,
        )
        for i, (lang, text, name, split) in enumerate(
            [("ro_ro", 'Un "urs", da', "a.wav", "train"), ("cmn_hans_cn", "一只熊。", "b.wav", "dev")]
        )
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".tsv"])
def test_round_trip(folder, suffix):
    written = utterances(folder)
    path = write_manifest(written, folder / f"m{suffix}")
    corpus = read_manifest(path, seen=["Romanian"])
    assert corpus.utterances == written
    assert (corpus.name, corpus.seen, corpus.zero_shot, corpus.dropped) == ("m", ("ro_ro",), ("cmn_hans_cn",), [])
    assert sorted(p.name for p in folder.iterdir()) == ["a.wav", "b.wav", path.name]


@pytest.mark.parametrize("container", ["clips.tar.gz", "clips.parquet"])
def test_audio_may_be_a_member_of_a_container(folder, container):
    (folder / container).write_bytes(b"")
    rows = [GOOD | {"id": "m", "audio": f"{container}::3"}, GOOD | {"id": "n", "audio": f"not-{container}::3"}]
    corpus = read_manifest(write_jsonl(folder / "m.jsonl", rows))
    assert [u.audio for u in corpus.utterances] == [f"{folder / container}::3"]
    assert [(d.id, d.reason) for d in corpus.dropped] == [("n", "missing file")]
    again = read_manifest(write_manifest(corpus.utterances, folder / "again.tsv"))
    assert again.utterances == corpus.utterances


def test_audio_under_the_manifest_is_stored_relative(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "c.wav"
    outside.write_bytes(b"RIFF")
    rows = [utterances(folder)[0], replace(utterances(folder)[1], audio=str(outside))]
    path = write_manifest(rows, folder / "m.jsonl")
    assert [json.loads(line)["audio"] for line in path.read_text().splitlines()] == ["a.wav", str(outside)]
    assert read_manifest(path).utterances == rows


def test_defaults(folder):
    rows = [
        GOOD,
        {**GOOD, "id": "b", "text": " un  URS "},
        {**GOOD, "id": "c", "text": "Un lup."},
        {**GOOD, "id": 4, "lang": "mo", "split": "dev"},
        {**GOOD, "id": "e", "lang": "bg"},
    ]
    corpus = read_manifest(write_jsonl(folder / "m.jsonl", rows), split="train")
    same, also, other, integer, foreign = corpus.utterances
    assert same.sentence_id == also.sentence_id == integer.sentence_id
    assert len({same.sentence_id, other.sentence_id, foreign.sentence_id}) == 3
    assert also.text == "un URS"
    assert (same.split, integer.split, integer.id) == ("train", "dev", "4")
    assert corpus.zero_shot == ("bg_bg", "ro_ro")


def test_bad_rows_are_listed_with_their_line_and_reason(folder):
    rows = [
        GOOD,
        {**GOOD, "id": "lang", "lang": "xx"},
        {**GOOD, "id": "empty", "text": "  "},
        {key: value for key, value in GOOD.items() if key != "id"},
        GOOD,
        {**GOOD, "id": "split", "split": "valid"},
        {**GOOD, "id": "dots", "text": "?!"},
        {**GOOD, "id": "nul", "text": "a\u0000b"},
        {**GOOD, "id": "number", "text": 5},
        {**GOOD, "id": "surrogate", "text": "a\ud800"},
        {**GOOD, "id": "nofile", "audio": "none.wav"},
        {**GOOD, "id": "longname", "audio": "x" * 5000},
        {**GOOD, "id": "flag", "synthetic": "maybe"},
        '{"id": "cut", ',
        "[1, 2]",
        "",
    ]
    corpus = read_manifest(write_jsonl(folder / "m.jsonl", rows))
    assert [u.id for u in corpus.utterances] == ["a"]
    found = [(d.id, d.reason, d.detail.split(":")[0]) for d in corpus.dropped]
    assert found == [
        ("lang", "unknown language", "line 2"),
        ("empty", "missing field", "line 3"),
        ("line 4", "missing field", "line 4"),
        ("a", "duplicate id", "line 5"),
        ("split", "bad split", "line 6"),
        ("dots", "invalid text", "line 7"),
        ("nul", "invalid text", "line 8"),
        ("number", "bad value", "line 9"),
        ("surrogate", "bad value", "line 10"),
        ("nofile", "missing file", "line 11"),
        ("longname", "missing file", "line 12"),
        ("flag", "bad value", "line 13"),
        ("line 14", "malformed line", "line 14"),
        ("line 15", "malformed line", "line 15"),
    ]


def test_explicit_zero_shot_drops_other_languages(folder):
    rows = [GOOD, {**GOOD, "id": "b", "lang": "bg"}, {**GOOD, "id": "c", "lang": "fr"}]
    corpus = read_manifest(write_jsonl(folder / "m.jsonl", rows), seen=["fr"], zero_shot=["ro"])
    assert [u.lang for u in corpus.utterances] == ["ro_ro", "fr_fr"]
    assert [(d.id, d.reason) for d in corpus.dropped] == [("b", "language not used")]
    with pytest.raises(ConfigError, match="both seen and zero-shot"):
        read_manifest(folder / "m.jsonl", seen=["fr"], zero_shot=["fra"])


def test_tsv_with_byte_order_mark_quotes_and_bad_bytes(folder):
    path = folder / "m.tsv"
    lines = [
        b"id\tlang\ttext\taudio\tnote",
        b'q\tro\t"Un urs\ta.wav\t',
        b"bad\tro\tUn \xff\ta.wav\t",
        b"short\tro\tUn urs",
        "sep\tro\tUn\u2028urs\tb.wav\tx".encode(),
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    corpus = read_manifest(path)
    assert [(u.id, u.text) for u in corpus.utterances] == [("q", '"Un urs'), ("sep", "Un urs")]
    assert [(d.id, d.reason) for d in corpus.dropped] == [("line 3", "not UTF-8"), ("line 4", "malformed line")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tsv_as_pandas_and_spreadsheets_write_it(folder, encoding):
    rows = [GOOD | {"id": str(i), "text": text} for i, text in enumerate(('Un "urs", da', "două\nrânduri\tși", "da"))]
    with (folder / "m.tsv").open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(GOOD), delimiter="\t", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    corpus = read_manifest(folder / "m.tsv")
    assert [u.text for u in corpus.utterances] == ['Un "urs", da', "două rânduri și", "da"] and not corpus.dropped


def test_jsonl_in_utf_16(folder):
    (folder / "m.jsonl").write_text(json.dumps(GOOD), "utf-16")
    assert [u.text for u in read_manifest(folder / "m.jsonl").utterances] == ["Un urs."]
    (folder / "m.tsv").write_text("id\tlang\ttext\taudio\n", "utf-16-le")
    with pytest.raises(DataError, match=r"the header is no text \(NUL character: UTF-16 without a byte order mark"):
        read_manifest(folder / "m.tsv")


def test_parquet_with_other_columns_and_types(folder):
    path = folder / "m.parquet"
    rows = [{**GOOD, "id": 1, "extra": [1.0]}, {**GOOD, "id": 2, "lang": None, "extra": []}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    corpus = read_manifest(path)
    assert [u.id for u in corpus.utterances] == ["1"]
    assert [(d.id, d.reason, d.detail) for d in corpus.dropped] == [("2", "missing field", "row 2: lang")]


def test_fatal_manifests(folder):
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(folder / "none.tsv")
    with pytest.raises(ConfigError, match=r"'\.csv' is not known; allowed: \.jsonl, \.parquet, \.tsv"):
        read_manifest(folder / "m.csv")
    (folder / "head.tsv").write_text("id\ttext\na\tb\n")
    with pytest.raises(DataError, match="lacks the columns lang, audio; it has id, text"):
        read_manifest(folder / "head.tsv")
    pq.write_table(pa.table({"id": ["a"]}), folder / "head.parquet")
    with pytest.raises(DataError, match="lacks the columns lang, text, audio"):
        read_manifest(folder / "head.parquet")
    (folder / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_manifest(folder / "text.parquet")
    with pytest.raises(DataError, match=r"no usable row: unknown language \(1\).*line 1"):
        read_manifest(write_jsonl(folder / "bad.jsonl", [{**GOOD, "lang": "xx"}]))
    with pytest.raises(DataError, match="no usable row: no rows at all"):
        read_manifest(write_jsonl(folder / "empty.jsonl", []))
    (folder / "empty.tsv").write_text("")
    with pytest.raises(DataError, match="lacks the columns"):
        read_manifest(folder / "empty.tsv")
    with pytest.raises(ConfigError, match="split: 'valid'"):
        read_manifest(folder / "m.jsonl", split="valid")


def test_writer_refuses_a_tab_in_tsv_and_leaves_the_old_file(folder):
    path = write_manifest(utterances(folder), folder / "m.tsv")
    before = path.read_bytes()
    with pytest.raises(DataError, match="tab or line break"):
        write_manifest([replace(utterances(folder)[0], text="a\tb")], path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["a.wav", "b.wav", "m.tsv"]
    with pytest.raises(ConfigError, match="manifest suffix"):
        write_manifest([], folder / "m.csv")


@pytest.mark.parametrize("value", [2.5, 2, "2.5", "", None, float("nan")])
def test_stated_seconds(folder, value):
    (found,) = read_manifest(write_jsonl(folder / "m.jsonl", [GOOD | {"seconds": value}])).utterances
    assert found.seconds == (float(value) if value and value == value else None)


@pytest.mark.parametrize("value", [0, -1, "2 s", float("inf"), True])
def test_seconds_that_are_no_length(folder, value):
    corpus = read_manifest(write_jsonl(folder / "m.jsonl", [GOOD, GOOD | {"id": "b", "seconds": value}]))
    assert [(d.id, d.reason) for d in corpus.dropped] == [("b", "bad value")]


@pytest.mark.parametrize("folder", [".", "/", "/data", "data/part", "..", "/a/.."])
@pytest.mark.parametrize(
    "name", ["a.wav", "b/c.wav", "/d/e.wav", "./f.wav", "g//h.wav", "//i.wav", "j/./k.wav", "../l.wav", ".m/.n.wav",
             "o/", "p/.", ".", "..", "a.tar::b/c.wav", "/", "q/../r.wav"]
)  # fmt: skip
def test_a_path_is_that_of_pathlib(folder, name):
    assert manifest.locate(folder, name) == str(Path(folder) / name)


def test_characters_that_no_transcript_has():
    """The pattern is the category that it stands for."""
    for code in range(0x110000):
        bad = unicodedata.category(chr(code)) == "Cc" or code == 0xFFFD
        assert bool(manifest._UNREADABLE.search(chr(code))) == bad


@pytest.mark.parametrize("value", ["a\ud800", "é\udfff", True, 3, 2.5, ["a"], None, "  é a ", "\u00a0b\u2003"])
@pytest.mark.parametrize("column", ["id", "text", "seconds", "synthetic"])
def test_values_are_those_of_the_rule(column, value):
    """Whichever short cut is taken, the rule is: None is empty; the types of the column; stripped; encodable."""
    kinds = {"text": str, "seconds": str | int | float}.get(column, str | int)
    good = value is None or (isinstance(value, kinds) and not (column == "seconds" and isinstance(value, bool)))
    if good and not any("\ud800" <= character <= "\udfff" for character in str(value)):
        assert manifest.text_value({column: value}, column) == ("" if value is None else str(value).strip())
    else:
        with pytest.raises(BadRow):
            manifest.text_value({column: value}, column)
