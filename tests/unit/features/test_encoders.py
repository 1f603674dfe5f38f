"""Dispatch on the architecture, and pooling of frames."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from speechde.errors import AssetError, ConfigError
from speechde.features.encoders import (
    ENCODERS,
    SpeechEncoder,
    WhisperFrames,
    load_speech_encoder,
    pool_frames,
    pooling_factor,
)
from speechde.features.pretrained import Wav2Vec2Frames


def test_the_model_type_chooses_the_class(tiny_whisper, tiny_speech_encoder):
    whisper = load_speech_encoder(tiny_whisper, layer=1, dtype=torch.float32)
    assert isinstance(whisper, WhisperFrames) and whisper.layer == 1
    assert whisper.describe() == WhisperFrames(tiny_whisper, layer=1, dtype=torch.float32).describe()
    hubert = load_speech_encoder(str(tiny_speech_encoder("hubert")), layer=-2)
    assert isinstance(hubert, Wav2Vec2Frames) and hubert.layer == 1


def test_other_model_types_are_refused(tiny_llm, tmp_path):
    with pytest.raises(
        ConfigError, match=r"'bert' is not known; allowed: data2vec-audio, .*, whisper\..* To add one: a row"
    ):
        load_speech_encoder(tiny_llm("bert"))
    with pytest.raises(AssetError, match=r"holds no config\.json"):
        load_speech_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 4}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="None is not known"):
        load_speech_encoder(tmp_path)


def test_every_class_follows_the_protocol():
    for encoder in ENCODERS.values():
        assert all(callable(getattr(encoder, name)) for name in ("describe", "encode"))
    assert set(SpeechEncoder.__annotations__) == {"rate", "dim"}


@pytest.mark.parametrize("factor", [1, 2, 3, 7, 10])
def test_pool_frames_against_a_loop(factor):
    frames = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    expected = [frames[i : i + factor].mean(0) for i in range(0, 7, factor)]
    pooled = pool_frames(frames, factor)
    np.testing.assert_allclose(pooled, np.stack(expected), rtol=1e-5, atol=1e-6)
    assert pool_frames(frames.astype(np.float16), factor).dtype == np.float16
    assert pool_frames(frames[:0], factor).shape == (0, 3)


def test_pooling_factor():
    assert [pooling_factor(50.0, rate) for rate in (50, 25, 12.5, 10)] == [1, 2, 4, 5]
    for rate in (100, 30, 26, 0, -25):
        with pytest.raises(ConfigError, match=rf"frontend\.rate={rate} Hz.*use one of 50, 25, 12\.5"):
            pooling_factor(50.0, rate)
