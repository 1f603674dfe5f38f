"""The library gives the vectors of evaluation, for every form of input, and says what is wrong with the others."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from speechde import Audio, Item, SpeechTextEncoder, Text, api
from speechde.checkpoint import reader
from speechde.errors import AssetError, ConfigError, DataError
from speechde.evaluation import embed as stored
from speechde.features import sets
from speechde.media.audio import AudioError, load_audio
from speechde.scoring import evaluate
from speechde.training.directory import run_directory
from speechde.training.run import train
from speechde.types import SAMPLE_RATE


@pytest.fixture(params=["stamps", "quickstart_narrow"])
def trained(request, tiny_run):
    config = tiny_run(request.param, frontend__mean_norm=0.5)
    train(config)
    return config, SpeechTextEncoder.from_pretrained(run_directory(config))


@pytest.fixture
def encoder(tiny_model):
    return SpeechTextEncoder.from_pretrained(str(tiny_model("continuous")))


def test_vectors_are_those_of_evaluate(trained, clips, monkeypatch):
    config, encoder = trained
    kept = {}
    original = stored.embed_items

    def embed_items(model, prompt, items, *args, **options):
        made = original(model, prompt, items, *args, **options)
        kept.update(zip([item.parts[0].content for item in items], made.vectors, strict=True))
        return made

    monkeypatch.setattr(stored, "embed_items", embed_items)
    evaluate(config, run_directory(config))
    test = [u for u in clips if u.split == "test"]
    speech = encoder.encode_speech([u.audio for u in test], [u.lang for u in test])
    np.testing.assert_allclose(speech, [kept[u.audio] for u in test], atol=2e-6)
    text = encoder.encode_text([u.text for u in test], [u.lang for u in test])
    np.testing.assert_allclose(text, [kept[u.text] for u in test], atol=2e-6)
    assert speech.dtype == np.float32 and speech.shape == (len(test), encoder.dim)
    assert encoder.languages_seen == ("es_419", "fr_fr")
    assert encoder.fingerprint == SpeechTextEncoder.from_pretrained(run_directory(config)).fingerprint
    np.testing.assert_allclose(encoder.similarity(speech, text[0])[:, 0], speech @ text[0])


def test_items_are_those_of_the_stores(trained, clips):
    """Slow path: features stored on disk. Fast path: waveforms in memory."""
    config, encoder = trained
    test = [u for u in clips if u.split == "test"]
    speech, quantiser = encoder.trained.settings.speech, encoder.trained.quantiser
    cache = run_directory(config) / "cache"
    stored = sets.evaluation_items(speech, sets.build_encoder(config.frontend), quantiser, test, cache)
    for u, item in zip(test, encoder.speech_items([load_audio(u.audio) for u in test]), strict=True):
        np.testing.assert_array_equal(item, stored[u.id])


def test_order_and_batches_do_not_matter(encoder, clips, monkeypatch):
    paths = [u.audio for u in clips]
    whole = encoder.encode_speech(paths, "fr")
    monkeypatch.setattr(api, "CHUNK", 4)
    np.testing.assert_allclose(encoder.encode_speech(paths[::-1], "fr", progress=True)[::-1], whole, atol=2e-6)
    texts = [u.text for u in clips]
    np.testing.assert_allclose(encoder.encode_text(texts[::-1])[::-1], encoder.encode_text(texts), atol=2e-6)


def test_one_in_one_out(encoder, clips):
    vector = encoder.encode_speech(clips[0].audio, "fr_fr")
    assert vector.shape == (encoder.dim,)
    np.testing.assert_allclose(vector, encoder.encode_speech([clips[0].audio], ["fra"])[0])
    tensor = encoder.encode_text("bonjour", as_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.shape == (encoder.dim,)
    assert encoder.encode_speech([]).shape == (0, encoder.dim)
    assert encoder.similarity(vector, tensor).shape == (1, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_another_dtype(encoder, clips, tmp_path, dtype):
    fast = SpeechTextEncoder(encoder.trained, "cpu", dtype)
    for encode in ("encode_text", "encode_speech"):
        slow, quick = (getattr(e, encode)([getattr(u, encode[7:].replace("speech", "audio")) for u in clips])
                       for e in (encoder, fast))  # fmt: skip
        assert quick.dtype == np.float32 and not np.array_equal(slow, quick)
        np.testing.assert_allclose(quick, slow, atol=0.05)
    assert fast.fingerprint == encoder.fingerprint
    assert {p.dtype for p in encoder.trained.model.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match=f"rounded to {dtype}; load the model without dtype"):
        fast.save_pretrained(tmp_path / "model")


def test_an_overflow_is_an_error(encoder):
    fast = SpeechTextEncoder(encoder.trained, "cpu", torch.float16)
    fast.trained.model.backbone.embedding.text.weight.data.fill_(torch.inf)
    with pytest.raises(DataError, match=r"no finite vectors in torch\.float16; use dtype=torch\.bfloat16"):
        fast.encode_text("a")
    plain = SpeechTextEncoder(fast.trained, "cpu")
    plain.trained.model.float()
    with pytest.raises(DataError, match=r"in torch\.float32; its weights are damaged"):
        plain.encode_text("a")


def test_long_clips_are_embedded_in_parts_and_reported(encoder, monkeypatch, caplog):
    monkeypatch.setattr(reader, "MAX_SECONDS", 0.5)
    wave = np.random.default_rng(0).normal(size=int(1.5 * SAMPLE_RATE)).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        vector = encoder.encode_speech([wave], sampling_rate=SAMPLE_RATE)[0]
    assert "clip 0 of 2 s is embedded in 3 parts" in caplog.text
    parts = encoder.encode_speech(list(np.split(wave, 3)), sampling_rate=SAMPLE_RATE)
    mean = parts.mean(0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=2e-6)


def test_bad_arrays_and_rates_are_skipped_and_the_good_ones_kept(encoder):
    wave = np.random.default_rng(0).normal(size=SAMPLE_RATE // 2).astype(np.float32) / 4
    rows = [(wave, SAMPLE_RATE), (32_768 * wave, SAMPLE_RATE), (wave, 14_527_556), (wave, "16000"), (wave, 11_127)]
    vectors = encoder.encode_speech(
        [dict(zip(("array", "sampling_rate"), row, strict=True)) for row in rows], skip_bad=True
    )
    assert np.isfinite(vectors).all(1).tolist() == [True, False, False, False, True]
    with pytest.raises(AudioError, match="clip 1: the peak is"):
        encoder.encode_speech(rows)


def test_long_texts_are_cut_and_counted(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode_text(["a" * 100_000, "b"])
    assert "1 of 2 texts were cut at 128 tokens" in caplog.text and np.isfinite(vectors).all()


def test_any_text_has_a_vector(encoder):
    vectors = encoder.encode_text(["Ã©tÃ© â€“", "été", "\u0000", "🙂"])
    assert np.isfinite(vectors).all() and len(np.unique(vectors, axis=0)) == 4


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros(SAMPLE_RATE), "silent"),
        (np.ones(SAMPLE_RATE // 20), "too short"),
        (np.full(SAMPLE_RATE, np.nan), "not finite"),
        (np.zeros(0), "empty"),
        (b"no audio", "unreadable"),
        ("none.ogg", "missing file"),
    ],
)
def test_a_bad_clip_is_named(encoder, clips, clip, reason):
    with pytest.raises(AudioError, match=f"{reason}: clip 1") as error:
        encoder.encode_speech([clips[0].audio, clip], sampling_rate=SAMPLE_RATE)
    assert error.value.reason == reason


def test_bad_arguments(encoder, clips, tmp_path):
    with pytest.raises(ConfigError, match="klingon"):
        encoder.encode_text(["a"], "klingon")
    with pytest.raises(ConfigError, match="2 languages were given for 1 clips"):
        encoder.encode_speech([clips[0].audio], ["fr", "es"])
    with pytest.raises(ConfigError, match="1 languages were given for texts of unknown number"):
        encoder.encode_text((text for text in "a"), ["fr"])
    with pytest.raises(DataError, match="int is not a list of texts"):
        encoder.encode_text(5)
    with pytest.raises(DataError, match="dict with words is not a list of texts"):
        encoder.encode_text({"words": ["a"]})
    with pytest.raises(DataError, match=r"shapes \(1, 8\) and \(1, 5\)"):
        encoder.similarity(encoder.encode_text("a"), np.zeros(5))
    for text in ("", " ", None, 3):
        with pytest.raises(DataError, match="text 1 is"):
            encoder.encode_text(["a", text])
    with pytest.raises(ConfigError, match="continuous frontend and no units"):
        encoder.units(clips[0].audio)
    with pytest.raises(AssetError, match="does not exist"):
        SpeechTextEncoder.from_pretrained(tmp_path / "none")
    with pytest.raises(AssetError, match=r"no speechde\.json"):
        SpeechTextEncoder.from_pretrained(tmp_path)


def test_units_are_those_the_model_reads(tiny_model, clips):
    encoder = SpeechTextEncoder.from_pretrained(tiny_model("discrete"))
    (units,) = encoder.units(clips[0].audio)
    assert units.ndim == 1 and units.min() >= 0 and units.max() < 8


def test_a_dataset_is_mapped(encoder, clips, tmp_path):
    """The method itself is mapped, over decoded rows, over bytes and over one row at a time; Parquet out."""
    paths, expected = [u.audio for u in clips[:3]], encoder.encode_speech([u.audio for u in clips[:3]], "fr")
    rows = [{"audio": {"array": load_audio(path), "sampling_rate": SAMPLE_RATE}, "text": "a"} for path in paths]
    decoded = datasets.Dataset.from_list(rows)
    undecoded = datasets.Dataset.from_dict({"audio": paths}).cast_column("audio", datasets.Audio(decode=False))
    for dataset in (decoded, undecoded):
        mapped = dataset.map(encoder.encode_speech, batched=True, batch_size=2, fn_kwargs={"language": "fr"})
        mapped.to_parquet(tmp_path / "out.parquet")
        table = pq.read_table(tmp_path / "out.parquet")
        assert table.schema.field("embedding").type.value_type == "float"
        np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected, atol=2e-6)
    np.testing.assert_allclose(
        undecoded.map(encoder.encode_speech)["embedding"], encoder.encode_speech(paths), atol=2e-6
    )
    np.testing.assert_allclose(encoder.encode_speech(undecoded["audio"]), encoder.encode_speech(paths), atol=2e-6)
    written = decoded.map(encoder.encode_text, batched=True, fn_kwargs={"column": "text"})
    np.testing.assert_allclose(written["embedding"], encoder.encode_text(["a"] * 3), atol=2e-6)


def test_decoders_of_torchcodec(encoder, clips):
    decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed", exc_type=ImportError)
    try:
        some = [decoders.AudioDecoder(u.audio) for u in clips[:2]]
    except RuntimeError as error:
        pytest.skip(f"torchcodec does not find FFmpeg: {str(error).splitlines()[0]}")
    expected = encoder.encode_speech([u.audio for u in clips[:2]])
    np.testing.assert_allclose(encoder.encode_speech(some), expected, atol=1e-5)
    rows = datasets.Dataset.from_dict({"audio": [u.audio for u in clips[:2]]}).cast_column("audio", datasets.Audio())
    np.testing.assert_allclose(rows.map(encoder.encode_speech, batched=True)["embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["speech", "text"])
def test_a_file_of_vectors_is_written_as_they_come(encoder, clips, tmp_path, monkeypatch, name):
    """Slow path: all in memory. Fast path: a generator of unknown length, a few at a time, to a mapped file."""
    monkeypatch.setattr(api, "CHUNK", 4)
    monkeypatch.setattr(api, "TEXT_CHUNK", 4)
    encode = getattr(encoder, f"encode_{name}")
    items = [u.audio if name == "speech" else u.text for u in clips[:10]]
    seen = []
    vectors = encode((seen.append(item) or item for item in items), "fr", out=tmp_path / "v.npy", progress=True)
    assert isinstance(vectors, np.memmap) and seen == items
    np.testing.assert_allclose(vectors, encode(items, "fr"), atol=2e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert isinstance(encode(items[:2], as_tensor=True, out=tmp_path / "t.npy"), torch.Tensor)
    items[5] = "none.ogg" if name == "speech" else ""
    with pytest.raises(DataError, match="5"):
        encode(items, out=tmp_path / "bad.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.npy", "v.npy"]


def test_bad_clips_among_good_ones(encoder, clips, tmp_path, caplog):
    mixed = [clips[0].audio, "none.ogg", np.zeros(SAMPLE_RATE), clips[1].audio]
    options = {"sampling_rate": SAMPLE_RATE, "skip_bad": True}
    vectors = encoder.encode_speech(mixed, **options)
    assert "2 of 4 clips cannot be used, and are rows of NaN: 1 missing file, 1 silent" in caplog.text
    assert np.isnan(vectors).all(1).tolist() == [False, True, True, False]
    np.testing.assert_allclose(vectors[[0, 3]], encoder.encode_speech([mixed[0], mixed[3]]), atol=2e-6)
    with pytest.raises(AudioError, match=r"no clip can be used \(2 missing file\); the first: clip 0: a\.ogg"):
        encoder.encode_speech(["a.ogg", "b.ogg"], out=tmp_path / "v.npy", **options)
    with pytest.raises(AudioError, match="missing file: second"):
        encoder.encode_speech([clips[0].audio, "b.ogg"], names=["first", "second"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_clip_among_good_ones(encoder, clips, caplog):
    good = encoder.encode_speech(clips[0].audio)
    found = encoder.encode_speech([clips[0].audio, None, float("nan")], skip_bad=True)
    np.testing.assert_allclose(found[0], good, atol=1e-6)
    assert np.isnan(found[1:]).all() and "2 of 3 clips cannot be used" in caplog.text
    with pytest.raises(DataError, match="clip 1: a NoneType is not a clip"):
        encoder.encode_speech([clips[0].audio, None])
    with pytest.raises(DataError, match="1 names were given for 2 clips"):
        encoder.encode_speech([clips[0].audio] * 2, names=["a"])


def test_wrong_device_and_dtype(encoder):
    with pytest.raises(ConfigError, match="device 'tpu9'"):
        SpeechTextEncoder(encoder.trained, "tpu9")
    with pytest.raises(ConfigError, match=r"dtype: 'bfloat16' is not known; allowed: torch\.bfloat16"):
        SpeechTextEncoder(encoder.trained, "cpu", "bfloat16")


def test_saved_and_loaded_again(encoder, clips, tmp_path):
    encoder.save_pretrained(tmp_path / "m")
    again = SpeechTextEncoder.from_pretrained(tmp_path / "m")
    for name, items in (("speech", [u.audio for u in clips[:3]]), ("text", ["a", "un autobuz"])):
        first, second = (getattr(e, f"encode_{name}")(items, "ro") for e in (encoder, again))
        np.testing.assert_array_equal(first, second)
    with pytest.raises(DataError, match="is not empty; delete it"):
        encoder.save_pretrained(tmp_path / "m")


def test_the_speech_encoder_may_have_moved_but_not_changed(
    tiny_model, tiny_whisper, tiny_speech_encoder, clips, tmp_path
):
    folder = tiny_model("continuous")
    expected = SpeechTextEncoder.from_pretrained(folder).encode_speech(clips[0].audio)
    shutil.copytree(tiny_whisper, tmp_path / "moved")
    moved = SpeechTextEncoder.from_pretrained(folder, speech_encoder=tmp_path / "moved")
    np.testing.assert_array_equal(moved.encode_speech(clips[0].audio), expected)
    other = SpeechTextEncoder.from_pretrained(folder, speech_encoder=tiny_speech_encoder("wav2vec2"))
    assert other.encode_text("a").shape == (8,), "text needs no speech encoder"
    with pytest.raises(AssetError, match=r"was trained on frames of .*whisper.*; .* is .*wav2vec2"):
        other.encode_speech(clips[0].audio)


def test_import_is_light_and_inference_needs_no_trainer(tiny_model, clips):
    code = (
        "import sys, time; start = time.perf_counter(); import speechde; took = time.perf_counter() - start\n"
        "assert took < 2 and 'torch' not in sys.modules, took\n"
        f"e = speechde.SpeechTextEncoder.from_pretrained({str(tiny_model('continuous'))!r})\n"
        f"assert e.encode_speech({clips[0].audio!r}).shape == (e.dim,) == e.encode_text('a').shape\n"
        "print([name for name in ('pytorch_lightning', 'hydra', 'wandb', 'omegaconf', 'sentence_transformers')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_processes_forked_from_one_that_has_embedded(tiny_model, tmp_path):
    """As ``Dataset.map(…, num_proc=2)`` does it; they must not wait for the threads of their parent."""
    code = f"""
import os
import torch
from speechde import SpeechTextEncoder
torch.set_num_threads(4)
encoder = SpeechTextEncoder.from_pretrained({str(tiny_model())!r}, device="cpu")
texts = ["a few words " * 20] * 64
encoder.encode_text(texts)
(torch.randn(2000, 2000) @ torch.randn(2000, 2000)).exp().sum()  # the threads are there
child = os.fork()
if not child:
    encoder.encode_text(texts)
    (torch.randn(2000, 2000) @ torch.randn(2000, 2000)).exp().sum()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "7\n", done.stderr


def test_items(encoder, clips, tmp_path):
    """One alone is a vector, a list is as many as it has items, and the parts of one item are one vector."""
    speech, text = Item(Audio(clips[0].audio), lang="ro_ro"), Item(Text("un autobuz"), lang="ro_ro")
    both = Item(Text("ce vezi? "), Audio(clips[0].audio), lang="ro_ro")
    vector = encoder.embed(text)
    assert vector.shape == (encoder.dim,)
    found = encoder.embed((item for item in (speech, text, both)), out=tmp_path / "v.npy")
    assert found.shape == (3, encoder.dim) and encoder.embed([]).shape == (0, encoder.dim)
    np.testing.assert_allclose(found[1], vector, atol=2e-6)
    np.testing.assert_allclose(found[0], encoder.encode_speech(clips[0].audio, "ro"), atol=2e-6)
    assert np.abs(found[2] - found[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("items", "what"),
    [(["a"], "a str"), ([Item(Text("a")), Path("a.ogg")], "a PosixPath"), ("a.ogg", "str"), ([None], "a NoneType"),
     ([[Item(Text("a"))]], "a list")],
)  # fmt: skip
def test_what_is_no_item(encoder, items, what):
    with pytest.raises(DataError, match=rf"{what}.*Item\(Text\(…\)\), Item\(Audio\(…\)\)"):
        encoder.embed(items)
