"""``speechde contact-sheet`` on a model of texts."""

from __future__ import annotations

import json

import pytest
from PIL import Image


@pytest.fixture
def examples(tmp_path):
    rows = [{"query": {"parts": [f"{lang} {n}"], "lang": lang}, "positive": f"thing {lang} {n}", "split": "test"}
            for lang in ("fr", "ro") for n in range(4)]  # fmt: skip
    path = tmp_path / "things.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_sheet_of_a_split_and_of_a_language(run, models, examples, tmp_path):
    out = tmp_path / "sheet.jpg"
    done = run("contact-sheet", examples, "--model", models.continuous, "--out", out, "--count", 3)
    assert done.code == 0 and done.out.startswith(f"{out}: 3 queries of 8, ")
    assert Image.open(out).format == "JPEG"
    done = run("contact-sheet", examples, "--model", models.continuous, "--out", out, "-l", "ro", "-k", 4)
    assert done.out == f"{out}: 4 queries of 4, 4 with a right answer among 4\n"


def test_what_is_wrong_is_named(run, models, examples, tmp_path):
    given = ["contact-sheet", examples, "--model", models.continuous]
    for more, message in [
        (["--out", tmp_path / "a.png"], "suffix of --out: '.png' is not known; allowed: .jpeg, .jpg"),
        (["--out", tmp_path / "a.jpg", "--split", "dev"], "has no example of the split dev"),
        (["--out", tmp_path / "a.jpg", "-l", "el"], "'el_gr' is not known; allowed: fr_fr, ro_ro"),
        (["--out", tmp_path / "a.jpg", "--task", "qa"], "--task: 'qa' is not known"),
    ]:
        done = run(*given, *more)
        assert done.code == 2 and message in done.err, done.err
