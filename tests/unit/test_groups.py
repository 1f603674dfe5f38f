"""Rows that share a key are one, whatever the order in which that becomes known."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.groups import joined


def test_what_is_shared_by_way_of_others():
    assert joined([]) == []
    assert joined([["a"], [], ["b"], ["c", "b"], ["a", "c"]]) == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_connected_components(seed):
    keys = np.random.default_rng(seed).integers(0, 60, (40, 2))
    near = (keys[:, None, :, None] == keys[None, :, None, :]).any((2, 3))
    reached = np.linalg.matrix_power(near.astype(float), 40) > 0  # by paths of any length
    assert joined(keys.tolist()) == reached.argmax(1).tolist()
