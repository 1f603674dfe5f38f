"""``speechde search``: the hits of a query, by text and by voice."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from speechde import SpeechTextEncoder
from speechde.types import SAMPLE_RATE


def test_search_by_text_and_by_voice(run, models, index, lines, tmp_path, make_tone):
    encoder = SpeechTextEncoder.from_pretrained(models.continuous)
    texts = encoder.encode_text(lines, "ro")
    soundfile.write(tmp_path / "q.wav", make_tone(0.5), SAMPLE_RATE)
    done = run(
        "search", index, "o pisică", tmp_path / "q.wav", "-m", models.continuous, "-l", "ro", "-k", "3", "--json"
    )
    text, speech = done.json
    assert text["hits"][0]["text"] == "o pisică" and text["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    scores = texts @ encoder.encode_speech(str(tmp_path / "q.wav"), "ro")
    expected = [lines[row] for row in np.argsort(-scores)[:3]]
    assert speech["kind"] == "speech" and [hit["text"] for hit in speech["hits"]] == expected
    plain = run("search", index, "o pisică", "-m", models.continuous, "-l", "ro", "-k", "1")
    assert plain.out == "rank\tscore\tlanguage\ttext\tid\n1\t1.0000\tro_ro\to pisică\tstdin:2\n"


def test_search_without_a_language(run, models, index):
    assert len(run("search", index, "un chat", "-m", models.continuous, "--json").json[0]["hits"]) == 5


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        (["none.ogg"], 1, "none.ogg does not exist"),
        (["bad.ogg"], 1, "none of 1 queries could be used"),
        (["AC/DC", "--audio"], 1, "AC/DC names no file"),
        (["a", "--text", "--audio"], 2, "exclude each other"),
        (["a", "-l", "xx"], 2, "'xx' is not known"),
        (["a", "-k", "0"], 2, "Invalid value for '-k'"),
    ],
)
def test_bad_queries(run, models, index, tmp_path, monkeypatch, query, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.ogg").write_bytes(b"no")
    done = run("search", index, *query, "-m", models.continuous)
    assert done.code == code and message in done.err and done.out == ""


def test_a_text_that_looks_like_a_path(run, models, index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for query in (["AC/DC"], ["none.ogg", "--text"]):
        done = run("search", index, *query, "-m", models.continuous, "--json")
        assert done.code == 0 and done.json[0]["text"] == query[0], done.err
