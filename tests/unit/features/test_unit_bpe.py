"""Byte-pair encoding of units: lossless, deterministic, and no unit is unknown."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.errors import AssetError, ConfigError
from speechde.features import unit_bpe
from speechde.features.kmeans import KMeans
from speechde.features.unit_bpe import UnitBpe, train_bpe
from speechde.features.units import Quantiser


@pytest.fixture(scope="module")
def sequences():
    """Units 0 … 5 of 8; the phrase 4 1 5 is everywhere."""
    draw = np.random.default_rng(0)
    return [np.concatenate([draw.integers(0, 6, 12), [4, 1, 5], draw.integers(0, 6, 9), [4, 1, 5]]) for _ in range(60)]


@pytest.fixture(scope="module")
def bpe(sequences):
    return train_bpe(sequences, units=8, size=20)


def test_decoding_gives_the_units_back(bpe, sequences):
    draw = np.random.default_rng(1)
    for units in [*sequences, draw.integers(0, 8, 500), np.arange(8), np.array([7]), np.zeros(0, np.int64)]:
        ids = bpe.encode(units)
        assert ids.dtype == np.int32 and len(ids) <= len(units)
        np.testing.assert_array_equal(bpe.decode(ids), units)
        assert len(ids) == 0 or (0 <= ids.min() and ids.max() < bpe.tokens)


def test_frequent_sequences_are_one_token(bpe):
    assert bpe.tokens == 20
    tokens = [tuple(bpe.units(token)) for token in range(20)]
    assert (4, 1, 5) in tokens and len(set(tokens)) == 20
    assert {(unit,) for unit in range(8)} < set(tokens)  # also those that no training clip has
    assert len(bpe.encode(np.array([4, 1, 5]))) == 1


def test_a_run_of_one_unit_is_neither_merged_nor_split_as_text_would_be():
    spaces = [np.array([3, 3, 3, 0, 0, 3])] * 5
    bpe = train_bpe(spaces, 4, 6)
    np.testing.assert_array_equal(bpe.decode(bpe.encode(spaces[0])), spaces[0])


def test_training_is_deterministic(bpe, sequences, tmp_path):
    again = train_bpe(sequences, 8, 20)
    assert again.model == bpe.model and again.hash == bpe.hash
    assert train_bpe(sequences[:30], 8, 20).hash != bpe.hash
    bpe.save(tmp_path / "new" / "x.model")
    assert UnitBpe.load(tmp_path / "new" / "x.model") == bpe


def test_size_of_the_vocabulary(sequences):
    assert train_bpe(sequences, 8, 8).tokens == 8  # no merge
    short = train_bpe([np.array([1, 2]), np.array([1, 2])], 8, 4096)
    assert short.tokens == 9  # the units and the one pair there is
    for units, size in ((8, 7), (unit_bpe.MAX_UNITS + 1, 10**6), (0, 5)):
        with pytest.raises(ConfigError, match=rf"frontend\.bpe={size} needs room for frontend\.units={units}"):
            train_bpe(sequences, units, size)


def test_as_many_units_as_there_are_characters():
    units = np.array([0, 2047, 6399, 6400, unit_bpe.MAX_UNITS - 1])
    bpe = train_bpe([units], unit_bpe.MAX_UNITS, unit_bpe.MAX_UNITS)
    assert bpe.tokens == unit_bpe.MAX_UNITS
    np.testing.assert_array_equal(bpe.decode(bpe.encode(units)), units)


def test_long_clips_are_read(sequences):
    long = np.tile([6, 7, 0], unit_bpe.MAX_LENGTH)
    bpe = train_bpe([*sequences[:2], long], 8, 12)
    assert all(6 in bpe.units(token) for token in range(12) if len(bpe.units(token)) > 2)  # parts of the long clip
    np.testing.assert_array_equal(bpe.decode(bpe.encode(long)), long)


def test_units_of_another_kmeans_and_a_damaged_file(bpe, tmp_path):
    with pytest.raises(AssetError, match="units up to 8 are not those of this unit BPE"):
        bpe.encode(np.array([1, 8]))
    (tmp_path / "x.model").write_bytes(b"no model")
    for name in ("x.model", "y.model"):
        with pytest.raises(AssetError, match=rf"no unit BPE at .*{name}"):
            UnitBpe.load(tmp_path / name)


def test_centroids_of_tokens(bpe):
    kmeans = KMeans(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.zeros(3), np.ones(3))
    centroids = Quantiser(kmeans, True, bpe).centroids
    assert centroids.shape == (20, 3) and centroids.dtype == np.float32
    for token, centroid in enumerate(centroids):
        units = bpe.units(token)
        np.testing.assert_allclose(centroid, sum(kmeans.centroids[u] for u in units) / len(units), rtol=1e-5)
        if len(units) == 1:
            np.testing.assert_array_equal(centroid, kmeans.centroids[units[0]])
    np.testing.assert_array_equal(Quantiser(kmeans).centroids, kmeans.centroids)


def test_the_hash_of_a_quantiser_is_that_of_all_its_parts(bpe, sequences):
    kmeans = [KMeans(np.full((8, 3), i, np.float32), np.zeros(3), np.ones(3)) for i in range(2)]
    bpes = [None, bpe, train_bpe(sequences, 8, 19)]
    quantisers = [Quantiser(k, d, b) for k in kmeans for d in (True, False) for b in bpes]
    assert len({quantiser.hash for quantiser in quantisers}) == 12
    assert [quantiser.tokens for quantiser in quantisers[:3]] == [8, 20, 19]
