"""Dynamic time warping: the batched diagonals against the textbook's loops."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.evaluation import dtw
from speechde.evaluation.dtw import dtw_distances


def textbook(a, b):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64))]
    cost = 1 - unit[0] @ unit[1].T
    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i in range(len(a)):
        for j in range(len(b)):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return total[-1, -1] / (len(a) + len(b))


@pytest.mark.parametrize("cells", [1, 60, 10**6])
def test_equal_to_the_textbook_whatever_is_held_at_once(monkeypatch, cells):
    monkeypatch.setattr(dtw, "CELLS", cells)
    rng = np.random.default_rng(0)
    queries, gallery = (
        [rng.normal(size=(n, 4)).astype(np.float16) for n in sizes] for sizes in ((1, 5, 9), (7, 1, 3, 9))
    )
    expected = [[textbook(a, b) for b in gallery] for a in queries]
    np.testing.assert_allclose(dtw_distances(queries, gallery), expected, atol=1e-5)


def test_tempo_does_not_matter():
    rng = np.random.default_rng(1)
    clips = [rng.normal(size=(6, 8)) for _ in range(3)]
    slow = [np.repeat(clip, 3, axis=0) for clip in clips]
    distances = dtw_distances(slow, clips)
    assert distances.argmin(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.diag(distances), 0, atol=1e-6)
