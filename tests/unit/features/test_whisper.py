"""Whisper frames on a tiny random encoder, against transformers' own forward pass on a full window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechde.errors import ConfigError
from speechde.features.whisper import WhisperFrames

WINDOW = 30 * 320  # samples
TOLERANCE = {"atol": 2e-3, "rtol": 1e-3}  # frames are stored as float16


def build(folder, **options):
    return WhisperFrames(folder, **{"dtype": torch.float32, "tail_seconds": 0.0} | options)


def reference(folder, waveform, layer):
    """Log-mel, padded to nothing, and the whole encoder of transformers."""
    mel = WhisperFeatureExtractor.from_pretrained(folder)(
        waveform, sampling_rate=16_000, padding="do_not_pad", return_tensors="pt"
    ).input_features
    with torch.no_grad():
        out = WhisperEncoder.from_pretrained(folder).eval()(mel, output_hidden_states=True)
    return (out.last_hidden_state if layer == 2 else out.hidden_states[layer])[0].numpy()


@pytest.mark.parametrize("layer", [1, 2])
def test_full_window_equals_transformers(tiny_whisper, make_tone, layer):
    waveform = make_tone(0.6)
    assert len(waveform) == WINDOW
    (frames,) = build(tiny_whisper, layer=layer).encode([waveform])
    assert frames.shape == (30, 16) and frames.dtype == np.float16
    np.testing.assert_allclose(frames, reference(tiny_whisper, waveform, layer), **TOLERANCE)


def test_mels_of_a_batch_are_those_of_each_clip(tiny_whisper, make_tone):
    """One transform for all against the feature extractor, clip by clip; the shortest is below one analysis window."""
    encoder = build(tiny_whisper)
    seconds = [0.5, 0.3, 0.1, 0.03, 0.02]
    windows = [make_tone(s, 300.0, i) * 10.0**-i for i, s in enumerate(seconds)]
    mels, lengths = encoder._mels(windows)
    assert mels.shape == (5, 80, 50) and lengths.tolist() == [50, 30, 10, 3, 2]
    for mel, length, window in zip(mels, lengths, windows, strict=True):
        window = np.pad(window, (0, max(0, 400 - len(window))))
        alone = encoder.features(window, sampling_rate=16_000, padding="do_not_pad", return_tensors="np")
        np.testing.assert_allclose(mel[:, :length], alone["input_features"][0], atol=1e-4)
        assert not mel[:, length:].any()


@pytest.mark.parametrize("layer", [1, 2])
def test_frames_do_not_depend_on_the_batch(tiny_whisper, make_tone, layer):
    encoder = build(tiny_whisper, layer=layer, tail_seconds=0.05)
    clips = [make_tone(s, f, i) for i, (s, f) in enumerate([(0.2, 200), (0.55, 300), (0.07, 400), (0.233, 500)])]
    for together, clip in zip(encoder.encode(clips), clips, strict=True):
        (alone,) = encoder.encode([clip])
        assert together.shape == alone.shape
        np.testing.assert_allclose(together.astype(np.float32), alone.astype(np.float32), **TOLERANCE)


def test_long_clips_are_windowed_and_nothing_is_dropped(tiny_whisper, make_tone):
    encoder = build(tiny_whisper)
    waveform = make_tone(1.5)  # two windows and a half
    (frames,) = encoder.encode([waveform])
    assert len(frames) == round(1.5 * encoder.rate) == 75
    pieces = [waveform[start : start + WINDOW] for start in range(0, len(waveform), WINDOW)]
    np.testing.assert_allclose(frames, np.concatenate(encoder.encode(pieces)), **TOLERANCE)
    short, same = encoder.encode([make_tone(0.1), waveform])
    assert len(short) == 5
    np.testing.assert_allclose(same, frames, **TOLERANCE)


@pytest.mark.parametrize("samples", [1, 160, 320, 399, 401, WINDOW - 1, WINDOW + 1, WINDOW + 320])
def test_number_of_frames(tiny_whisper, samples):
    encoder = build(tiny_whisper)
    (frames,) = encoder.encode([np.full(samples, 0.1, np.float32)])
    assert np.isfinite(frames).all()
    assert len(frames) >= max(1, samples // encoder.STRIDE)
    assert len(frames) <= samples // encoder.STRIDE + 2


def test_tail_adds_its_frames(tiny_whisper, make_tone):
    plain, tailed = (len(build(tiny_whisper, tail_seconds=s).encode([make_tone(0.3)])[0]) for s in (0.0, 0.1))
    assert (plain, tailed) == (15, 20)


def test_layer_choice(tiny_whisper, make_tone):
    first, last, negative = (build(tiny_whisper, layer=n) for n in (1, 2, -1))
    assert (first.layer, last.layer, negative.layer) == (1, 2, 2)
    waveform = make_tone(0.3)
    assert np.array_equal(last.encode([waveform])[0], negative.encode([waveform])[0])
    assert not np.allclose(first.encode([waveform])[0], last.encode([waveform])[0], atol=0.1)
    for layer in (0, 3, -3):
        with pytest.raises(ConfigError, match=rf"frontend\.layer={layer} is not possible.*use 1 to 2"):
            build(tiny_whisper, layer=layer)


def test_describe_names_what_changes_the_frames(tiny_whisper):
    base = build(tiny_whisper).describe()
    assert base == build(tiny_whisper, layer=2).describe()
    assert len(base["weights"]) == 64
    for change in ({"layer": 1}, {"tail_seconds": 0.2}, {"dtype": torch.bfloat16}):
        assert build(tiny_whisper, **change).describe() != base


def test_rate_and_width(tiny_whisper):
    encoder = build(tiny_whisper)
    assert (encoder.rate, encoder.dim) == (50.0, 16)
