import io

import numpy as np
import pytest
import soundfile

from speechde.errors import ConfigError, DataError
from speechde.media import audio


def tone(seconds=1.0, rate=16_000, hertz=440.0, gain=0.5):
    return (gain * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples, rate=16_000, kind="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def reason_of(call, *arguments):
    with pytest.raises(audio.AudioError) as caught:
        call(*arguments)
    assert isinstance(caught.value, DataError)
    assert caught.value.reason in audio.REASONS
    return caught.value.reason


def test_8_khz_stereo_becomes_16_khz_mono():
    left, right = tone(rate=8000), tone(rate=8000, gain=0.1)
    waveform = audio.load_audio(encoded(np.stack([left, right], axis=1), 8000, subtype="FLOAT"))
    assert waveform.dtype == np.float32
    assert waveform.shape == (16_000,)
    inner = slice(500, -500)  # the filter sees zeros beyond the ends
    np.testing.assert_allclose(waveform[inner], tone(gain=0.3)[inner], atol=5e-3)


def test_path_bytes_and_file_object_give_the_same(tmp_path):
    data = encoded(tone(), kind="OGG")
    path = tmp_path / "clip.ogg"
    path.write_bytes(data)
    expected = audio.load_audio(data)
    np.testing.assert_array_equal(audio.load_audio(path), expected)
    np.testing.assert_array_equal(audio.load_audio(str(path)), expected)
    np.testing.assert_array_equal(audio.load_audio(io.BytesIO(data)), expected)


def test_16_khz_samples_are_not_touched():
    samples = tone()
    np.testing.assert_array_equal(audio.load_audio(encoded(samples, subtype="FLOAT")), samples)


def test_missing_directory_and_text_files(tmp_path):
    assert reason_of(audio.load_audio, tmp_path / "no.wav") == "missing file"
    assert reason_of(audio.load_audio, tmp_path) == "unreadable"
    assert reason_of(audio.load_audio, b"this is no audio at all") == "unreadable"


def test_empty_audio():
    assert reason_of(audio.load_audio, b"") == "empty"
    assert reason_of(audio.load_audio, encoded(np.zeros(0, np.float32))) == "empty"


def test_nan_audio():
    samples = tone()
    samples[100] = np.nan
    assert reason_of(audio.load_audio, encoded(samples, subtype="FLOAT")) == "not finite"


@pytest.mark.parametrize("kind", ["OGG", "WAV", "FLAC", "MP3"])
def test_truncated_file_is_unreadable_and_whole_one_is_not(kind):
    rng = np.random.default_rng(0)
    data = encoded(audio.add_noise(tone(3.0), 10, rng), kind=kind)
    assert audio.load_audio(data).size > 2.9 * audio.SAMPLE_RATE
    for share in (0.9, 0.5, 0.1):
        assert reason_of(audio.load_audio, data[: int(share * len(data))]) == "unreadable"


def test_ogg_cut_at_a_page_border_is_unreadable():
    data = encoded(audio.add_noise(tone(3.0), 10, np.random.default_rng(0)), kind="OGG")
    assert reason_of(audio.load_audio, data[: data.rfind(b"OggS")]) == "unreadable"


def test_streamed_wav_of_unknown_size_is_read():
    data = bytearray(encoded(tone()))
    data[4:8] = b"\xff\xff\xff\xff"
    assert audio.load_audio(bytes(data)).shape == (16_000,)


def test_check_waveform_reasons():
    assert audio.check_waveform(tone()).shape == (16_000,)
    assert reason_of(audio.check_waveform, np.zeros(0, np.float32)) == "empty"
    assert reason_of(audio.check_waveform, np.full(16_000, np.inf, np.float32)) == "not finite"
    assert reason_of(audio.check_waveform, np.zeros(16_000, np.float32)) == "silent"
    assert reason_of(audio.check_waveform, tone(0.05)) == "too short"
    assert reason_of(audio.check_waveform, tone(3.0), 0.1, 2.0) == "too long"
    with pytest.raises(DataError, match="average the channels"):
        audio.check_waveform(np.ones((2, 16_000), np.float32))


def test_trim_silence_keeps_the_sound_and_its_padding():
    rate = audio.SAMPLE_RATE
    quiet = np.full(rate, 1e-4, np.float32)
    trimmed = audio.trim_silence(np.concatenate([quiet, tone(0.5), quiet]))
    assert trimmed.size == pytest.approx(0.7 * rate, abs=0.02 * rate)
    assert np.abs(trimmed).max() == pytest.approx(0.5, abs=1e-3)


def test_trim_silence_never_returns_nothing():
    click = np.zeros(16_000, np.float32)
    click[-1] = 0.5
    assert audio.trim_silence(click, pad_s=0)[-1] == 0.5
    assert audio.trim_silence(tone(0.001)).size == 16
    assert audio.trim_silence(np.zeros(100, np.float32)).size == 100
    assert audio.trim_silence(np.zeros(0, np.float32)).size == 0
    assert audio.trim_silence(np.full(1000, 1e-30, np.float32)).size == 1000


def test_perturb_speed_changes_length_and_pitch():
    fast = audio.perturb_speed(tone(hertz=400), 1.1)
    assert fast.size == pytest.approx(16_000 / 1.1, abs=1)
    peak = np.abs(np.fft.rfft(fast)).argmax() * audio.SAMPLE_RATE / fast.size
    assert peak == pytest.approx(440, abs=2)
    np.testing.assert_array_equal(audio.perturb_speed(tone(), 1.0), tone())
    with pytest.raises(ConfigError, match=r"0\.5 to 2"):
        audio.perturb_speed(tone(), 0.0)


def test_add_noise_has_the_asked_ratio_and_is_deterministic():
    clean = tone(2.0)
    noisy = audio.add_noise(clean, 10.0, np.random.default_rng(3))
    assert noisy.dtype == np.float32
    ratio = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
    assert ratio == pytest.approx(10, abs=0.2)
    np.testing.assert_array_equal(noisy, audio.add_noise(clean, 10.0, np.random.default_rng(3)))


def test_resampling_is_deterministic():
    data = encoded(audio.add_noise(tone(rate=44_100), 10, np.random.default_rng(0)), 44_100)
    np.testing.assert_array_equal(audio.load_audio(data), audio.load_audio(data))
