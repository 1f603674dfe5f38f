"""Everything that counts as a clip gives the same waveform; everything else says what would."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from speechde.errors import ConfigError, DataError
from speechde.media.audio import AudioError, load_audio
from speechde.media.inputs import as_list, as_vectors, check_texts, is_clip, language_codes, read_clip
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
        "numbers of numpy": (samples, np.int64(rate)),
        "a rate in floating point": (samples, float(rate)),
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


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint32])
def test_16_bit_samples_in_a_wider_type_are_refused(kind):
    """Scaled by their type they would be silence, or a constant."""
    with pytest.raises(AudioError, match=f"type {np.dtype(kind)} from .* such as int16") as error:
        read_clip((np.array([0, 20_000] * 400, kind), SAMPLE_RATE))
    assert error.value.reason == "out of range"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, torch.float32, torch.bfloat16])
def test_floats_in_the_range_of_16_bit_integers_are_refused(kind):
    samples = 20_480 * np.sign(np.sin(np.arange(800)))
    samples = torch.from_numpy(samples).to(kind) if isinstance(kind, torch.dtype) else samples.astype(kind)
    with pytest.raises(AudioError, match=r"the peak is 20480, .* by 32768") as error:
        read_clip((samples, SAMPLE_RATE))
    assert error.value.reason == "out of range"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.int16])
def test_tensors_of_any_type_are_read(kind):
    samples = torch.sin(torch.arange(800)) / 2
    given = (samples * 32_768).to(kind) if kind is torch.int16 else samples.to(kind)
    np.testing.assert_allclose(read_clip(given, SAMPLE_RATE), samples.numpy(), atol=2e-3)


@pytest.mark.parametrize("rate", [16_000, 16_000.0, np.int64(16_000), np.float32(16_000), np.array(16_000)])
def test_a_rate_is_any_whole_number(rate):
    pair = (np.full(800, 0.5, np.float32), rate)
    assert is_clip(pair) and read_clip(pair).shape == (800,)


def test_a_rate_given_as_a_string_is_refused_and_not_taken_for_a_path():
    pair = (np.full(800, 0.5, np.float32), "16000")
    assert is_clip(pair)
    with pytest.raises(DataError, match="sampling rate '16000' is not possible; give whole Hz"):
        read_clip(pair)


def test_an_odd_rate_is_resampled():
    wave = np.sin(2 * np.pi * 440 * np.arange(11_127) / 11_127)
    out = read_clip(wave, 11_127)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert out.shape == (16_000,)
    np.testing.assert_allclose(out[100:-100], expected[100:-100], atol=2e-3)


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
        (np.zeros(9), np.nan, "sampling rate nan"),
        (np.zeros(9), True, "sampling rate True"),
        (np.zeros(9), 14_527_556, "sampling rate 14527556"),
        (np.zeros(9), "16000", "sampling rate '16000'"),
        ((np.zeros(9), "16000"), None, "sampling rate '16000'"),
        ({"array": [[0.1], [0.1, 0.2]], "sampling_rate": SAMPLE_RATE}, None, "not an array"),
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


def test_a_tensor_of_bfloat16(file):
    samples = torch.from_numpy(load_audio(file))
    np.testing.assert_allclose(read_clip(samples.bfloat16(), SAMPLE_RATE), samples, atol=0.01)


@pytest.mark.parametrize("name", ["a\0b.wav", "a\ud800.wav"])
def test_a_name_that_no_file_can_have(name):
    for form in (name, {"path": name, "bytes": None}):
        with pytest.raises(AudioError, match="unreadable"):
            read_clip(form)


def test_arrays_of_names_are_lists():
    for kind in (object, str):
        assert not is_clip(np.array(["a.wav", "b.wav"], kind))
    assert not is_clip((Path("a.wav"), "b.wav"))


class Table:
    """Iterates over the names of its columns, as a DataFrame of pandas does."""

    columns = ("text", "lang")

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (Table(), "a Table with text, lang is not a list of texts; give one of its columns"),
        ({"text": ["a"]}, "a dict with text is not a list of texts"),
        ({"a", "b"}, "a set has no order"),
        (5, "a int is not a list of texts"),
        (None, "a NoneType is not a list of texts"),
    ],
)
def test_what_is_no_list(items, message):
    with pytest.raises(DataError, match=message):
        as_list(items, "texts")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "text 8 is None"), (float("nan"), "text 8 is nan"), (b"a", "text 8 is b'a'"), (" ", "text 8 is ' '"),
     ("b\ud800", "text 8 holds a lone surrogate at 1")],
)  # fmt: skip
def test_what_is_no_text(text, message):
    with pytest.raises(DataError, match=message):
        check_texts(["a", text], 7)


def test_languages():
    for tags in (["ro", None], ("ro", None), np.array(["ro", None], object)):
        assert list(language_codes(tags, 2, "texts")) == ["ro_ro", None]
    assert next(language_codes("ro", None, "texts")) == "ro_ro"
    for tags, message in (
        (5, "language 5 is no tag"),
        (["ro", float("nan")], "language nan is no tag"),
        (["ro", ["fr"]], r"language \['fr'\] is no tag"),
        ({"ro": 1}, "is no tag"),
        (["ro"], "1 languages were given for 2 texts"),
    ):
        with pytest.raises(ConfigError, match=message):
            language_codes(tags, 2, "texts")


def test_vectors_of_any_kind():
    expected = np.array([[1, 2], [3, 4]], np.float32)
    tensor = torch.tensor(expected)
    for form in (expected.tolist(), expected.astype(int), tensor.bfloat16(), tensor.half(), tensor.requires_grad_()):
        found = as_vectors(form)
        assert found.dtype == np.float32 and found.tolist() == expected.tolist()
    assert as_vectors([1, 2]).shape == (1, 2)
    for form in ("abc", None, 5, [[1], [1, 2]], np.zeros((1, 2, 3))):
        with pytest.raises(DataError, match="not vectors"):
            as_vectors(form)
