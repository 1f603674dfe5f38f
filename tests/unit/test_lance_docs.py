"""Every Python example of docs/lance.md runs, in order, and finds what exact products find."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechde import SpeechTextEncoder
from speechde.search.embed import embed_items
from speechde.search.items import Item
from speechde.search.vectors import read_vectors
from speechde.types import SAMPLE_RATE

PAGE = Path(__file__).resolve().parents[2] / "docs/lance.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
TEXTS = [
    ("ro_ro", "un urs"),
    ("fr_fr", "un ours"),
    ("ro_ro", "o casă"),
    ("fr_fr", "une maison"),
    ("ro_ro", "trei pisici"),
]


@pytest.fixture
def place(tiny_model, make_tone, tmp_path, monkeypatch, own_cache):
    """A folder with a model, two files of its vectors, and a question."""
    pytest.importorskip("lance")
    model = tmp_path / "runs/quickstart/default-s0/model"
    shutil.copytree(tiny_model("continuous"), model)
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.ogg", "b.ogg", "question.ogg")):
        soundfile.write(name, make_tone(0.4 + number / 5, 200.0 * (number + 1)), SAMPLE_RATE)
    encoder = SpeechTextEncoder.from_pretrained(model, device="cpu")
    clips = [Item(name, "ro_ro", "un urs", name) for name in ("a.ogg", "b.ogg")]
    written = [Item(f"t{number}", lang, text, None) for number, (lang, text) in enumerate(TEXTS)]
    for name, items in (("vectors", clips), ("texts", written)):
        embed_items(encoder, items, Path(f"{name}.parquet"), model="m")
    return encoder


def test_the_examples_run(place, capsys):
    names: dict = {}
    for number, example in enumerate(EXAMPLES):
        line = PAGE.read_text("utf-8").partition(example)[0].count("\n")
        exec(compile("\n" * line + example, f"{PAGE.name}, example {number}", "exec"), names)
    stored = read_vectors([Path("vectors.parquet"), Path("texts.parquet")])
    kept = [row for row, kind, lang in zip(range(len(stored)), stored.rows["kind"].to_pylist(),
            stored.rows["language"].to_pylist(), strict=True) if (kind, lang) == ("text", "ro_ro")]  # fmt: skip
    scores = stored.vectors[kept] @ place.encode_speech("question.ogg")
    best = np.argsort(-scores)
    assert names["found"]["text"].to_pylist() == [stored.rows["text"][kept[row]].as_py() for row in best]
    np.testing.assert_allclose(1 - names["found"]["_distance"].to_numpy(), scores[best], atol=1e-5)
    assert names["dataset"].count_rows() == 7 == len(names["dataset"].to_table(columns=["id"]))
    assert capsys.readouterr().out.count("ro_ro") == 3
