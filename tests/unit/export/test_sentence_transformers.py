"""``SentenceTransformer(folder)`` gives the vectors of the library, for every form of input that it documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as PillowImage
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss

from speechde import Audio, Image, Item, SpeechTextEncoder, Text
from speechde.checkpoint import reader
from speechde.errors import ConfigError, DataError
from speechde.media.audio import AudioError, load_audio
from speechde.media.image import ImageError
from speechde.types import SAMPLE_RATE

TEXTS = ["a", "un autobuz cu etaj, roșu și foarte lung", "été", "four words of text"]


@pytest.fixture(params=["discrete", "continuous"])
def pair(request, tiny_model):
    folder = tiny_model(request.param)
    return SentenceTransformer(str(folder), device="cpu"), SpeechTextEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture
def paths(make_wav):
    return [str(make_wav(f"{n}.wav", seconds, seed=n)) for n, seconds in enumerate((0.4, 1.7, 0.2, 0.9, 0.2))]


def test_same_vectors_of_texts_and_clips_of_mixed_lengths(pair, paths):
    model, encoder = pair
    for batch_size in (2, 32):
        np.testing.assert_allclose(model.encode(TEXTS, batch_size=batch_size), encoder.encode_text(TEXTS), atol=2e-6)
        speech = model.encode(paths, batch_size=batch_size)
        np.testing.assert_allclose(speech, encoder.encode_speech(paths), atol=2e-6)
    for lang in ("ro", "fra"):
        text = model.encode(TEXTS, language=lang)
        np.testing.assert_allclose(text, encoder.encode_text(TEXTS, lang), atol=2e-6)
        assert np.abs(text - model.encode(TEXTS)).max() > 1e-4, "the language is in the prefix"
        np.testing.assert_allclose(model.encode(paths, language=lang), encoder.encode_speech(paths, lang), atol=2e-6)
    assert model.encode(TEXTS[0]).shape == (encoder.dim,) == model.encode(paths[0]).shape
    assert model.get_embedding_dimension() == encoder.dim and model.modalities == ["text", "audio", ("audio", "text")]
    np.testing.assert_allclose(model.similarity(speech, text), encoder.similarity(speech, text), atol=1e-5)


def test_every_form_of_a_clip(pair, paths):
    model, encoder = pair
    wave = load_audio(paths[0])
    expected = encoder.encode_speech(paths[0])
    data = open(paths[0], "rb").read()
    forms = [
        {"array": wave, "sampling_rate": SAMPLE_RATE},
        {"array": torch.from_numpy(wave), "sampling_rate": SAMPLE_RATE},
        {"audio": paths[0]},
        {"bytes": data, "path": None},
        wave,
        torch.from_numpy(wave),
    ]
    for form in forms:
        np.testing.assert_allclose(model.encode([form])[0], expected, atol=2e-6, err_msg=str(type(form)))
    np.testing.assert_allclose(model.encode([{"text": TEXTS[0]}])[0], encoder.encode_text(TEXTS[0]), atol=2e-6)


@pytest.mark.parametrize("name", ["clips/missing.wav", "missing.WAV", "a b/missing.opus", "C:\\clips\\a.mp3",
                                  "https://example.org/a.ogg", "~/a.flac"])  # fmt: skip
def test_a_path_without_a_file_is_no_text(pair, name):
    model, _ = pair
    with pytest.raises(DataError, match=r"is no file; give \{'audio': path\}"):
        model.encode([name])
    with pytest.raises(AudioError, match=r"missing file: clip 0: .*" + re.escape(name)):
        model.encode([{"audio": name}])


def test_what_an_input_is_its_type_says(pair, paths, make_wav, tmp_path):
    model, encoder = pair
    for text in ("clips/missing.wav", paths[0], "a.", "please play song.mp3", "roșu.ogg"):
        np.testing.assert_allclose(model.encode([{"text": text}])[0], encoder.encode_text(text), atol=2e-6)
    np.testing.assert_allclose(
        model.encode("please play song.mp3"), encoder.encode_text("please play song.mp3"), atol=2e-6
    )
    other = tmp_path / "clip.snd"  # a suffix that sentence-transformers does not know
    other.write_bytes(open(paths[0], "rb").read())
    for clip in (str(other), {"audio": str(other)}, {"audio": other}, other):
        np.testing.assert_allclose(model.encode([clip])[0], encoder.encode_speech(paths[0]), atol=2e-6)
    for wrong in ({"text": 3}, {"text": None}, {"text": "  "}):
        with pytest.raises(DataError, match="not empty"):
            model.encode([wrong])


def test_long_clips_are_means_of_parts(pair, paths, monkeypatch):
    model, encoder = pair
    monkeypatch.setattr(reader, "MAX_SECONDS", 0.5)
    np.testing.assert_allclose(model.encode(paths), encoder.encode_speech(paths), atol=2e-6)


def test_a_prompt_goes_before_the_text(pair):
    model, encoder = pair
    np.testing.assert_allclose(model.encode(TEXTS, prompt="query: "),
                               encoder.encode_text(["query: " + text for text in TEXTS]), atol=2e-6)  # fmt: skip


def test_prompts_of_a_model_are_for_texts(pair, paths, tmp_path):
    model, encoder = pair
    model.prompts = {"query": "query: ", "document": "passage: "}
    model.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    asked = encoder.encode_text([f"query: {text}" for text in TEXTS])
    np.testing.assert_allclose(again.encode_query(TEXTS), asked, atol=2e-6)
    with pytest.raises(ConfigError, match=r"'passage: ' cannot be put before speech or a picture; .* with prompt=''"):
        again.encode_document(paths)
    np.testing.assert_allclose(again.encode_document(paths, prompt=""), encoder.encode_speech(paths), atol=2e-6)


def test_how_many_tokens_are_read(pair, caplog):
    model, encoder = pair
    long = ["words " * 100]
    model.encode(long[:1])
    caplog.clear()
    model.max_seq_length = 16
    assert model.max_seq_length == 16
    with caplog.at_level("WARNING", "speechde"):
        short = model.encode(long)
    assert "1 of 1 texts were cut at 16 tokens" in caplog.text
    assert np.abs(short - encoder.encode_text(long)).max() > 1e-5
    for wrong in (0, 15, 10**6, True, "32", 32.0):
        with pytest.raises(ConfigError, match=r"max_seq_length=.* reads 16 to"):
            model.max_seq_length = wrong


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision(pair, paths, dtype):
    """As the library's own: everything that follows the LLM stays float32."""
    model, encoder = pair
    lowered = SpeechTextEncoder(encoder.trained, "cpu", dtype=dtype)
    model.to(dtype)
    np.testing.assert_allclose(model.encode(TEXTS), lowered.encode_text(TEXTS), atol=2e-2)
    np.testing.assert_allclose(model.encode(paths), lowered.encode_speech(paths), atol=2e-2)
    assert model.encode(TEXTS).dtype == np.float32
    assert {buffer.dtype for buffer in model.buffers() if buffer.is_floating_point()} <= {torch.float32}


def test_saved_again_and_trained_further(pair, paths, tmp_path):
    model, encoder = pair
    model.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_array_equal(again.encode(paths), model.encode(paths))
    loaded = SpeechTextEncoder.from_pretrained(tmp_path / "again", device="cpu")
    np.testing.assert_array_equal(loaded.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert (tmp_path / "again/README.md").read_text("utf-8") == encoder.trained.card
    for batch in (TEXTS, paths):
        model.zero_grad()
        model(model.preprocess(batch))["sentence_embedding"].sum().backward()
        assert model[0].model.projection.weight.grad.abs().sum() > 0


def test_refused(pair, paths, tiny_model):
    model, _ = pair
    with pytest.raises(ConfigError, match="klingon"):
        model.encode(TEXTS, language="klingon")
    with pytest.raises(ValueError, match="modalit"):
        model.encode([TEXTS[0], paths[0]])
    with pytest.raises(DataError, match="not one input"):
        model.encode([("a", "b")])
    with pytest.raises(DataError, match="not empty"):
        model.encode([" "])
    with pytest.raises(ConfigError, match="before speech"):
        model.encode(paths, prompt="query: ")
    with pytest.raises(AudioError, match="silent: clip 0"):
        model.encode([{"array": np.zeros(SAMPLE_RATE), "sampling_rate": SAMPLE_RATE}])
    folder = str(tiny_model("discrete"))
    with pytest.raises(ConfigError, match="torch_dtype: not known"):
        SentenceTransformer(folder, device="cpu", model_kwargs={"torch_dtype": "float16"})
    with pytest.raises(ConfigError, match="pickle"):
        model[0].save(folder, safe_serialization=False)


@pytest.fixture
def seeing(tiny_model):
    folder = tiny_model("continuous", sees=True)
    return SentenceTransformer(str(folder), device="cpu"), SpeechTextEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture
def pictures(tmp_path):
    """Paths of three pictures of different sizes."""
    paths = [str(tmp_path / name) for name in ("a.png", "b.JPEG", "c.webp")]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), np.uint8)
        PillowImage.fromarray(pixels).save(path)
    return paths


def test_every_form_of_a_picture(seeing, pictures):
    model, encoder = seeing
    assert {"text", "audio", "image", ("audio", "image"), ("audio", "image", "text")} < set(model.modalities)
    expected = encoder.embed([Item(Image(path)) for path in pictures])
    for batch_size in (2, 32):
        np.testing.assert_allclose(model.encode(pictures, batch_size=batch_size), expected, atol=2e-6)
    pixels = np.array(PillowImage.open(pictures[0]))
    forms = [pictures[0], {"image": pictures[0]}, {"image": Path(pictures[0])}, PillowImage.open(pictures[0]), pixels,
             {"image": Path(pictures[0]).read_bytes()}, torch.from_numpy(pixels),
             {"image": torch.from_numpy(pixels).permute(2, 0, 1)}, {"image": [pictures[0]]}]  # fmt: skip
    for form in forms:
        np.testing.assert_allclose(model.encode([form])[0], expected[0], atol=2e-6, err_msg=str(type(form)))


def test_dicts_of_several_are_items(seeing, pictures, paths):
    """Parts in the order of the keys, in one batch with other orders and numbers of them."""
    model, encoder = seeing
    (a, b, _), clip = pictures, paths[0]
    inputs = [
        {"text": "a yellow one", "image": a},
        {"image": a, "text": "a yellow one"},
        {"text": "two", "image": [a, b]},
        {"image": (b,), "text": ["a", "b"]},
    ]
    items = [Item(Text("a yellow one"), Image(a)), Item(Image(a), Text("a yellow one")),
             Item(Text("two"), Image(a), Image(b)), Item(Image(b), Text("a"), Text("b"))]  # fmt: skip
    np.testing.assert_allclose(model.encode(inputs), encoder.embed(items), atol=2e-6)
    both = {"audio": (load_audio(clip), SAMPLE_RATE), "image": a}
    expected = encoder.embed(Item(Audio(clip), Image(a), lang="ro"))
    np.testing.assert_allclose(model.encode(both, language="ro"), expected, atol=2e-6)
    three = {"text": "x", "image": a, "audio": clip}
    expected = encoder.embed(Item(Text("x"), Image(a), Audio(clip)))
    np.testing.assert_allclose(model.encode([three])[0], expected, atol=2e-6)


def test_pictures_that_are_refused(seeing, pair, pictures):
    model, _ = seeing
    for name in ("missing.png", "https://example.org/a.jpg", "a/b c.webp"):
        with pytest.raises(DataError, match=r"path of a picture, and is no file; give \{'image': path\}"):
            model.encode([name])
    with pytest.raises(DataError, match="data: string"):
        model.encode(["data:image/png;base64,AAAA"])
    with pytest.raises(ImageError, match=r"missing file: picture 0: gone\.png"):
        model.encode([{"image": "gone.png"}])
    with pytest.raises(ImageError, match=r"picture 1: .*give \(height, width, 3\) of uint8"):
        model.encode([{"image": pictures[0]}, {"image": np.zeros((4, 4, 3), np.float32)}])
    with pytest.raises(ConfigError, match="no frontend for image"):
        pair[0].encode([pictures[0]])
    with pytest.raises(ValueError, match="modalit"):
        pair[0].encode([{"image": pictures[0]}])
    with pytest.raises(ConfigError, match="before speech or a picture"):
        model.encode(pictures, prompt="query: ")
    mixed = model.preprocess([{"text": "x", "image": pictures[0]}, {"image": pictures[0], "text": "x"}])
    with pytest.raises(DataError, match="cannot be cut"):
        model({key: values[:1] for key, values in mixed.items() if key.startswith(("0", "1"))} | {
            "input_values": mixed["input_values"][:1]})  # fmt: skip


def test_its_trainer_reads_pictures_and_clips(seeing, pictures, paths, tmp_path):
    """A column of dicts becomes features that the loss is given."""
    model, _ = seeing
    rows = {"anchor": [{"image": path, "audio": clip} for path, clip in zip(pictures, paths, strict=False)],
            "positive": TEXTS[:3]}  # fmt: skip
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=3, report_to=[], use_cpu=True,
        save_strategy="no", learning_rate=1e-2,
    )  # fmt: skip
    seen = []

    class Loss(MultipleNegativesRankingLoss):
        def forward(self, features, labels):
            seen.append([{key.rpartition(".")[2] for key in column} for column in features])
            return super().forward(features, labels)

    before = {name: weight.clone() for name, weight in model.named_parameters()}
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(rows), loss=Loss(model)
    ).train()
    ((query, answer),) = seen
    assert {"speech", "image", "input_values"} <= query and "input_ids" in answer
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert any("frontends.image" in name for name in changed) and any("frontends.speech" in name for name in changed)


@pytest.mark.parametrize("first", ["speechde", "sentence_transformers"])
def test_import_speechde_is_all_that_is_needed(tiny_model, first):
    """In whatever order the two are imported."""
    second = "sentence_transformers" if first == "speechde" else "speechde"
    code = (
        f"import {first}, {second}; from sentence_transformers import SentenceTransformer\n"
        f"print(SentenceTransformer({str(tiny_model('discrete'))!r}, device='cpu').encode('a').shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "(8,)", done.stderr
