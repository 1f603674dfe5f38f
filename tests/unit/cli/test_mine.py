"""``speechde mine``: the pairs of two files of vectors, as TSV."""

from __future__ import annotations

import csv
import json

import pytest
import soundfile

from speechde.cli import mine as module
from speechde.search.mining import mine
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE


@pytest.fixture
def sides(run, models, tmp_path, make_tone):
    """Clips of a manifest, and its texts with two more."""
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": f"m{n}", "lang": "ro", "text": f"text\u2028{n}", "audio": f"{n}.wav"}) + "\n"
                for n in range(6)), "utf-8")  # fmt: skip
    for n in range(6):
        soundfile.write(tmp_path / f"{n}.wav", make_tone(0.4, 100 * (n + 1)), SAMPLE_RATE)
    speech, texts = tmp_path / "speech.parquet", tmp_path / "texts.parquet"
    run("embed", tmp_path / "corpus.jsonl", "-m", models.continuous, "-o", speech)
    run("embed", tmp_path / "corpus.jsonl", "altceva", "și asta", "--texts", "-m", models.continuous, "-o", texts)
    return speech, texts


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
    best = run("mine", *sides, "--margin", margin, "-k", 2, "--threshold", expected[0].score - 1e-6, "--json").json
    assert best == as_json[: len(best)] and len(best) < len(as_json)


def test_speech_with_speech(run, models, sides, tmp_path):
    other = tmp_path / "other.parquet"
    run("embed", tmp_path / "2.wav", tmp_path / "4.wav", "-l", "ro", "-m", models.continuous, "-o", other)
    pairs = run("mine", sides[0], other, "--json").json
    assert {(pair["a"]["id"], pair["b"]["id"][-5:]) for pair in pairs} == {("m2", "2.wav"), ("m4", "4.wav")}


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
