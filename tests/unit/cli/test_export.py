"""``speechde export``: what it writes, and what it refuses before a model is read."""

from __future__ import annotations

import shutil

import pytest
from sentence_transformers import SentenceTransformer

from speechde.checkpoint.folder import TrainedModel
from speechde.cli.export import export
from speechde.errors import AssetError, ConfigError, DataError
from speechde.export import onnx


def test_to_sentence_transformers(tiny_model, write_run, tmp_path, capsys):
    """A folder of an earlier version, with the results of its run beside it, gets its card."""
    run = write_run(tmp_path / "run")
    shutil.copytree(tiny_model("discrete"), run / "model")
    for name in ("README.md", "modules.json", "config_sentence_transformers.json", "prefixes.json"):
        (run / "model" / name).unlink()
    export(str(run), "sentence-transformers", tmp_path / "out")
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").encode("a").shape == (8,)
    assert "Catalan (ca_es) | seen | 12 | 12 |" in (tmp_path / "out/README.md").read_text("utf-8")
    assert "import speechde" in capsys.readouterr().out
    with pytest.raises(DataError, match="not empty"):
        export(str(run), "sentence-transformers", tmp_path / "out")


def test_to_onnx(tiny_model, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(onnx, "export_onnx", lambda *given: asked.append(given) or {"text.onnx": 1e-6})
    export(str(tiny_model("discrete")), "onnx", tmp_path / "out")
    ((trained, folder),) = asked
    assert isinstance(trained, TrainedModel) and folder == tmp_path / "out"
    assert "out/text.onnx: at most 1.0e-06 from PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onxx", "out": "o"}, r"'onxx' is not known; .*Did you mean 'onnx'"),
        ({"to": "onnx"}, "--to onnx needs --out"),
        ({"to": "hub", "out": "o"}, "--to hub needs --repo, and has no --out"),
        ({"to": "hub", "out": "o", "repo": "a/b"}, "has no --out"),
        ({"to": "sentence-transformers", "repo": "a/b"}, "needs --out, and has no --repo"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        export("no/such/model", **options)


def test_no_model(tmp_path):
    with pytest.raises(AssetError, match="does not exist"):
        export(str(tmp_path / "none"), "onnx", tmp_path / "out")
