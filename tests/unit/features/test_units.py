"""K-means against planted clusters and brute force; units as rows of the extended vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from speechde.errors import AssetError, ConfigError, DataError
from speechde.features import kmeans as kmeans_module
from speechde.features.kmeans import KMeans, fit_kmeans
from speechde.features.units import deduplicate
from speechde.models.frontends.base import pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


def planted(clusters=5, each=60, dim=8):
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(clusters, dim)) * 10
    label = np.repeat(np.arange(clusters), each)
    frames = centres[label] + 0.1 * draw.normal(size=(len(label), dim))
    frames[:, 0] *= 1000  # one dimension that would decide every distance were it not standardised
    frames[:, 1] += 500
    return frames.astype(np.float32), label


def random_kmeans(units=16, dim=6, seed=0):
    draw = np.random.default_rng(seed)
    centroids, mean, std = draw.normal(size=(units, dim)), draw.normal(size=dim), draw.uniform(0.5, 2, dim)
    return KMeans(*(a.astype(np.float32) for a in (centroids, mean, std)))


def test_fit_recovers_planted_clusters():
    frames, label = planted()
    # four units for each cluster: from random starting points, as many units as clusters may split one and merge two
    units = fit_kmeans(frames, 20, seed=3).assign(frames)
    assert units.dtype == np.int32 and set(units) == set(range(20))
    for unit in range(20):
        assert len(set(label[units == unit].tolist())) == 1


def test_standardisation_lets_small_dimensions_count():
    draw = np.random.default_rng(1)
    label = np.arange(200) % 2
    frames = np.stack([1000 * draw.uniform(size=200), label + 0.01 * draw.normal(size=200)], 1)
    kmeans = fit_kmeans(frames.astype(np.float32), 4)
    units = kmeans.assign(frames.astype(np.float32))
    assert all(len(set(label[units == u].tolist())) == 1 for u in range(4))


def test_fit_is_deterministic_with_the_seed():
    frames = np.random.default_rng(2).normal(size=(400, 6)).astype(np.float16)
    first, again, other = (fit_kmeans(frames, 12, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.centroids, again.centroids) and first.hash == again.hash
    assert first.hash != other.hash


def test_fit_equals_lloyd_written_out():
    frames = np.random.default_rng(4).normal(size=(5000, 5)).astype(np.float32)  # more than one piece
    kmeans = fit_kmeans(frames, 7, iterations=4, seed=2, tolerance=0.0)
    scaled = ((frames - frames.mean(0)) / (frames.std(0) + 1e-5)).astype(np.float64)
    centroids = scaled[np.random.default_rng(2).permutation(len(frames))[:7]]
    for _ in range(4):
        nearest = ((scaled[:, None] - centroids) ** 2).sum(2).argmin(1)
        centroids = np.stack([scaled[nearest == unit].mean(0) for unit in range(7)])
    np.testing.assert_allclose(kmeans.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(kmeans.assign(frames), ((scaled[:, None] - centroids) ** 2).sum(2).argmin(1))


def test_a_centroid_without_frames_moves_to_one_that_is_far_from_its_own():
    frames = np.concatenate([np.zeros((300, 2)), np.arange(1, 11)[:, None] * [5.0, 7.0]]).astype(np.float32)
    kmeans = fit_kmeans(frames, 8, seed=0)  # nearly all start on the same point
    assert len(np.unique(kmeans.centroids, axis=0)) == 8 == len(set(kmeans.assign(frames).tolist()))


def test_iterations_stop_where_they_no_longer_help(monkeypatch):
    frames, calls = planted()[0], []
    real = kmeans_module.nearest
    monkeypatch.setattr(kmeans_module, "nearest", lambda *a: calls.append(1) or real(*a))
    fit_kmeans(frames, 20, iterations=1000)
    assert len(calls) < 50


def test_constant_dimension_does_not_divide_by_zero():
    frames = np.random.default_rng(2).normal(size=(50, 3)).astype(np.float32)
    frames[:, 1] = 4.0
    kmeans = fit_kmeans(frames, 3)
    assert np.isfinite(kmeans.centroids).all() and kmeans.assign(frames).max() < 3


def test_too_few_frames():
    with pytest.raises(DataError, match=r"4 frames cannot fit 5 units.*frontend\.units"):
        fit_kmeans(np.zeros((4, 2), np.float32), 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_assign_is_the_nearest_centroid(dtype):
    kmeans = random_kmeans()
    frames = np.random.default_rng(9).normal(size=(300, 6)).astype(dtype)
    scaled = (frames.astype(np.float64) - kmeans.mean) / kmeans.std
    distance = ((scaled[:, None] - kmeans.centroids[None].astype(np.float64)) ** 2).sum(-1)
    assert np.array_equal(kmeans.assign(frames), distance.argmin(1))


def test_save_and_load(tmp_path):
    kmeans = random_kmeans()
    kmeans.save(tmp_path / "sub" / "kmeans.safetensors")
    loaded = KMeans.load(tmp_path / "sub" / "kmeans.safetensors")
    for name in ("centroids", "mean", "std"):
        assert np.array_equal(getattr(loaded, name), getattr(kmeans, name))
    assert loaded.hash == kmeans.hash
    with pytest.raises(AssetError, match="no k-means centroids at"):
        KMeans.load(tmp_path / "other.safetensors")


def test_hash_sees_every_number_and_the_shape():
    kmeans = random_kmeans(3, 6)
    seen = {kmeans.hash}
    for name in ("centroids", "mean", "std"):
        for i in range(getattr(kmeans, name).size):
            arrays = {n: getattr(kmeans, n).copy() for n in ("centroids", "mean", "std")}
            arrays[name].flat[i] = np.nextafter(arrays[name].flat[i], np.float32(np.inf))
            seen.add(KMeans(**arrays).hash)
    seen.add(KMeans(kmeans.centroids.reshape(6, 3), kmeans.mean, kmeans.std).hash)
    assert len(seen) == 1 + 18 + 6 + 6 + 1
    assert len(kmeans.hash) == 16


@pytest.mark.parametrize(
    ("units", "expected"),
    [([], []), ([4], [4]), ([3, 3, 5, 5, 3], [3, 5, 3]), ([1, 2, 3], [1, 2, 3]), ([7, 7, 7], [7])],
)
def test_deduplicate(units, expected):
    assert deduplicate(np.array(units, np.int32)).tolist() == expected


def test_units_become_audio_rows():
    embedding = ExtendedEmbedding(nn.Embedding(10, 4), 6)
    speech = pad_sequences([np.array([0, 5, 2]), np.array([3])])
    out, mask = UnitFrontend(6)(speech, embedding)
    assert torch.equal(out[0], embedding.audio[[0, 5, 2]]) and torch.equal(out[1, 0], embedding.audio[3])
    assert torch.equal(mask, speech.mask)


def test_an_adapter_reads_the_rows_of_units_as_that_of_frames_reads_frames():
    torch.manual_seed(0)
    embedding = ExtendedEmbedding(nn.Embedding(10, 4), 6)
    over_units = UnitFrontend(6, layers=2, hidden=8, heads=2, embedding_std=0.5, width=4).eval()
    frames = ContinuousFrontend(4, 4, 0.5, hidden=8, stride=1, layers=2, heads=2).eval()
    frames.load_state_dict(over_units.adapter.state_dict())
    speech = pad_sequences([np.array([0, 5, 2]), np.array([3])])
    out, mask = over_units(speech, embedding)
    expected, _ = frames(Sequences(embedding.audio[speech.values], speech.mask), embedding)
    torch.testing.assert_close(out[mask], expected[mask])
    alone, _ = over_units(pad_sequences([np.array([3])]), embedding)
    torch.testing.assert_close(alone[0], out[1, :1])
    assert torch.equal(mask, speech.mask) and float(out[mask].std()) == pytest.approx(0.5, rel=0.2)


def test_an_adapter_over_units_needs_the_width_of_the_llm():
    with pytest.raises(ConfigError, match="layers=1 over units need the width"):
        UnitFrontend(6, layers=1)
    with pytest.raises(ConfigError, match=r"frontend\.hidden=9 is not a multiple of frontend\.heads=2"):
        UnitFrontend(6, layers=1, hidden=9, heads=2, width=4)


@pytest.mark.parametrize("unit", [6, -1])
def test_unit_out_of_range(unit):
    embedding = ExtendedEmbedding(nn.Embedding(10, 4), 6)
    with pytest.raises(DataError, match=rf"unit {unit} is outside 0…5"):
        UnitFrontend(6)(pad_sequences([np.array([1, unit])]), embedding)


def test_drop_shortens_in_training_only():
    embedding = ExtendedEmbedding(nn.Embedding(10, 4), 6)
    speech = pad_sequences([np.arange(200) % 6, np.arange(100) % 6])
    frontend = UnitFrontend(6, drop=0.5, drop_span=2)
    out, mask = frontend.train()(speech, embedding)
    assert 50 < mask[0].sum() < 150 and out.shape[1] == mask.sum(1).max()
    assert torch.equal(out[:, 0], embedding.audio[[0, 0]])
    assert torch.equal(frontend.eval()(speech, embedding)[1], speech.mask)
