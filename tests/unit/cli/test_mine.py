"""``speechde mine``: the pairs of two files of vectors, as TSV."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from speechde.cli import mine as module
from speechde.search.mining import mine
from speechde.search.vectors import Header, read_vectors, write_vectors


@pytest.fixture
def sides(tmp_path):
    """Files of six clips and of eight texts, six of which are theirs."""
    rng = np.random.default_rng(0)
    speech = rng.normal(size=(6, 16))
    texts = np.concatenate([speech + 0.5 * rng.normal(size=(6, 16)), rng.normal(size=(2, 16))])
    rows = [
        {"id": f"m{n}", "kind": kind, "language": "ro_ro", "text": f"text\u2028{n}",
         "audio": f"/{n}.wav" if kind == "speech" else None}
        for kind, count in (("speech", 6), ("text", 8)) for n in range(count)
    ]  # fmt: skip
    paths = tmp_path / "speech.parquet", tmp_path / "texts.parquet"
    for path, vectors, some in zip(paths, (speech, texts), (rows[:6], rows[6:]), strict=True):
        write_vectors(path, Header(16, "tiny", "f1"), some, vectors)
    return paths


def test_ids_are_those_of_the_files(run, sides, tmp_path):
    """Spaces of every kind, and what would break a row, as pandas reads it back."""
    names = ["a  b", "a\u00a0b", "a\tb", "a\nb", 'a "b"', '"a"']
    for path in sides:
        found = read_vectors([path])
        rows = [{**row, "id": names[n] if n < 6 else str(n)} for n, row in enumerate(found.rows.to_pylist())]
        write_vectors(path, Header(16, "tiny", "f1"), rows, found.vectors)
    assert run("mine", *sides, "--out", tmp_path / "pairs.tsv").code == 0
    with (tmp_path / "pairs.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", strict=True))
    assert {(row["id_a"], row["id_b"]) for row in rows} >= {(name, name) for name in names}


@pytest.mark.parametrize("margin", ["ratio", "distance"])
def test_pairs_are_those_of_the_library(run, sides, tmp_path, margin):
    out = tmp_path / "pairs.tsv"
    done = run("mine", *sides, "--margin", margin, "-k", 2, "--out", out)
    assert done.code == 0 and f"{out}: " in done.out and "pairs of 6 and 8 rows" in done.out
    speech, texts = (read_vectors([side]) for side in sides)
    expected = mine(speech.vectors, texts.vectors, margin=margin, k=2)
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [(row["id_a"], row["id_b"]) for row in rows]
    assert found == [(speech.rows["id"][p.a].as_py(), texts.rows["id"][p.b].as_py()) for p in expected] and found
    assert rows[0]["kind_a"] == "speech" and rows[0]["audio_a"].endswith(".wav") and rows[0]["audio_b"] == ""
    assert rows[0]["text_a"].startswith("text ") and float(rows[0]["score"]) == pytest.approx(
        expected[0].score, abs=1e-6
    )
    assert run("mine", *sides, "--margin", margin, "-k", 2).out == out.read_text("utf-8")
    as_json = run("mine", *sides, "--margin", margin, "-k", 2, "--json").json
    assert [(pair["a"]["id"], pair["b"]["id"]) for pair in as_json] == found
    assert {(a, b) for a, b in found} >= {(f"m{n}", f"m{n}") for n in range(6)}
    least = expected[2].score - 1e-6
    assert run("mine", *sides, "--margin", margin, "-k", 2, "--threshold", least, "--json").json == as_json[:3]


def test_speech_with_speech(run, models, make_wav, tmp_path):
    clips = [make_wav(f"{n}.wav", 0.4, 100 * (n + 1)) for n in range(6)]
    for name, some in (("a", clips), ("b", [clips[2], clips[4]])):
        for clip in some:
            shutil.copy(clip, tmp_path / f"{name}-{clip.name}")
        assert (
            run("embed", tmp_path / f"{name}-*", "-m", models.continuous, "-o", tmp_path / f"{name}.parquet").code == 0
        )
    pairs = run("mine", tmp_path / "a.parquet", tmp_path / "b.parquet", "--json").json
    found = {tuple(pair[side]["id"].rpartition("-")[2] for side in "ab") for pair in pairs}
    assert found == {("2.wav", "2.wav"), ("4.wav", "4.wav")}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--margin", "rato"], 2, "Did you mean 'ratio'"),
        (["--neighbours", "none"], 2, "allowed: auto, flat, hnsw"),
        (["-k", "0"], 2, "Invalid value for '-k'"),
        (["--out", "{}"], 1, "is there; name another file"),
    ],
)
def test_bad_arguments(run, sides, tmp_path, options, code, message):
    (tmp_path / "there.tsv").write_text("mine")
    done = run("mine", *sides, *(option.format(tmp_path / "there.tsv") for option in options))
    assert done.code == code and message in done.err and (tmp_path / "there.tsv").read_text() == "mine"


def test_a_side_that_is_missing_or_given_twice(run, sides, tmp_path):
    assert "given twice" in run("mine", sides[0], sides[0]).err
    done = run("mine", sides[0], tmp_path / "none.parquet")
    assert done.code == 1 and "none.parquet does not exist" in done.err


def test_a_full_disk(run, sides, tmp_path, monkeypatch):
    def full(_):
        yield "score\n"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_tsv", full)
    done = run("mine", *sides, "--out", tmp_path / "pairs.tsv")
    assert done.code == 1 and done.err == "error: the disk is full\n"
    assert not list(tmp_path.glob("*pairs.tsv"))
