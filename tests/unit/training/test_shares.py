"""Padding and waiting as shares."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.models.frontends.base import pad_sequences
from speechde.training import shares


def test_padding_share_counts_the_parts_that_are_computed():
    one = pad_sequences([np.ones(n) for n in (1, 4, 2, 3)])
    assert float(shares.padding_share([(one, 1)])) == pytest.approx(1 - 10 / 16)
    assert float(shares.padding_share([(one, 2)])) == pytest.approx(1 - 10 / 12)
    assert float(shares.padding_share([(one, 4), (one, 1)])) == pytest.approx(1 - 20 / 26)


def test_wait_share(monkeypatch):
    times = iter([0.0, 3.0, 4.0, 7.0, 9.0, 100.0, 101.0])
    monkeypatch.setattr(shares.time, "perf_counter", lambda: next(times))
    clock = shares.WaitClock()
    clock.start()
    assert clock.share is None
    clock.end()  # 3 s of work, then 1 s of waiting
    clock.start()
    assert clock.share == pytest.approx(1 / 4)
    clock.end()  # 3 s of work, then 2 s of waiting
    clock.start()
    assert clock.share == pytest.approx(3 / 9)
    clock.reset()  # an evaluation
    clock.start()
    assert clock.share is None
