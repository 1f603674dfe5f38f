"""``speechde evaluate-text``: a trained model, and one as it comes, on tiny replicas of the benchmarks."""

from __future__ import annotations

import json

import pytest


def test_a_trained_model(run, models, public_folder, tmp_path):
    done = run("evaluate-text", models.continuous, "-t", "sib200", "-t", "xquad", "-l", "ro", "--folder", public_folder,
               "-o", tmp_path / "out", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert set(done.json["tasks"]) == {"sib200", "xquad"}
    assert done.json["tasks"]["sib200"]["per_language"]["ro_ro"]["role"] == "zero_shot"
    assert done.json == json.loads((tmp_path / "out/text.json").read_text("utf-8"))
    assert (tmp_path / "out/table.md").read_text("utf-8").startswith(f"# Text retrieval: {models.continuous}")


def test_a_model_as_it_comes(run, tiny_llm, public_folder):
    done = run("evaluate-text", tiny_llm(), "--prefix", "query: ", "--per-language", 2, "--folder", public_folder)
    assert done.code == 0, done.err
    assert "training unknown" in done.out and "queries per language: 2" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-t", "sib"], 2, "Did you mean 'sib200'"),
        (["-l", "klingon"], 2, "'klingon' is not known"),
        (["--prefix", "x"], 2, "prompts of its own"),
        (["--device", "abacus"], 2, "cannot be used here"),
    ],
)
def test_bad_arguments(run, models, public_folder, tmp_path, arguments, code, message):
    done = run("evaluate-text", models.continuous, "--folder", public_folder, *arguments, "-o", tmp_path / "new/out")
    assert (done.code, done.out) == (code, "") and message in done.err
    assert not (tmp_path / "new").exists()  # no empty folder of an evaluation that there is not
