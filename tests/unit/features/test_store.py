"""Pieces on disk, and several of them read as one store."""

from __future__ import annotations

import gc
import os
import pickle
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest

from speechde.errors import AssetError
from speechde.features import store as module
from speechde.features.store import FeatureStore, Piece


def piece(folder, ids, lengths, start=0, **index):
    """A piece of ``(time, 2)`` rows that count up from ``start``."""
    rows = np.arange(start, start + sum(lengths), dtype=np.float16)
    parts = np.split(np.stack([rows, -rows], 1), np.cumsum(lengths)[:-1]) if ids else [np.zeros((0, 2), np.float16)]
    Piece.write(folder, parts, {"ids": ids, "seconds": [n / 10 for n in lengths], "dropped": [], **index})
    return Piece(folder)


@pytest.fixture
def pieces(tmp_path):
    first = piece(tmp_path / "a", ["x", "y"], [2, 3], times_real_time=10.0, dropped=[["bad", "silent", ""]])
    empty = piece(tmp_path / "b", [], [], times_real_time=0.0)
    return [first, empty, piece(tmp_path / "c", ["z", "x"], [4, 1], start=5, times_real_time=20.0)]


def test_pieces_are_read_as_one(pieces):
    store = FeatureStore(pieces)
    assert store.ids == ["x", "y", "z"] and len(store) == 3 and store.rows == 10 and "bad" not in store
    assert store["y"][:, 0].tolist() == [2, 3, 4] and store["z"][:, 1].tolist() == [-5, -6, -7, -8]
    assert store["x"][:, 0].tolist() == [0, 1]  # the first piece that holds an id answers
    assert isinstance(store["y"], np.memmap) and not store["y"].flags.writeable
    assert store.gather(["z", "y"])[:, 0].tolist() == [5, 6, 7, 8, 2, 3, 4]
    assert store.dropped[0].id == "bad"
    assert store.speed == pytest.approx(1.0 / (0.5 / 10 + 0.5 / 20))


def test_the_key_is_that_of_the_pieces(pieces):
    keys = {FeatureStore(chosen).key for chosen in (pieces, pieces[:2], pieces[::-1])}
    assert len(keys) == 3 and FeatureStore(pieces).key in keys


def test_merge(pieces):
    merged = FeatureStore.merge([FeatureStore(pieces[2:]), FeatureStore(pieces[:2])])
    assert merged["x"][:, 0].tolist() == [9] and merged["y"][:, 0].tolist() == [2, 3, 4] and merged.rows == 10


def test_a_store_goes_to_another_process(pieces):
    other = pickle.loads(pickle.dumps(FeatureStore(pieces)))
    assert other["y"][:, 0].tolist() == [2, 3, 4]


def test_a_sample_is_seeded_bounded_and_does_not_depend_on_the_cut(tmp_path):
    one = FeatureStore([piece(tmp_path / "one", ["a"], [200])])
    cuts = [0, 7, 7, 120, 200]
    many = FeatureStore(
        piece(tmp_path / f"{i}", ["a"] if stop > start else [], [stop - start] if stop > start else [], start)
        for i, (start, stop) in enumerate(pairwise(cuts))
    )
    sample = many.sample(50, seed=0)
    assert sample.shape == (50, 2) and sample.dtype == np.float32 and len(np.unique(sample[:, 0])) == 50
    np.testing.assert_array_equal(sample, one.sample(50, seed=0))
    np.testing.assert_array_equal(sample, many.sample(50, seed=0))
    assert not np.array_equal(sample, many.sample(50, seed=1))
    np.testing.assert_array_equal(many.sample(5000, seed=0)[:, 0], np.arange(200))


def test_open_maps_are_bounded(tmp_path, monkeypatch):
    descriptors = "/proc/self/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("needs /proc")
    monkeypatch.setattr(module, "_mapped", lru_cache(4)(Piece.map))
    store = FeatureStore(piece(tmp_path / f"{i}", [f"u{i}"], [2], i) for i in range(30))
    gc.collect()
    before = len(os.listdir(descriptors))
    for i in range(30):
        assert store[f"u{i}"][0, 0] == i
    assert len(os.listdir(descriptors)) - before <= 4


def test_units_of_another_quantiser_are_refused(tmp_path):
    frames, units = piece(tmp_path / "f", ["a"], [2]), piece(tmp_path / "u", ["a"], [2], quantiser="0123")
    assert len(FeatureStore.open([units.folder], "0123")) == 1
    for folder, expected, message in (
        (units.folder, "4567", "units of quantiser 0123, expected units of quantiser 4567"),
        (units.folder, None, "units of quantiser 0123, expected frames"),
        (frames.folder, "0123", "holds frames, expected units of quantiser 0123"),
    ):
        with pytest.raises(AssetError, match=message):
            FeatureStore.open([folder], expected)
