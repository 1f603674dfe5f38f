"""Frames of clips under a condition: of what is heard, kept apart, of the same clips; clean ones keep their names."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.conditions import parse
from speechde.features import frames as features
from speechde.features.encoders import WhisperFrames
from speechde.features.frames import View, extract_frames
from speechde.media import audio
from speechde.media.audio import load_audio, trim_silence
from speechde.media.degradations import degrade
from speechde.types import Utterance


@pytest.fixture
def clips(make_wav):
    paths = [make_wav(f"{i}.wav", 0.2 + 0.1 * i, 200.0 + 90 * i, i) for i in range(4)]
    return [Utterance(f"u{i}", "fr_fr", "x", str(path), "x", "test") for i, path in enumerate(paths)]


@pytest.fixture
def encoder(tiny_whisper):
    return WhisperFrames(tiny_whisper)


def extract(clips, encoder, folder, condition=""):
    view = View(condition=parse(condition)) if condition else View()
    return extract_frames(clips, encoder, folder, rate=50.0, view=view)


def test_clean_clips_have_the_names_that_they_had_before_there_were_conditions(encoder):
    described = features.Clips(encoder, View()).describe()
    assert described == {
        "version": [features.VERSION, audio.VERSION],
        "encoder": encoder.describe(),
        "pool": 1,
        "view": [1.0, 40.0],
    }


def test_frames_under_a_condition_are_kept_apart(clips, encoder, tmp_path):
    clean = extract(clips, encoder, tmp_path)
    slow, noisy = (extract(clips, encoder, tmp_path, name) for name in ("speed0.5", "snr0"))
    assert len({clean.key, slow.key, noisy.key}) == 3
    for clip in clips:
        assert slow.seconds[clip.id] == pytest.approx(2 * clean.seconds[clip.id])
        assert len(slow[clip.id]) > 1.5 * len(clean[clip.id])
        (alone,) = encoder.encode([trim_silence(degrade(load_audio(clip.audio), parse("snr0"), clip.id))])
        np.testing.assert_allclose(noisy[clip.id].astype(np.float32), alone.astype(np.float32), atol=0.1)
    one = extract(clips[2:3], encoder, tmp_path, "snr0")  # other neighbours in its batch
    np.testing.assert_allclose(noisy[clips[2].id].astype(np.float32), one[clips[2].id].astype(np.float32), atol=0.1)
    encoder.encode = None
    assert extract(clips, encoder, tmp_path, "snr0").key == noisy.key  # from the cache


def test_which_clips_can_be_used_does_not_depend_on_the_condition(encoder, make_wav, tmp_path):
    """A clip of 0.15 s lasts less than the least at twice the speed, and is of the same queries all the same."""
    clips = [Utterance("a", "fr_fr", "x", str(make_wav("a.wav", 0.15)), "x", "test")]
    assert extract(clips, encoder, tmp_path, "speed2").ids == ["a"]
