"""The feature store: computed once, never stale, bad clips counted."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from speechde.errors import AssetError, DataError
from speechde.frontends import features
from speechde.frontends.encoders import WhisperFrames, pool_frames
from speechde.frontends.features import FeatureStore, View, extract_frames, quantise
from speechde.frontends.units import deduplicate, fit_kmeans
from speechde.types import SAMPLE_RATE, Utterance


@pytest.fixture
def clips(make_wav):
    paths = [make_wav(f"{i}.wav", 0.2 + 0.1 * i, 200.0 + 90 * i, i) for i in range(4)]
    return [Utterance(f"u{i}", "fr_fr", "x", str(path), "x", "train") for i, path in enumerate(paths)]


class Counting:
    """An encoder that counts the clips it was given."""

    def __init__(self, folder, layer=-1):
        self.inner, self.given = WhisperFrames(folder, layer=layer), []

    def encode(self, waveforms):
        self.given += [len(w) for w in waveforms]
        return self.inner.encode(waveforms)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def encoder(tiny_whisper):
    return Counting(tiny_whisper)


def extract(clips, encoder, folder, rate=50.0, **options):
    return extract_frames(clips, encoder, folder, rate=rate, **options)


def test_frames_are_those_of_the_encoder(clips, encoder, tmp_path):
    store = extract(clips, encoder, tmp_path, view=View(1.0, 200.0))
    assert len(store) == 4 and store.values.dtype == np.float16 and isinstance(store.values, np.memmap)
    for clip in clips:
        waveform, _ = soundfile.read(clip.audio, dtype="float32")
        (alone,) = encoder.inner.encode([waveform])
        assert store[clip.id].shape == alone.shape
        np.testing.assert_allclose(store[clip.id].astype(np.float32), alone.astype(np.float32), atol=0.1)
    assert store.seconds == pytest.approx({f"u{i}": 0.2 + 0.1 * i for i in range(4)})
    assert store.dropped == [] and store.speed > 0 and "u9" not in store


def test_memory_map_equals_what_was_returned(clips, encoder, tmp_path):
    store = extract(clips, encoder, tmp_path)
    again = FeatureStore.open(store.folder)
    for clip in clips:
        np.testing.assert_array_equal(again[clip.id], store[clip.id])
    rows = np.concatenate([store["u2"], store["u0"]])
    np.testing.assert_array_equal(again.gather(["u2", "u0"]), rows)


def test_a_second_call_reads_the_cache(clips, encoder, tmp_path):
    first = extract(clips, encoder, tmp_path)
    assert len(encoder.given) == 4
    second = extract(clips, encoder, tmp_path)
    assert len(encoder.given) == 4 and second.key == first.key


def test_lower_rates_are_pooled_from_the_same_frames(clips, encoder, tmp_path):
    full, half = (extract(clips, encoder, tmp_path, rate) for rate in (50.0, 25.0))
    assert len(encoder.given) == 4 and full.key != half.key
    for clip in clips:
        np.testing.assert_array_equal(half[clip.id], pool_frames(np.asarray(full[clip.id]), 2))
    assert half.seconds == full.seconds and half.dropped == full.dropped


@pytest.mark.parametrize("change", ["trim", "speed", "clip", "order", "layer", "less"])
def test_what_changes_the_frames_makes_a_new_store(clips, encoder, tiny_whisper, tmp_path, change):
    first = extract(clips, encoder, tmp_path)
    before = {u.id: np.array(first[u.id]) for u in clips}
    view = {"trim": View(1.0, 20.0), "speed": View(0.9)}.get(change)
    if change == "clip":
        stat = os.stat(clips[0].audio)
        os.utime(clips[0].audio, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    given = {"order": clips[::-1], "less": clips[:3]}.get(change, clips)
    second = extract(given, Counting(tiny_whisper, layer=1) if change == "layer" else encoder, tmp_path, view=view)
    assert second.key != first.key
    for clip in clips:
        np.testing.assert_array_equal(first[clip.id], before[clip.id])
    if change == "speed":
        assert len(second["u3"]) > len(first["u3"]) and second.seconds == first.seconds


def test_bad_clips_are_dropped_and_counted(clips, encoder, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    tone, _ = soundfile.read(clips[0].audio, dtype="float32")
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "nan.wav", np.where(np.arange(len(tone)) == 9, np.nan, tone), SAMPLE_RATE, "FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(8000), SAMPLE_RATE)
    soundfile.write(folder / "short.wav", tone[:100], SAMPLE_RATE)
    data = open(clips[0].audio, "rb").read()
    (folder / "truncated.wav").write_bytes(data[: len(data) // 2])
    names = ["empty", "nan", "silent", "short", "truncated", "missing"]
    bad = [Utterance(name, "fr_fr", "x", str(folder / f"{name}.wav"), "x", "train") for name in names]
    store = extract([bad[0], *clips, *bad[1:]], encoder, tmp_path)
    reasons = ["empty", "not finite", "silent", "too short", "unreadable", "missing file"]
    assert {d.id: d.reason for d in store.dropped} == dict(zip(names, reasons, strict=True))
    assert sorted(store.index["ids"]) == [c.id for c in clips]
    with pytest.raises(DataError, match=r"none of 6 clips could be used \(empty: empty .*check the audio paths"):
        extract(bad, encoder, tmp_path)
    assert len(list((tmp_path / "frames").iterdir())) == 1  # nothing half-made is left


def test_chunks_and_batches_do_not_change_the_frames(clips, encoder, tmp_path, monkeypatch):
    whole = extract(clips, encoder, tmp_path / "a")
    monkeypatch.setattr(features, "CHUNK", 3)
    monkeypatch.setattr(features, "BATCH_SECONDS", 0.1)
    parts = extract(clips, encoder, tmp_path / "b")
    for clip in clips:
        np.testing.assert_allclose(parts[clip.id].astype(float), whole[clip.id].astype(float), atol=0.1)


@pytest.mark.parametrize("merge", [True, False])
def test_quantise_equals_assigning_each_clip(clips, encoder, tmp_path, merge, monkeypatch):
    store = extract(clips, encoder, tmp_path)
    kmeans = fit_kmeans(np.asarray(store.values), 6)
    units = quantise(store, kmeans, tmp_path, run_length_deduplication=merge)
    assert units.values.dtype == np.int32 and units.seconds == store.seconds
    for clip in clips:
        expected = kmeans.assign(store[clip.id])
        np.testing.assert_array_equal(units[clip.id], deduplicate(expected) if merge else expected)
    monkeypatch.setattr(features, "_write", None)  # a second call writes nothing
    assert quantise(store, kmeans, tmp_path, run_length_deduplication=merge).key == units.key


def test_another_quantiser_makes_another_store(clips, encoder, tmp_path):
    store = extract(clips, encoder, tmp_path)
    keys = {
        quantise(store, fit_kmeans(np.asarray(store.values), n), tmp_path, run_length_deduplication=merge).key
        for n in (4, 5)
        for merge in (True, False)
    }
    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["rows", "cut", "index", "gone"])
def test_a_damaged_store_is_an_error(clips, encoder, tmp_path, damage):
    folder = extract(clips, encoder, tmp_path).folder
    values = folder / "values.npy"
    if damage == "rows":
        np.save(values, np.zeros((3, 16), np.float16))
    elif damage == "cut":
        values.write_bytes(values.read_bytes()[:-64])
    elif damage == "index":
        (folder / "index.json").write_text('{"ids": [')
    else:
        values.unlink()
    with pytest.raises(AssetError, match=f"{folder.name} is damaged .*delete it, and it will be made again"):
        extract(clips, encoder, tmp_path)
