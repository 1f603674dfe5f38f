"""``speechde units``: what the model reads, printed or written."""

from __future__ import annotations

import json

import pytest

from speechde import SpeechTextEncoder


@pytest.fixture
def clips(make_wav, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no")
    return [str(make_wav(f"{n}.wav", 0.4 + n / 10, 150 * (n + 1))) for n in range(3)]


def test_units_are_those_of_the_library(run, models, clips, tmp_path):
    expected = [units.tolist() for units in SpeechTextEncoder.from_pretrained(models.discrete).units(clips)]
    done = run("units", *clips, tmp_path / "bad.wav", "-m", models.discrete)
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert done.code == 0 and [id_ for id_, _ in lines] == clips
    assert [[int(unit) for unit in units.split()] for _, units in lines] == expected
    assert "bad.wav: unreadable" in done.err
    as_json = run("units", *clips, "-m", models.discrete, "--json").out
    assert [json.loads(line) for line in as_json.splitlines()] == [
        {"id": id_, "units": units} for id_, units in zip(clips, expected, strict=True)
    ]
    for name, text in (("u.tsv", done.out), ("u.jsonl", as_json)):
        assert run("units", *clips, "-m", models.discrete, "--out", tmp_path / name).code == 0
        assert (tmp_path / name).read_text("utf-8") == text
    again = run("units", *clips, "-m", models.discrete, "--out", tmp_path / "u.tsv")
    assert again.code == 1 and "is there" in again.err


def test_bad_input_leaves_no_file(run, models, clips, tmp_path):
    out = tmp_path / "u.tsv"
    for arguments, code, message in (
        ([*clips, "-m", models.continuous], 2, "continuous frontend and no units"),
        ([tmp_path / "bad.wav", "-m", models.discrete], 1, "none of 1 inputs could be used (unreadable: 1)"),
        (["a text", "-m", models.discrete], 2, "is a text; only clips have units"),
        ([*clips, "-m", tmp_path / "none"], 1, "does not exist"),
    ):
        done = run("units", *arguments, "--out", out)
        assert done.code == code and message in done.err and not list(tmp_path.glob("*u.tsv"))
    assert run("units", *clips, "-m", models.discrete, "--out", tmp_path / "u.csv").code == 2
