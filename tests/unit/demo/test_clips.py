"""What a visitor may ask with: limits, and messages that say what to do."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile

from speechde.demo import clips
from speechde.demo.clips import Limits, playable, read_text, read_upload
from speechde.errors import ConfigError, DataError
from speechde.media import audio
from speechde.media.audio import AudioError, load_audio
from speechde.types import SAMPLE_RATE


def test_an_upload_is_the_waveform_that_any_clip_is(make_wav):
    path = make_wav("a.wav", 0.5)
    np.testing.assert_array_equal(read_upload(path, Limits()), load_audio(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"words and no audio", r"clip\.wav is not audio that can be read here, or is damaged; use WAV, FLAC"),
        (b"", r"clip\.wav is empty"),
        (bytes(3 * 2**20), r"clip\.wav has 3\.0 MB; at most 2 MB can be uploaded\."),
        (np.zeros(8000), r"clip\.wav cannot be used: silent: "),
        (np.full(500, 0.5), r"clip\.wav cannot be used: too short: 0\.031 s; at least 0\.1 s"),
        (np.full(3 * SAMPLE_RATE, 0.5), r"clip\.wav is too long; at most 2 s can be searched for\."),
        (np.full(SAMPLE_RATE, np.nan), r"clip\.wav cannot be used: not finite"),
    ],
)
def test_uploads_that_are_refused(tmp_path, content, message):
    path = tmp_path / "clip.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=message) as error:
        read_upload(path, Limits(seconds=2, megabytes=2))
    assert str(tmp_path) not in str(error.value)  # a visitor learns nothing of the machine


def test_no_more_of_a_long_clip_is_decoded_than_is_allowed(tmp_path, monkeypatch):
    path = tmp_path / "minutes.flac"
    soundfile.write(path, np.zeros(300 * SAMPLE_RATE), SAMPLE_RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the length in its header: unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    decoded = []
    monkeypatch.setattr(audio._Forward, "read", lambda self, n, **_: decoded.append(n) or np.zeros((n, 1), np.float32))
    with pytest.raises(DataError, match="too long; at most 30 s"):
        read_upload(path, Limits())
    assert sum(decoded) < 60 * SAMPLE_RATE


def test_texts():
    assert read_text("  un ours ", Limits()) == "un ours"
    with pytest.raises(DataError, match="Nothing was typed"):
        read_text(" \n", Limits())
    with pytest.raises(DataError, match=r"The text has 100,000 characters; at most 500"):
        read_text("a" * 100_000, Limits())


@pytest.mark.parametrize("limit", ["seconds", "megabytes", "characters"])
def test_limits_are_positive(limit):
    with pytest.raises(ConfigError, match=f"the limit of {limit} is 0; give a positive one"):
        Limits(**{limit: 0})


def test_a_found_clip_is_played_from_the_page_itself(make_wav, tmp_path, monkeypatch):
    path = make_wav("a.wav", 0.5)
    url, seconds = playable(str(path))
    kind, _, data = url.partition(",")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
    assert kind == "data:audio/wav;base64" and rate == SAMPLE_RATE and seconds == 0.5
    np.testing.assert_allclose(samples, load_audio(path), atol=1e-4)
    monkeypatch.setattr(clips, "PREVIEW_SECONDS", 0.25)
    shorter, seconds = playable(str(path))
    assert seconds == 0.5 and len(shorter) < 0.6 * len(url)
    with pytest.raises(AudioError, match="missing file"):
        playable(str(tmp_path / "gone.wav"))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_are_positive_and_finite(value):
    for name in ("seconds", "megabytes", "characters"):
        with pytest.raises(ConfigError, match=f"the limit of {name} is .*; give a positive one"):
            Limits(**{name: value})
