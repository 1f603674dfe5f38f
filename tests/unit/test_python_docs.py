"""Every Python example of docs/python.md runs, in order, as a reader would run them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mteb
import pytest
import soundfile
from mteb.mocks import MockBitextMiningTask

from speechde.types import SAMPLE_RATE

PAGE = Path(__file__).resolve().parents[2] / "docs/python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tiny_model, make_tone, tmp_path, monkeypatch, own_cache):
    """A folder with the clips and the one model that quickstart makes; mteb's hub task is one of its mocks."""
    shutil.copytree(tiny_model("continuous"), tmp_path / "runs/quickstart/default-s0/model")
    for name, seconds in (("a.ogg", 0.4), ("b.ogg", 1.1)):
        soundfile.write(tmp_path / name, make_tone(seconds), SAMPLE_RATE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))
    monkeypatch.setattr(mteb, "get_task", lambda *_, **__: MockBitextMiningTask())


def test_the_examples_run(place, tiny_model):
    assert len(EXAMPLES) > 8
    names: dict = {}
    for number, example in enumerate(EXAMPLES):
        if number == len(EXAMPLES) - 1:  # the one that needs another run, and says so
            assert "recipe=stamps" in PAGE.read_text("utf-8").partition(example)[0].splitlines()[-3]
            shutil.copytree(tiny_model("discrete"), "runs/stamps/default-s0/model")
        line = PAGE.read_text("utf-8").partition(example)[0].count("\n")
        exec(compile("\n" * line + example, f"{PAGE.name}, example {number}", "exec"), names)
    assert {path.name for path in Path().iterdir()} >= {"speech.npy", "vectors.parquet", "onnx", "copy"}
