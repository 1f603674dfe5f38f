"""Every architecture that may be read, as a tiny random model of the real class, against transformers' own pass."""

from __future__ import annotations

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from speechde.errors import AssetError, ConfigError
from speechde.features.encoders import ENCODERS, load_speech_encoder
from speechde.features.pretrained import TOWER_NAMES
from speechde.types import SAMPLE_RATE

TOLERANCE = {"atol": 2e-3, "rtol": 2e-3}  # frames are stored as float16
# name of the tiny model → samples per frame, samples of the first frame
ARCHITECTURES = {
    "wav2vec2": (320, 400),
    "xls-r": (320, 400),
    "hubert": (320, 400),
    "hubert-large": (320, 400),
    "wavlm": (320, 400),
    "wavlm-large": (320, 400),
    "data2vec-audio": (320, 400),
    "wav2vec2-bert": (320, 560),
    "parakeet_encoder": (1280, 160),
    "parakeet_ctc": (1280, 160),
    "parakeet_rnnt": (1280, 160),
    "parakeet_tdt": (1280, 160),
    "gemma3n_audio": (640, 513),
    "gemma3n": (640, 513),
    "gemma4_audio": (640, 161),
    "gemma4": (640, 161),
    "embedding_gemma2": (640, 161),
}
INSIDE = {"parakeet_ctc", "parakeet_rnnt", "parakeet_tdt", "gemma3n", "gemma4", "embedding_gemma2"}
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
# an encoder inside a larger model differs from the encoder alone by how it is read, which needs fewer tests
each_encoder = pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in INSIDE])


@pytest.fixture(scope="module")
def load(tiny_speech_encoder):
    """``load(name, **options)`` → encoder of float32, made once."""

    @cache
    def build(name, **options):
        folder = tiny_speech_encoder(name)
        model_type = json.loads((folder / "config.json").read_text())["model_type"]
        return ENCODERS[model_type](folder, **{"dtype": torch.float32} | options)

    return build


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), **TOLERANCE)


def reference(folder, waveform, layer):
    """Frames of one clip: feature extractor and whole encoder as transformers runs them, outputs of every layer."""
    config = AutoConfig.from_pretrained(folder)
    tower = getattr(config, "audio_config", getattr(config, "encoder_config", None))
    options = {"config": tower, "key_mapping": TOWER_NAMES} if tower else {}
    model = AutoModel.from_pretrained(folder, **options).eval()
    inputs = AutoFeatureExtractor.from_pretrained(folder)([waveform], sampling_rate=SAMPLE_RATE, return_tensors="pt")
    values, *mask = inputs.values()
    if model.config.model_type == "gemma3n_audio":
        mask = [~mask[0]]
    layers = model.conformer if hasattr(model, "conformer") else getattr(model, "encoder", model).layers
    seen = []
    layers[layer - 1].register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        out = model(values, *mask).last_hidden_state
    if getattr(model.config, "do_stable_layer_norm", False) and layer == len(layers):
        return out[0].numpy()
    (states,) = seen
    return (states[0] if isinstance(states, tuple) else states)[0].numpy()


def test_the_table_names_every_architecture(tiny_speech_encoder):
    types = {json.loads((tiny_speech_encoder(n) / "config.json").read_text())["model_type"] for n in ARCHITECTURES}
    assert types == set(ENCODERS) - {"whisper"}


@each_architecture
@pytest.mark.parametrize("layer", [1, 2])
def test_frames_equal_transformers(load, tiny_speech_encoder, make_tone, name, layer):
    waveform = make_tone(0.8)
    (frames,) = load(name, layer=layer).encode([waveform])
    assert frames.dtype == np.float16 and frames.std() > 0.05
    # transformers' extractors may add columns of padding at the end
    close(frames, reference(tiny_speech_encoder(name), waveform, layer)[: len(frames)])


@each_architecture
def test_frames_do_not_depend_on_the_batch(load, make_tone, name):
    encoder = load(name)
    clips = [make_tone(s, 200 + 90 * i, i) for i, s in enumerate((0.31, 0.9, 0.17, 0.905, 0.601, 0.31))]
    for together, clip in zip(encoder.encode(clips), clips, strict=True):
        (alone,) = encoder.encode([clip])
        close(together, alone)
    louder = encoder.encode([clips[0], 10 * clips[1]])[0]
    close(louder, encoder.encode([clips[0]])[0])


@each_architecture
def test_rate_is_that_of_the_model(load, make_tone, name):
    encoder = load(name)
    stride, span = ARCHITECTURES[name]
    assert (encoder.rate, encoder.span, encoder.dim) == (SAMPLE_RATE / stride, span, 16)
    for seconds in (0.5, 1.3, 2.0):
        (frames,) = encoder.encode([make_tone(seconds)])
        assert abs(len(frames) / encoder.rate - seconds) <= 1.5 / encoder.rate


@each_encoder
def test_very_short_clips_yield_a_frame(load, make_tone, name):
    encoder = load(name)
    clips = [make_tone(1.0)[:n] for n in (1, 100, encoder.span - 1, encoder.least)]
    frames = encoder.encode(clips)
    assert [len(f) for f in frames] == [1, 1, 1, 1]
    assert all(np.isfinite(f).all() for f in frames)


@each_encoder
def test_long_clips_are_cut_without_losing_a_frame(load, make_tone, name):
    whole, cut = load(name), load(name, window_seconds=0.48)
    assert cut.step == 7680
    for samples in (8000, 9000, 15_360 + cut.span - 1, 15_360 + cut.span, 27_777):
        waveform = make_tone(2.0)[:samples]
        frames = cut.encode([waveform, waveform[:3000]])[0]
        assert len(frames) == len(whole.encode([waveform])[0])
        count = cut.step // round(SAMPLE_RATE / cut.rate)
        for n, start in enumerate(range(0, samples - cut.span + 1, cut.step)):
            (window,) = cut.encode([waveform[start : start + cut.window]])
            close(frames[n * count : (n + 1) * count], window)


@each_encoder
def test_the_same_twice_and_from_a_copy(load, tiny_speech_encoder, make_tone, tmp_path, name):
    waveform, encoder = make_tone(0.6), load(name)
    (first,), (second,) = encoder.encode([waveform]), encoder.encode([waveform])
    assert np.array_equal(first, second)
    copy = shutil.copytree(tiny_speech_encoder(name), tmp_path / "copy")
    again = load_speech_encoder(copy, dtype=torch.float32)
    assert np.array_equal(again.encode([waveform])[0], first) and again.describe() == encoder.describe()
    # saved again by transformers, which may write newer names and settings
    AutoModel.from_pretrained(copy).save_pretrained(tmp_path / "saved")
    shutil.copy(copy / "preprocessor_config.json", tmp_path / "saved")
    assert np.array_equal(load_speech_encoder(tmp_path / "saved", dtype=torch.float32).encode([waveform])[0], first)


@each_encoder
def test_only_the_layers_needed_are_kept(load, name):
    first, last = load(name, layer=1), load(name, layer=-1)
    assert (first.layer, last.layer) == (1, 2)
    sizes = [sum(p.numel() for p in encoder.model.parameters()) for encoder in (first, last)]
    assert sizes[0] < 0.85 * sizes[1]
    for layer in (0, 3, -3):
        with pytest.raises(ConfigError, match=rf"frontend\.layer={layer} is not possible.*use 1 to 2"):
            load(name, layer=layer)


@each_encoder
def test_bfloat16_is_close(load, make_tone, name):
    waveform = make_tone(0.6)
    exact, fast = (load(name, dtype=dtype).encode([waveform])[0] for dtype in (torch.float32, torch.bfloat16))
    assert np.corrcoef(exact.ravel(), fast.ravel().astype(np.float32))[0, 1] > 0.95  # processors round differently


def test_describe_names_what_changes_the_frames(load, tiny_speech_encoder, tmp_path):
    base = load("hubert").describe()
    assert len(base["weights"]) == 64 and base["encoder"] == "hubert"
    for change in ({"layer": 1}, {"window_seconds": 10.0}, {"dtype": torch.bfloat16}):
        assert load("hubert", **change).describe() != base
    copy = shutil.copytree(tiny_speech_encoder("hubert"), tmp_path / "copy")
    for name, key in (("config.json", "transformers_version"), ("preprocessor_config.json", "do_normalize")):
        values = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps(values | {key: True}))
        same = load_speech_encoder(copy, dtype=torch.float32).describe() == base
        assert same == (key == "transformers_version")


def change_weights(folder, target, edit):
    copy = shutil.copytree(folder, target)
    tensors = edit(load_file(copy / "model.safetensors"))
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize("name", ["hubert", "xls-r", "wavlm"])
def test_old_names_of_the_position_convolution(load, tiny_speech_encoder, make_tone, tmp_path, name):
    names = {"original0": "weight_g", "original1": "weight_v"}

    def old(tensors):
        out = {}
        for key, value in tensors.items():
            for new, older in names.items():
                key = key.replace(f"parametrizations.weight.{new}", older)
            out[f"{name}.{key}" if name == "hubert" else key] = value  # and the prefix of a model with a head
        assert sum(key.endswith(("weight_g", "weight_v")) for key in out) == 2
        return out

    copy = change_weights(tiny_speech_encoder(name), tmp_path / "old", old)
    waveform = make_tone(0.5)
    (found,), (expected,) = (e.encode([waveform]) for e in (load_speech_encoder(copy, dtype=torch.float32), load(name)))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-bert", "parakeet_ctc", "gemma3n", "gemma4"])
def test_missing_weights(tiny_speech_encoder, tmp_path, name):
    def cut(tensors):
        gone = [key for key in tensors if any(part in key for part in ("layers.1.", "conformer.1."))][:2]
        assert len(gone) == 2
        return {key: value for key, value in tensors.items() if key not in gone}

    copy = change_weights(tiny_speech_encoder(name), tmp_path / "cut", cut)
    with pytest.raises(AssetError, match=r"lacks 2 weights of a .*\.1\."):
        load_speech_encoder(copy)


def test_what_only_training_reads_may_be_missing(load, tiny_speech_encoder, make_tone, tmp_path):
    copy = change_weights(
        tiny_speech_encoder("wav2vec2"),
        tmp_path / "cut",
        lambda t: {k: v for k, v in t.items() if "masked_spec" not in k},
    )
    waveform = make_tone(0.3)
    expected = load("wav2vec2").encode([waveform])[0]
    assert np.array_equal(load_speech_encoder(copy, dtype=torch.float32).encode([waveform])[0], expected)


def test_gemma3n_whatever_the_sign_of_its_first_convolution(tiny_speech_encoder, make_tone, tmp_path):
    """Columns of padding are zero after a norm and a rectifier only where the mean before them is positive."""
    for sign in (1, -1):
        copy = change_weights(
            tiny_speech_encoder("gemma3n_audio"),
            tmp_path / f"{sign}",
            lambda t, sign=sign: {k: sign * v if "conv_0.conv" in k else v for k, v in t.items()},
        )
        encoder, clips = load_speech_encoder(copy, dtype=torch.float32), [make_tone(0.31), make_tone(0.9)]
        close(encoder.encode(clips)[0], encoder.encode(clips[:1])[0])


def test_unusable_folders(tiny_speech_encoder, tmp_path):
    copy = shutil.copytree(tiny_speech_encoder("gemma4"), tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"audio_config": None}))
    with pytest.raises(AssetError, match="without a speech encoder"):
        load_speech_encoder(copy)
    extractor = copy / "preprocessor_config.json"
    values = json.loads(extractor.read_text())
    extractor.write_text(json.dumps(values | {"sampling_rate": 8000}))
    with pytest.raises(AssetError, match="takes 8000 Hz audio"):
        load_speech_encoder(copy)
    extractor.unlink()
    with pytest.raises(AssetError, match=r"no feature extractor; copy preprocessor_config\.json"):
        load_speech_encoder(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(AssetError, match="only pickled weights"):
        load_speech_encoder(copy)


def test_values_beyond_float16_are_clamped(tiny_speech_encoder, make_tone, tmp_path):
    def loud(tensors):
        tensors["encoder.layer_norm.weight"] *= 1e6
        return tensors

    copy = change_weights(tiny_speech_encoder("xls-r"), tmp_path / "loud", loud)
    for dtype in (torch.float32, torch.bfloat16):
        (frames,) = load_speech_encoder(copy, dtype=dtype).encode([make_tone(0.3)])
        assert np.isfinite(frames).all() and np.abs(frames).max() == 65504
