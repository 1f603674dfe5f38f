"""The feature store: computed once, never stale, bad clips counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechde import progress
from speechde.errors import AssetError, DataError
from speechde.features import frames as features
from speechde.features.encoders import WhisperFrames, pool_frames
from speechde.features.frames import View, extract_frames, extract_shard, quantise
from speechde.features.kmeans import fit_kmeans
from speechde.features.store import FeatureStore
from speechde.features.unit_bpe import train_bpe
from speechde.features.units import Quantiser, deduplicate
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
    assert len(store) == 4 and store.sample(9, 0).shape == (9, 16)
    assert all(store[u.id].dtype == np.float16 and isinstance(store[u.id], np.memmap) for u in clips)
    for clip in clips:
        waveform, _ = soundfile.read(clip.audio, dtype="float32")
        (alone,) = encoder.inner.encode([waveform])
        assert store[clip.id].shape == alone.shape
        np.testing.assert_allclose(store[clip.id].astype(np.float32), alone.astype(np.float32), atol=0.1)
    assert store.seconds == pytest.approx({f"u{i}": 0.2 + 0.1 * i for i in range(4)})
    assert store.dropped == [] and store.speed > 0 and "u9" not in store


def test_memory_map_equals_what_was_returned(clips, encoder, tmp_path):
    store = extract(clips, encoder, tmp_path)
    again = FeatureStore.open([piece.folder for piece in store.pieces])
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


@pytest.mark.parametrize("rate", [50.0, 25.0])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_of_the_mean_is_subtracted_after_pooling(clips, encoder, tmp_path, rate, share):
    plain = extract(clips, encoder, tmp_path, rate)
    normed = extract(clips, encoder, tmp_path, rate, view=View(mean_norm=share))
    assert len(encoder.given) == 4 and normed.key != plain.key
    for clip in clips:
        mean = plain[clip.id].astype(np.float32).mean(0)
        np.testing.assert_allclose(normed[clip.id], plain[clip.id] - share * mean, atol=2e-2)
        np.testing.assert_allclose(normed[clip.id].astype(np.float32).mean(0), (1 - share) * mean, atol=2e-2)
    assert normed[clips[0].id].dtype == np.float16 and normed.seconds == plain.seconds


@pytest.mark.parametrize("change", ["trim", "speed", "noise", "order", "layer", "less"])
def test_what_changes_the_frames_makes_a_new_store(clips, encoder, tiny_whisper, tmp_path, change):
    first = extract(clips, encoder, tmp_path)
    before = {u.id: np.array(first[u.id]) for u in clips}
    view = {"trim": View(1.0, 20.0), "speed": View(0.9), "noise": View(snr_db=10.0)}.get(change)
    given = {"order": clips[::-1], "less": clips[:3]}.get(change, clips)
    second = extract(given, Counting(tiny_whisper, layer=1) if change == "layer" else encoder, tmp_path, view=view)
    assert second.key != first.key
    for clip in clips:
        np.testing.assert_array_equal(first[clip.id], before[clip.id])
    if change == "speed":
        assert len(second["u3"]) > len(first["u3"]) and second.seconds == first.seconds


def test_noise_is_the_same_whatever_else_is_in_the_list(clips, encoder, tmp_path):
    noisy = View(snr_db=5.0)
    every, one = extract(clips, encoder, tmp_path, view=noisy), extract(clips[1:2], encoder, tmp_path, view=noisy)
    np.testing.assert_allclose(every[clips[1].id], one[clips[1].id], atol=2e-2)
    plain = extract(clips, encoder, tmp_path)
    assert np.abs(plain[clips[1].id].astype(np.float32) - every[clips[1].id]).max() > 0.1


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
    assert sorted(store.ids) == [c.id for c in clips]
    with pytest.raises(DataError, match=r"none of 6 clips could be used \(empty: empty .*check their paths"):
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
    kmeans = fit_kmeans(store.gather(store.ids), 6)
    units = quantise(store, Quantiser(kmeans, merge), tmp_path)
    assert units[clips[0].id].dtype == np.int32 and units.seconds == store.seconds
    for clip in clips:
        expected = kmeans.assign(store[clip.id])
        np.testing.assert_array_equal(units[clip.id], deduplicate(expected) if merge else expected)
    monkeypatch.setattr(features.Piece, "write", None)  # a second call writes nothing
    assert quantise(store, Quantiser(kmeans, merge), tmp_path).key == units.key


def test_another_quantiser_makes_another_store(clips, encoder, tmp_path):
    store = extract(clips, encoder, tmp_path)
    keys = {
        quantise(store, Quantiser(fit_kmeans(store.gather(store.ids), n), merge), tmp_path).key
        for n in (4, 5)
        for merge in (True, False)
    }
    assert len(keys) == 4


def test_tokens_of_a_unit_bpe(clips, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 3)
    store = extract(clips, encoder, tmp_path)
    plain = Quantiser(fit_kmeans(store.gather(store.ids), 4))
    units = quantise(store, plain, tmp_path)
    merged = replace(plain, bpe=train_bpe([units[id_] for id_ in units.ids], 4, 12))
    tokens = quantise(store, merged, tmp_path)
    for clip in clips:
        np.testing.assert_array_equal(merged.bpe.decode(tokens[clip.id]), units[clip.id])
        np.testing.assert_array_equal(merged.encode(store[clip.id]), tokens[clip.id])
    assert tokens.rows < units.rows and tokens[clips[0].id].dtype == np.int32
    for index in map(lambda piece: piece.index, tokens.pieces):
        assert index["quantiser"] == merged.hash


@pytest.mark.parametrize("other", ["kmeans", "deduplicate", "bpe", "frames"])
def test_a_store_of_another_quantiser_is_refused(clips, encoder, tmp_path, other):
    store = extract(clips, encoder, tmp_path)
    own = Quantiser(fit_kmeans(store.gather(store.ids), 4))
    folders = [piece.folder for piece in quantise(store, own, tmp_path).pieces]
    expected = {
        "kmeans": replace(own, kmeans=fit_kmeans(store.gather(store.ids), 4, seed=1)).hash,
        "deduplicate": replace(own, deduplicate=False).hash,
        "bpe": replace(own, bpe=train_bpe([np.arange(4)] * 3, 4, 5)).hash,
        "frames": None,
    }[other]
    with pytest.raises(AssetError, match=f"holds units of quantiser {own.hash}, expected"):
        FeatureStore.open(folders, expected)
    assert len(FeatureStore.open(folders, own.hash)) == 4


@pytest.mark.parametrize("damage", ["rows", "cut", "index", "gone"])
def test_a_damaged_store_is_an_error(clips, encoder, tmp_path, damage):
    folder = extract(clips, encoder, tmp_path).pieces[0].folder
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


class Killed(Exception):
    """Stands for a signal."""


class Dying(Counting):
    """An encoder that dies when it is given its k-th clip."""

    def __init__(self, folder, k):
        super().__init__(folder)
        self.k = k

    def encode(self, waveforms):
        if len(self.given) + len(waveforms) >= self.k:
            raise Killed
        return super().encode(waveforms)


@pytest.fixture
def many(make_wav):
    paths = [make_wav(f"{i}.wav", 0.2 + 0.05 * (i % 3), 200.0 + 40 * i, i) for i in range(10)]
    return [Utterance(f"u{i}", "fr_fr", "x", str(path), "x", "train") for i, path in enumerate(paths)]


def test_a_store_of_pieces_equals_a_store_of_one(many, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "BATCH_SECONDS", 0.1)  # each clip alone, or batches would differ by rounding
    whole = {rate: extract(many, encoder, tmp_path / "one", rate) for rate in (50.0, 25.0)}
    monkeypatch.setattr(features, "PIECE", 4)
    for rate, one in whole.items():
        pieces = extract(many, encoder, tmp_path / "three", rate)
        assert [len(store.pieces) for store in (one, pieces)] == [1, 3]
        assert sorted(pieces.ids) == sorted(one.ids) and pieces.rows == one.rows and pieces.seconds == one.seconds
        for clip in many:
            np.testing.assert_array_equal(pieces[clip.id], one[clip.id])
        kmeans = fit_kmeans(one.gather(one.ids), 5)
        units = [quantise(store, Quantiser(kmeans), tmp_path) for store in (one, pieces)]
        for clip in many:
            np.testing.assert_array_equal(units[1][clip.id], units[0][clip.id])


def test_other_choices_of_languages_find_the_same_pieces(many, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 3)
    mixed = [replace(u, lang=("fr_fr", "ro_ro", "ca_es")[i % 3]) for i, u in enumerate(many)]
    store = extract(mixed, encoder, tmp_path)
    assert [len(piece.ids) for piece in store.pieces] == [3, 1, 3, 3] and len(encoder.given) == 10
    two = extract([u for u in mixed if u.lang != "ro_ro"], encoder, tmp_path)
    assert len(encoder.given) == 10 and len(two) == 7
    assert all(np.array_equal(two[id_], store[id_]) for id_ in two.ids)


def test_a_killed_start_loses_the_piece_in_work_and_no_other(many, tiny_whisper, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 3)
    monkeypatch.setattr(features, "BATCH_SECONDS", 0.1)
    first = Dying(tiny_whisper, 8)  # the 8th clip is the second of the third piece
    with pytest.raises(Killed):
        extract(many, first, tmp_path)
    assert len(first.given) == 7 and len(list((tmp_path / "frames").iterdir())) == 2
    second = Counting(tiny_whisper)
    store = extract(many, second, tmp_path)
    assert len(second.given) == 4 and sorted(store.ids) == sorted(u.id for u in many)
    whole = extract(many, Counting(tiny_whisper), tmp_path / "whole")
    for clip in many:
        np.testing.assert_array_equal(store[clip.id], whole[clip.id])


def test_a_killed_process_leaves_nothing_that_a_second_start_would_read(many, tiny_whisper, tmp_path, monkeypatch):
    """As ``kill -9`` in the middle of writing leaves it: a temporary folder that nobody removes."""
    monkeypatch.setattr(features, "PIECE", 5)
    half = tmp_path / "frames" / ".tmp-0123456789ab-key"
    half.mkdir(parents=True)
    (half / "values.npy").write_bytes(b"half")
    assert len(extract(many, Counting(tiny_whisper), tmp_path)) == 10


def test_progress_goes_on_from_what_is_cached(many, tiny_whisper, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(features, "PIECE", 4)
    monkeypatch.setattr(progress, "FIRST", 0.0)
    extract(many[:4], Counting(tiny_whisper), tmp_path, label="a")
    extract(many, Counting(tiny_whisper), tmp_path, label="b")
    extract(many, Counting(tiny_whisper), tmp_path, label="c")
    lines = [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if "names" not in line] == [
        "a: 0/4 clips", "a: 4/4 clips", "b: 4/10 clips", "b: 10/10 clips"
    ]  # fmt: skip
    assert [line for line in lines if "names" in line] == [
        "a: names: 0/1 pieces", "a: names: 1/1 pieces", "b: names: 1/3 pieces", "b: names: 3/3 pieces"
    ]  # fmt: skip


def test_chunks_are_kept_until_their_piece_is_whole(many, tiny_whisper, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK_SECONDS", 0.5)  # chunks of three clips
    whole = extract(many, Counting(tiny_whisper), tmp_path / "whole")
    assert len(list((tmp_path / "whole/frames").iterdir())) == 1
    with pytest.raises(Killed):
        extract(many, Dying(tiny_whisper, 8), tmp_path)
    parts = sorted((tmp_path / "frames").iterdir())
    assert len(parts) == 2
    (parts[1] / "values.npy").write_bytes(b"half")  # as a crash of the machine may leave it
    rest = Counting(tiny_whisper)
    store = extract(many, rest, tmp_path)
    assert len(rest.given) == 7 and len(list((tmp_path / "frames").iterdir())) == 1
    assert store.ids == whole.ids and store.key == whole.key and store.seconds == whole.seconds
    for clip in many:
        np.testing.assert_array_equal(store[clip.id], whole[clip.id])


@pytest.mark.parametrize("rate", [50.0, 25.0])
def test_shards_make_all_that_a_full_run_reads(many, encoder, tmp_path, monkeypatch, rate):
    monkeypatch.setattr(features, "PIECE", 3)
    counts = [extract_shard(many, encoder, tmp_path, (number, 3), rate=rate) for number in (3, 1, 2)]
    assert counts == [1, 2, 1] and len(encoder.given) == 10
    assert extract_shard(many[:3], encoder, tmp_path, (2, 2), rate=rate) == 0
    before = sorted((tmp_path / "frames").iterdir())
    assert len(extract(many, encoder, tmp_path, rate)) == 10
    assert len(encoder.given) == 10 and sorted((tmp_path / "frames").iterdir()) == before


def test_two_processes_that_make_the_same_piece(clips, encoder, tiny_whisper, tmp_path):
    """The other one finishes while this one encodes: its piece stays, and both read the same."""

    class Overtaken(Counting):
        def encode(self, waveforms):
            extract(clips, encoder, tmp_path)
            return super().encode(waveforms)

    store = extract(clips, Overtaken(tiny_whisper), tmp_path)
    assert len(encoder.given) == 4 and len(store) == 4
    assert [*(tmp_path / "frames").iterdir()] == [store.pieces[0].folder]


def test_a_piece_without_a_usable_clip_is_fine(many, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 2)
    bad = [Utterance(f"b{i}", "fr_fr", "x", str(tmp_path / "none.wav"), "x", "train") for i in range(2)]
    for rate in (50.0, 25.0):
        store = extract([*many[:2], *bad, *many[2:4]], encoder, tmp_path, rate)
        assert [piece.rows > 0 for piece in store.pieces] == [True, False, True]
        assert sorted(store.ids) == ["u0", "u1", "u2", "u3"] and [d.id for d in store.dropped] == ["b0", "b1"]
        assert store.speed > 0 and store.sample(10**6, 0).shape == (store.rows, 16)
        units = quantise(store, Quantiser(fit_kmeans(store.gather(store.ids), 3)), tmp_path)
        assert sorted(units.ids) == sorted(store.ids) and units.dropped == store.dropped
    with pytest.raises(DataError, match="none of 2 clips could be used"):
        extract(bad, encoder, tmp_path)
