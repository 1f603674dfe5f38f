"""Pieces made by Ray actors are those made in this process."""

from __future__ import annotations

import os
import sys
from functools import partial

import numpy as np
import pytest
import torch

from speechde.errors import ConfigError, SpeechdeError
from speechde.features import frames as features
from speechde.features.encoders import load_speech_encoder
from speechde.features.frames import extract_frames
from speechde.features.ray_extraction import encode_with_ray
from speechde.types import Utterance


@pytest.fixture
def clips(make_wav, tmp_path, monkeypatch):
    """Seven clips, one of them bad, in pieces of three; paths are relative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "PIECE", 3)
    names = [make_wav(f"{i}.wav", 0.2 + 0.1 * i, 200.0 + 90 * i, i).name for i in range(6)]
    return [Utterance(f"u{i}", "fr_fr", "x", name, "x", "train") for i, name in enumerate([*names, "missing.wav"])]


@pytest.fixture
def encode(tiny_whisper):
    """``encode(workers, layer)`` → engine whose actors load the given layer."""
    load = partial(load_speech_encoder, tiny_whisper, dtype=torch.float32)  # other processes choose for themselves
    key = load().describe()
    return lambda workers=2, layer=-1: partial(encode_with_ray, partial(load, layer=layer), key, workers)


def test_pieces_equal_those_of_this_process(clips, encode, tiny_whisper, tmp_path):
    ray = pytest.importorskip("ray")
    encoder = load_speech_encoder(tiny_whisper)
    here = extract_frames(clips, encoder, tmp_path / "here", rate=25.0)
    encoder.encode = None  # the driver encodes nothing
    workers = min(2, os.cpu_count())
    there = extract_frames(clips, encoder, tmp_path / "ray", rate=25.0, encode=encode(workers))
    assert there.key == here.key and there.ids == here.ids and len(there.pieces) == 3
    assert [d.id for d in there.dropped] == ["u6"] and there.seconds == here.seconds
    for id_ in here.ids:
        # float16 of sums that another number of threads adds in another order
        np.testing.assert_allclose(there[id_], here[id_], rtol=2e-3, atol=2e-3)
    assert not ray.is_initialized()  # what was started is stopped


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_failures_are_told(clips, encode, tiny_whisper, tmp_path, cluster):
    encoder = load_speech_encoder(tiny_whisper)
    with pytest.raises(ConfigError, match=r"ray_workers=3 is more than the 2 processors that Ray has"):
        extract_frames(clips, encoder, tmp_path / "a", rate=50.0, encode=encode(3))
    differ = r"AssetError: .*'layer': 1.*'layer': 2.*start again, finished pieces are kept"
    with pytest.raises(SpeechdeError, match=rf"a Ray worker failed \(\S*{differ}"):
        extract_frames(clips, encoder, tmp_path / "a", rate=50.0, encode=encode(1, layer=1))


def test_without_ray(clips, encode, tiny_whisper, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: .*pip install -e '.*\[ray\]'; or set it to 0"):
        extract_frames(clips, load_speech_encoder(tiny_whisper), tmp_path, rate=50.0, encode=encode(1))
