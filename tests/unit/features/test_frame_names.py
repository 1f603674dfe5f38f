"""Frames are found by what made them: the bytes of the clips and the version of the code, never a name or a date."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechde.features import frames as features
from speechde.features.frames import extract_frames
from speechde.media import audio
from speechde.types import Utterance


class Encoder:
    """The mean amplitude of each 20 ms; counts the clips it was given."""

    rate, dim, given = 50.0, 1, 0

    def describe(self):
        return {"encoder": "amplitude"}

    def encode(self, waveforms):
        self.given += len(waveforms)
        return [
            np.abs(w[: len(w) // 320 * 320].reshape(-1, 320)).mean(1, keepdims=True).astype("f2") for w in waveforms
        ]


@pytest.fixture
def clips(make_wav):
    paths = [make_wav(f"{i}.wav", 0.2 + 0.1 * i, 200.0 + 90 * i, i) for i in range(4)]
    return [Utterance(f"u{i}", "fr_fr", "x", str(path), "x", "train") for i, path in enumerate(paths)]


@pytest.fixture
def encoder():
    return Encoder()


def extract(clips, encoder, folder):
    return extract_frames(clips, encoder, folder, rate=50.0)


@pytest.mark.parametrize("module", [features, audio])
def test_another_version_of_the_code_makes_new_frames(clips, encoder, tmp_path, monkeypatch, module):
    first = extract(clips, encoder, tmp_path)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert extract(clips, encoder, tmp_path).key != first.key and encoder.given == 8


def test_a_clip_replaced_by_one_of_equal_length_and_date_is_encoded_anew(clips, encoder, tmp_path):
    first = extract(clips, encoder, tmp_path)
    before = np.array(first["u1"])
    replace_with(clips[1].audio, clips[1].audio, 0.25)
    second = extract(clips, encoder, tmp_path)
    np.testing.assert_allclose(second["u1"], before / 4, atol=1e-3)
    np.testing.assert_array_equal(first["u1"], before)


def replace_with(path, source, volume=1.0):
    """Write other samples to ``path``, of equal length, with its old dates: what ``touch -d @0`` does to all files."""
    stat = os.stat(path) if os.path.exists(path) else None
    samples, rate = soundfile.read(source, dtype="float32")
    soundfile.write(path, volume * samples, rate)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns) if stat else (0, 0))


def test_two_corpora_of_equal_ids_lengths_and_dates_do_not_share_frames(clips, encoder, tmp_path):
    corpora = []
    for name, volume in (("a", 1.0), ("b", 0.1)):
        (tmp_path / name).mkdir()
        corpora.append([replace(u, audio=str(tmp_path / name / f"{u.id}.wav")) for u in clips])
        for own, u in zip(corpora[-1], clips, strict=True):
            replace_with(own.audio, u.audio, volume)
    first, second = (extract(corpus, encoder, tmp_path) for corpus in corpora)
    assert first.ids == second.ids and first.key != second.key and encoder.given == 8


def test_a_corpus_that_was_copied_is_found_again(clips, encoder, tmp_path):
    first = extract(clips, encoder, tmp_path)
    (tmp_path / "copy").mkdir()
    copies = [replace(u, audio=shutil.copy(u.audio, tmp_path / "copy")) for u in clips]
    os.utime(clips[0].audio, ns=(0, 0))
    assert extract(copies, encoder, tmp_path).key == first.key == extract(clips, encoder, tmp_path).key
    assert encoder.given == 4


def test_odd_clips_are_read_or_left_out_with_their_reason(clips, encoder, tmp_path):
    """A FLAC of unknown length, odd and impossible rates, 16-bit numbers as floats, and minutes of nothing."""
    samples, rate = soundfile.read(clips[3].audio, dtype="float32")
    given = {"unknown": ("flac", rate), "odd": ("wav", 11_127), "far": ("wav", rate), "loud": ("wav", rate)}
    odd = {name: tmp_path / f"{name}.{kind}" for name, (kind, _) in given.items()} | {"long": tmp_path / "long.flac"}
    for name, (_, own) in given.items():
        soundfile.write(
            odd[name], samples * (32_768 if name == "loud" else 1), own, "FLOAT" if name == "loud" else None
        )
    soundfile.write(odd["long"], np.zeros(250 * rate, np.int16), rate)
    for name, at, new in (("unknown", 21, bytes(5)), ("far", 24, (14_527_556).to_bytes(4, "little"))):
        data = bytearray(odd[name].read_bytes())
        data[at : at + len(new)] = bytes([data[at] & 0xF0]) + new[1:] if name == "unknown" else new
        odd[name].write_bytes(data)
    store = extract([replace(clips[0], id=name, audio=str(path)) for name, path in odd.items()], encoder, tmp_path)
    assert store.seconds == {"unknown": 0.5, "odd": pytest.approx(0.5 * rate / 11_127, abs=1e-3)}
    assert {d.id: d.reason for d in store.dropped} == {"far": "unreadable", "loud": "out of range", "long": "too long"}


def test_clips_that_no_decoder_survives_are_left_out(clips, encoder, tmp_path, monkeypatch):
    def explode(data):
        if len(data) == os.stat(clips[1].audio).st_size:
            raise MemoryError
        return [data]

    monkeypatch.setattr(audio, "split_streams", explode)
    store = extract(clips, encoder, tmp_path)
    assert [(d.id, d.reason) for d in store.dropped] == [("u1", "unreadable")] and len(store) == 3


def test_waveforms_are_those_that_their_version_stands_for():
    """Other values? Then raise ``VERSION`` of the module, or caches go on with the old ones."""
    time = np.arange(22_050) / 22_050
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * 440 * time * (1 + time)), 22_050, "FLOAT", format="WAV")
    waveform = audio.load_audio(file.getvalue())
    quick = audio.perturb_speed(waveform, 1.1)
    noisy = audio.add_noise(waveform, 20.0, np.random.default_rng(0))
    trimmed = audio.trim_silence(np.concatenate([np.zeros(9000, np.float32), waveform]))
    assert audio.VERSION == 2
    assert [len(waveform), len(quick), len(trimmed)] == [16_000, 14_545, 17_640]
    np.testing.assert_allclose(waveform[1000:5000:1000], [0.49039, -0.35355, -0.09755, 0.0], atol=1e-3)
    np.testing.assert_allclose(quick[1000:5000:1000], [0.43863, -0.45407, 0.10235, 0.49384], atol=1e-3)
    np.testing.assert_allclose(noisy[1000:5000:1000], [0.47085, -0.34695, -0.1565, 0.02139], atol=1e-3)
