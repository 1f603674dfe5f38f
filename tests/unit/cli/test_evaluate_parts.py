"""``speechde evaluate-parts`` on a model of texts and speech."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def examples(make_wav, tmp_path):
    rows = []
    for number in range(4):
        make_wav(f"{number}.wav", 0.4, 150 + 50 * number)
        query = {"parts": [{"text": f"say {number}"}, {"audio": f"{number}.wav"}], "lang": "fr"}
        rows.append({"query": query, "positive": f"chose {number}", "stratum": "fr_fr", "split": "test"})
    path = tmp_path / "things.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_whole_and_in_parts(run, models, examples, tmp_path):
    done = run("evaluate-parts", examples, "-m", models.continuous, "-c", "snr0", "-c", "clean", "-o", tmp_path / "out")
    assert done.code == 0 and "Parts of queries: things.jsonl" in done.out
    metrics = json.loads((tmp_path / "out/parts.json").read_text("utf-8"))
    assert list(metrics["conditions"]) == ["clean", "snr0"]
    assert set(metrics["conditions"]["snr0"]) == {"model", "speech alone", "text alone", "reverse order"}
    assert run("evaluate-parts", examples, "-m", models.continuous, "--json").json["queries"] == 4


def test_what_is_wrong_is_named(run, models, examples, tmp_path):
    given = ["evaluate-parts", examples, "-m", models.continuous]
    for more, code, message in [
        (["-c", "snr99"], 2, "eval.conditions: 'snr99' is not known; allowed: clean, snrN"),
        (["--task", "qa"], 2, "--task: 'qa' is not known"),
        (["--split", "dev"], 1, "not one of 0 examples of the split can be used"),
    ]:
        done = run(*given, *more)
        assert done.code == code and message in done.err, done.err
