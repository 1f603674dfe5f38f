"""ONNX files give the vectors of PyTorch for batches and lengths that they were not traced with."""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import pytest
from transformers import AutoTokenizer

from speechde import Image, Item, SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.errors import AssetError, ConfigError, DataError
from speechde.export import onnx
from speechde.features.pictures import patches_in_memory
from speechde.models.frontends.base import pad_sequences

TEXTS = ["a", "un autobuz cu etaj și foarte lung", "été"]


@pytest.mark.parametrize(
    ("kind", "options", "dim"),
    [("discrete", {"normalise": False}, None), ("continuous", {"speech_layer": 1, "dims": (8, 5), "sees": 3}, 5)],
)
def test_both_sides_give_the_vectors_of_the_library(tiny_model, make_wav, tmp_path, kind, options, dim):
    encoder = SpeechTextEncoder.from_pretrained(tiny_model(kind, **options), device="cpu", dim=dim)
    paths = [str(make_wav(f"{n}.wav", seconds, seed=n)) for n, seconds in enumerate((0.4, 1.7, 0.9))]
    text, speech = encoder.encode_text(TEXTS, "ro"), encoder.encode_speech(paths, "ro")
    differences = onnx.export_onnx(encoder.trained, tmp_path / "o")
    files = {"text.onnx", "speech.onnx", *(["image.onnx"] if "sees" in options else [])}
    assert set(differences) == files and max(differences.values()) <= onnx.TOLERANCE
    prompt = encoder.trained.prompt
    ids = pad_sequences([prompt.text_ids(item, "ro_ro") for item in TEXTS])
    sides = {"text": {"input_ids": ids.values, "attention_mask": ids.mask}}
    items = pad_sequences(encoder.speech_items([encoder.waveform(path) for path in paths]))
    prefix = pad_sequences([prompt.speech_ids("ro_ro")] * len(paths))
    sides["speech"] = {"speech": items.values, "speech_mask": items.mask, "prefix_ids": prefix.values,
                       "prefix_mask": prefix.mask}  # fmt: skip
    answers = {"text": text, "speech": speech}
    if "sees" in options:
        pictures = list(np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8))
        answers["image"] = encoder.embed([Item(Image(picture), lang="ro") for picture in pictures])
        items = pad_sequences(patches_in_memory(pictures, encoder.vision))
        prefix = pad_sequences([prompt.medium_ids("image", "ro_ro")] * 3)
        sides["image"] = {"image": items.values, "image_mask": items.mask, "prefix_ids": prefix.values,
                          "prefix_mask": prefix.mask}  # fmt: skip
    for name, expected in answers.items():
        session = onnxruntime.InferenceSession(tmp_path / f"o/{name}.onnx")
        (found,) = session.run(None, {key: tensor.numpy() for key, tensor in sides[name].items()})
        limit = onnx.TOLERANCE * np.linalg.norm(expected, axis=1).max()
        np.testing.assert_allclose(found, expected, atol=limit, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "o")
    assert tokenizer(prompt.prefix("text", "ro_ro") + TEXTS[0])["input_ids"] == ids.values[0][ids.mask[0]].tolist()


@pytest.fixture
def trained(tiny_model):
    return TrainedModel.load(tiny_model("discrete"))


def test_another_vector_than_pytorchs_is_not_kept(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "TOLERANCE", 0.0)
    with pytest.raises(AssetError, match=r"text\.onnx differs from the model by"):
        onnx.export_onnx(trained, tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_refused(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise NotImplementedError("no such operator\nmore")

    with monkeypatch.context() as patched:
        patched.setattr(onnx.torch.onnx, "export", fail)
        with pytest.raises(ConfigError, match=r"text\.onnx: a model over 'gemma3_text' .*\(no such operator\)"):
            onnx.export_onnx(trained, tmp_path / "o")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(AssetError, match=r"pip install -e '.*\[onnx\]'"):
            onnx.export_onnx(trained, tmp_path / "o")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not empty"):
        onnx.export_onnx(trained, tmp_path)
