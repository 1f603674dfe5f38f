"""``speechde data stats``: the table of the recipe's first stage, with hours."""

from __future__ import annotations

import json

import pytest

from speechde.config import DataConfig
from speechde.corpora.load import load_corpus
from speechde.corpora.manifest import write_manifest
from speechde.corpora.statistics import corpus_statistics, durations, format_statistics


@pytest.fixture
def path(clips, tmp_path):
    """A manifest of the clips, one of whose files is no audio, and a row whose file is missing."""
    path = write_manifest(clips, tmp_path / "clips.jsonl")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    rows = '{"id": "bad", "lang": "fr", "text": "x", "audio": "bad.wav"}\n'
    rows += '{"id": "gone", "lang": "fr", "text": "x", "audio": "gone.wav"}\n'
    path.write_text(path.read_text("utf-8") + rows, "utf-8")
    return path


def test_table(run, path, clips, tmp_path):
    done = run("data", "stats", path, "--seen", "es", "--seen", "French")
    corpus = load_corpus(DataConfig("manifest", path=str(path), seen=["es_419", "fr_fr"]), tmp_path)
    seconds = durations(corpus.utterances)
    corpus.utterances = [u for u in corpus.utterances if u.id in seconds]
    assert len(corpus.utterances) == len(clips)
    table, _ = format_statistics(corpus_statistics(corpus, seconds)).rsplit("\n", 1)
    assert done.out == f"{table}\ndropped: missing file: 1, unreadable: 1\n"
    assert "left out: bad: unreadable" in done.err and "left out: gone: missing file" in done.err


def test_json(run, path):
    stats = run("data", "stats", path, "--seen", "es", "--json").json
    assert stats["languages"]["es_419"]["role"] == "seen" and stats["languages"]["ro_ro"]["role"] == "zero_shot"
    row = stats["languages"]["ro_ro"]["train"]
    assert (row["clips"], row["sentences"], row["duplicates"]) == (5, 5, 0)
    assert row["hours"] == pytest.approx(5 * 0.3 / 3600)
    assert stats["dropped"] == {"missing file": 1, "unreadable": 1}
    unread = run("data", "stats", path, "--no-hours", "--json").json
    assert unread["total"]["hours"] is None and unread["dropped"] == {"missing file": 1}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.tsv"], 1, "none.tsv does not exist"),
        (["stamp"], 2, "Did you mean 'stamps'"),
        (["covost"], 2, "needs --covost FOLDER"),
        (["{}", "--seen", "klingon"], 2, "'klingon' is not known"),
        (["{}", "--missing", "no"], 2, "allowed: error, skip"),
    ],
)
def test_bad_arguments(run, path, arguments, code, message):
    done = run("data", "stats", *(argument.format(path) for argument in arguments))
    assert done.code == code and message in done.err and done.out == ""


def test_no_readable_clip(run, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    (tmp_path / "m.tsv").write_text("id\tlang\ttext\taudio\na\tfr\tx\tbad.wav\n", "utf-8")
    done = run("data", "stats", tmp_path / "m.tsv")
    assert done.code == 1 and "no clip of" in done.err


def test_a_file_of_examples(run, clips, tmp_path):
    path = tmp_path / "examples.jsonl"
    spoken = {"parts": [{"audio": clips[0].audio}], "lang": "es"}
    rows = [
        {"query": spoken, "positive": "un chat", "negatives": ["un chien", "un ours"], "source": "recorded"},
        {"query": spoken, "positive": "Un chat", "source": "recorded"},
        {"query": "a", "positive": "b", "split": "test"},
        {"query": "a", "positive": "c"},
        {"query": "a"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = run("data", "stats", path)
    assert done.out.splitlines()[1:] == [
        "stratum  split  sources          examples  negatives  repeats  clips  pictures",
        "-------  -----  ---------------  --------  ---------  -------  -----  --------",
        "-        test   - 1                     1          0        0      0         0",
        "es_419   train  recorded 2              2          2        1      1         0",
        "all      train  recorded 2              2          2        1      1         0",
        "all      dev    -                       0          0        0      0         0",
        "all      test   - 1                     1          0        0      0         0",
        "all      all    recorded 2, - 1         3          2        1      1         0",
        "dropped: missing field: 1, train text is in test: 1",
    ]
    assert "left out: line 5: missing field" in done.err and "left out: line 4: train text is in test" in done.err
    assert run("data", "stats", path, "--json").json["total"]["examples"] == 3


@pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
def test_a_corpus_as_a_manifest(run, path, clips, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    done = run("data", "manifest", path, "--out", out, "--seen", "es")
    # a damaged file is found when it is decoded; one that is missing is left out and listed
    assert "left out: gone: missing file" in done.err and f"{len(clips) + 1} clips; data=manifest" in done.out
    assert done.out.endswith("data.seen=[es_419]\n")
    again, first = (load_corpus(DataConfig("manifest", path=str(each), seen=["es"]), tmp_path) for each in (out, path))
    assert again.utterances == first.utterances and again.zero_shot == first.zero_shot
    seen = run("data", "manifest", path, "--out", tmp_path / f"seen{suffix}", "--seen", "es", "--only-seen")
    assert f"{sum(one.lang == 'es_419' for one in first.utterances)} clips" in seen.out
    own = load_corpus(DataConfig("manifest", path=str(tmp_path / f"seen{suffix}"), seen=["es"]), tmp_path)
    assert own.utterances == first.select(langs=["es_419"]) and 0 < len(own.utterances) < len(first.utterances)
    assert run("data", "manifest", path, "--out", out).code == 1, "what is there is not replaced"
    assert run("data", "manifest", path, "--out", out, "--overwrite").code == 0


def test_a_manifest_has_a_known_form(run, path, tmp_path):
    done = run("data", "manifest", path, "--out", tmp_path / "out.csv")
    assert done.code == 2 and "allowed: *.jsonl, *.parquet, *.tsv" in done.err
    assert run("data", "manifest", "stamp", "--out", tmp_path / "out.tsv").code == 2
