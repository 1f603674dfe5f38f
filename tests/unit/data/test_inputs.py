"""Everything that counts as a clip gives the same waveform; everything else says what would."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from speechde.data.audio import AudioError, load_audio
from speechde.data.inputs import is_clip, read_clip
from speechde.errors import DataError
from speechde.types import SAMPLE_RATE


@pytest.fixture
def file(make_wav):
    return Path(make_wav("clip.wav", 0.5))


def forms(file):
    samples, rate = soundfile.read(file, dtype="float32")
    data = file.read_bytes()
    stereo = np.stack([samples, samples])
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(stereo), sample_rate=rate))
    return {
        "string": str(file),
        "path": file,
        "bytes": data,
        "file": io.BytesIO(data),
        "pair": (samples, rate),
        "row, decoded": {"path": None, "array": samples.tolist(), "sampling_rate": rate},
        "row, bytes": {"path": "elsewhere.wav", "bytes": data},
        "row, path": {"path": str(file), "bytes": None},
        "torchcodec": decoder,
        "array": samples,
        "tensor": torch.from_numpy(samples),
        "channels first": stereo,
        "channels last": stereo.T,
        "twelve channels": np.tile(samples, (12, 1)),
    }


def test_all_forms_are_one_clip_and_agree(file):
    expected = load_audio(file)
    for name, form in forms(file).items():
        assert is_clip(form), name
        np.testing.assert_allclose(read_clip(form, SAMPLE_RATE), expected, atol=1e-6, err_msg=name)
    assert not is_clip([str(file)]) and not is_clip(("a.wav", "b.wav"))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8])
def test_integers_are_scaled_by_their_range(kind):
    bounds = np.iinfo(kind)
    wave = read_clip((np.array([bounds.min, bounds.max] * 400, kind), SAMPLE_RATE))
    assert wave.min() == -1 and 0.98 < wave.max() <= 1


def test_another_rate_is_resampled():
    wave = np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000).astype(np.float32)
    out = read_clip(wave, 48_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert out.shape == (16_000,)
    np.testing.assert_allclose(out[100:-100], expected[100:-100], atol=2e-3)


@pytest.mark.parametrize(
    ("item", "rate", "message"),
    [
        (np.zeros(9), None, "no sampling rate"),
        (np.zeros(9), 12.5, "sampling rate 12.5"),
        (np.zeros(9), 0, "sampling rate 0"),
        (np.zeros((100, 100)), SAMPLE_RATE, r"\(100, 100\)"),
        (np.zeros((1, 2, 3)), SAMPLE_RATE, r"\(1, 2, 3\)"),
        (np.array(["a"]), SAMPLE_RATE, "not audio"),
        ({"text": "a"}, None, "text has neither array"),
        (3.5, None, "float is not a clip"),
    ],
)
def test_what_is_no_clip(item, rate, message):
    with pytest.raises(DataError, match=message):
        read_clip(item, rate)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("missing.wav", "missing file"),
        (b"", "empty"),
        (b"this is text", "unreadable"),
        (np.zeros(0), "empty"),
        (np.array([0.1, np.nan]), "not finite"),
    ],
)
def test_what_cannot_be_decoded(item, reason):
    with pytest.raises(AudioError) as error:
        read_clip(item, SAMPLE_RATE)
    assert error.value.reason == reason
