"""Pairs planted among distractors are found, and nearly nothing else; the fast path equals the whole matrix."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from speechde.errors import ConfigError, DataError
from speechde.search import mining
from speechde.search.mining import MARGINS, Pair, mine

DIM, PLANTED, ALONE = 32, 150, 350


def corpus(seed=0, noise=0.35):
    """Two sets with ``PLANTED`` pairs among ``ALONE`` distractors each, in clusters of related sentences.

    Half of the distractors are crowded about the middle of a cluster: near to each other, and the same as none.

    Each set is in an order of its own; returns both and the known pairs of rows.
    """
    rng = np.random.default_rng(seed)
    count = PLANTED + 2 * ALONE
    spread = np.where(np.arange(count) < PLANTED, 0.8, rng.choice([0.1, 0.8], size=count))[:, None]
    meanings = rng.normal(size=(25, DIM))[rng.integers(25, size=count)] + spread * rng.normal(size=(count, DIM))
    sides, orders = [], []
    for own in (meanings[PLANTED : PLANTED + ALONE], meanings[PLANTED + ALONE :]):
        side = np.concatenate([meanings[:PLANTED], own])
        side += noise * rng.normal(size=side.shape)
        order = rng.permutation(len(side))
        sides.append(side[order].astype(np.float32))
        orders.append(np.argsort(order)[:PLANTED].tolist())
    return *sides, set(zip(*orders, strict=True))


def whole_matrix(a, b, margin, k):
    """The definition, with all scores in memory."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosines = a @ b.T
    mean_a = np.sort(cosines, axis=1)[:, -k:].mean(axis=1)
    mean_b = np.sort(cosines, axis=0)[-k:].mean(axis=0)
    middle = (mean_a[:, None] + mean_b) / 2
    scores = cosines / middle if margin == "ratio" else cosines - middle
    near_a = cosines >= np.sort(cosines, axis=1)[:, -k, None]  # candidates are the neighbours of a row
    near_b = cosines >= np.sort(cosines, axis=0)[-k]
    best_a, best_b = (np.where(near, scores, -np.inf).argmax(axis=axis) for axis, near in ((1, near_a), (0, near_b)))
    pairs = [(float(scores[i, j]), i, int(j)) for i, j in enumerate(best_a) if best_b[j] == i]
    return sorted(pairs, key=lambda pair: -pair[0])


def quality(pairs, known):
    found = {(pair.a, pair.b) for pair in pairs}
    return len(found & known) / len(found), len(found & known) / len(known)


@pytest.mark.parametrize("margin", MARGINS)
def test_planted_pairs(margin):
    a, b, known = corpus()
    pairs = mine(a, b, margin=margin)
    assert [pair.score for pair in pairs] == sorted((pair.score for pair in pairs), reverse=True)
    _, recall = quality(pairs, known)
    precision, at_top = quality(pairs[: len(known)], known)
    assert recall > 0.97 and precision > 0.9 and at_top > 0.9
    threshold = pairs[len(known) - 1].score
    assert mine(a, b, margin=margin, threshold=threshold) == pairs[: len(known)]


def test_the_margin_is_better_than_the_cosine():
    """What the margin is for: of as many pairs, more are right."""
    a, b, known = corpus()
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosines = unit_a @ unit_b.T
    mutual = [
        Pair(cosines[i, j], i, int(j)) for i, j in enumerate(cosines.argmax(axis=1)) if cosines[:, j].argmax() == i
    ]
    mutual = sorted(mutual, key=lambda pair: -pair.score)[: len(known)]
    assert quality(mine(a, b)[: len(known)], known)[0] > quality(mutual, known)[0] + 0.05


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("k", [1, 4])
def test_equals_the_whole_matrix(margin, k, monkeypatch):
    monkeypatch.setattr(mining, "BLOCK", 64)
    a, b, _ = corpus(1)
    found = mine(a, b, margin=margin, k=k)
    expected = whole_matrix(a, b, margin, k)
    assert [(p.a, p.b) for p in found] == [(i, j) for _, i, j in expected]
    np.testing.assert_allclose([p.score for p in found], [score for score, *_ in expected], atol=1e-5)


def test_the_length_of_vectors_does_not_matter():
    a, b, _ = corpus()
    scaled = mine(a * 7, b * np.linspace(0.5, 2, len(b), dtype=np.float32)[:, None])
    assert [(p.a, p.b) for p in scaled] == [(p.a, p.b) for p in mine(a, b)]


def test_approximate_neighbours(monkeypatch):
    a, b, known = corpus()
    exact, graph = mine(a, b), mine(a, b, neighbours="hnsw")
    common = {(p.a, p.b) for p in exact} & {(p.a, p.b) for p in graph}
    assert len(common) / len(exact) > 0.95 and quality(graph[: len(known)], known)[0] > 0.9
    assert mine(a, b, neighbours="auto") == exact
    monkeypatch.setattr("speechde.search.kinds.FLAT_UP_TO", 10)
    assert [(p.a, p.b) for p in mine(a, b, neighbours="auto")] == [(p.a, p.b) for p in graph]


def test_small_sets():
    pairs = mine(np.eye(3), np.eye(3)[::-1], k=10)
    assert {(p.a, p.b) for p in pairs} == {(0, 2), (1, 1), (2, 0)}
    assert [(p.a, p.b) for p in mine([[1, 0.0]], [[0.6, 0.8], [1, 0]])] == [(0, 1)]


def test_no_ratio_without_a_positive_mean(caplog):
    with caplog.at_level(logging.WARNING):
        assert mine([[1.0, 0]], [[-1.0, 0.1]]) == []
    assert "1 pairs have neighbours of no positive cosine" in caplog.text
    assert len(mine([[1.0, 0]], [[-1.0, 0.1]], margin="distance")) == 1


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "message"),
    [
        (np.eye(2), np.eye(3), {}, DataError, "vectors of 2 and of 3 numbers"),
        (np.eye(2), np.empty((0, 2)), {}, DataError, "the second set has shape"),
        (np.zeros((2, 2)), np.eye(2), {}, DataError, "2 vectors of the first set are zero or not finite"),
        (np.eye(2), np.full((1, 2), np.nan), {}, DataError, "1 vectors of the second set"),
        (np.eye(2), np.eye(2), {"k": 0}, DataError, "k=0"),
        (np.eye(2), np.eye(2), {"margin": "rato"}, ConfigError, "Did you mean 'ratio'"),
        (np.eye(2), np.eye(2), {"neighbours": "ivfpq"}, ConfigError, "allowed: auto, flat, hnsw"),
    ],
)
def test_bad_arguments(a, b, options, error, message):
    with pytest.raises(error, match=message):
        mine(a, b, **options)


def test_a_threshold_that_is_no_number():
    with pytest.raises(ConfigError, match="threshold=nan"):
        mine(np.eye(3), np.eye(3), threshold=float("nan"))
