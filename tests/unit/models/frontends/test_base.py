"""Padding, span dropping and compaction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde.errors import DataError
from speechde.models.frontends.base import Frontend, compact, drop_spans, pad_items, pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend


def test_pad_units_and_frames():
    units = pad_sequences([np.array([3, 1, 2], np.int32), np.array([5], np.uint16)])
    assert units.values.tolist() == [[3, 1, 2], [5, 0, 0]] and units.values.dtype == torch.int64
    assert units.mask.tolist() == [[True] * 3, [True, False, False]]
    frames = pad_sequences([np.ones((1, 2), np.float16), np.full((2, 2), 0.5, np.float16)])
    assert frames.values.dtype == torch.float32 and frames.values.tolist()[0] == [[1, 1], [0, 0]]
    assert frames.mask.sum(1).tolist() == [1, 2]


def test_pad_errors():
    with pytest.raises(DataError, match="no items"):
        pad_sequences([])
    with pytest.raises(DataError, match="item 1 of the batch is an empty sequence"):
        pad_sequences([np.arange(3), np.arange(0)])


def test_empty_sequences_where_they_are_allowed():
    prefix = pad_sequences([np.array([7, 8]), np.array([], np.int64)], allow_empty=True)
    assert prefix.mask.tolist() == [[True, True], [False, False]]
    assert pad_sequences([np.array([], np.int64)], allow_empty=True).values.shape == (1, 0)


def test_items_made_up_alike_are_a_column_for_each_part():
    words, ids = np.array([7, 8]), np.array([4, 5, 6], np.int32)
    none, frames = np.array([], np.int64), np.ones((2, 3), np.float16)
    batch = pad_items([[("text", words), ("speech", frames)], [("text", none), ("speech", frames[:1])]])
    assert [modality for modality, _ in batch.columns] == ["text", "speech"] and len(batch) == 2
    (_, text), (_, speech) = batch.columns
    assert text.values.tolist() == [[7, 8], [0, 0]] and text.mask.tolist() == [[True, True], [False, False]]
    assert speech.values.shape == (2, 2, 3) and speech.mask.sum(1).tolist() == [2, 1]
    assert batch.lengths.tolist() == [4, 1]
    # words that no row has are no column
    assert [modality for modality, _ in pad_items([[("text", none), ("speech", ids)]]).columns] == ["speech"]


def test_items_that_cannot_be_a_batch():
    ids, none = np.array([4, 5]), np.array([], np.int64)
    with pytest.raises(DataError, match="no items"):
        pad_items([])
    with pytest.raises(DataError, match="item 1 of the batch is an empty sequence"):
        pad_items([[("text", ids), ("speech", ids)], [("text", ids), ("speech", none)]])
    with pytest.raises(DataError, match="item 0 of the batch is an empty sequence"):
        pad_items([[("text", none)]])  # an item of nothing at all
    with pytest.raises(ValueError, match="shorter"):
        pad_items([[("text", ids), ("speech", ids)], [("text", ids)]])


@pytest.mark.parametrize("span", [1, 3, 10])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropped_share(share, span):
    mask = torch.ones(20, 2000, dtype=torch.bool)
    mask[1, 300:] = False
    kept = drop_spans(mask, share, span)
    assert kept[:, 0].all() and not (kept & ~mask).any()
    dropped = 1 - kept[:, span:][mask[:, span:]].float().mean()
    assert float(dropped) == pytest.approx(share, abs=0.02)


def test_dropped_runs_are_at_least_a_span_long():
    kept = drop_spans(torch.ones(50, 400, dtype=torch.bool), 0.1, 4)
    for row in kept[:, 4:-4].tolist():
        runs = "".join(".x"[not k] for k in row).strip("x").split(".")
        assert all(len(run) >= 4 for run in runs if run)


def test_share_of_zero_keeps_everything_and_the_seed_decides():
    mask = torch.ones(2, 50, dtype=torch.bool)
    assert torch.equal(drop_spans(mask, 0.0, 3), mask)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(drop_spans(mask, 0.4, 2))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_compact_keeps_order_and_cuts_common_padding():
    values = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]])
    mask = torch.tensor([[True, False, True, False, True], [False, False, False, True, False]])
    packed, kept = compact(values, mask)
    assert kept.tolist() == [[True, True, True], [True, False, False]]
    assert packed[0].tolist() == [1, 3, 5] and packed[1, 0] == 9
    frames, same = compact(torch.stack([values, -values], -1).float(), mask)
    assert torch.equal(same, kept) and frames.shape == (2, 3, 2)
    assert frames[0, :, 1].tolist() == [-1, -3, -5]


def test_both_frontends_follow_the_protocol():
    assert isinstance(UnitFrontend(4), Frontend)
    assert isinstance(ContinuousFrontend(3, 8, 1.0, hidden=4, heads=2, layers=0), Frontend)
