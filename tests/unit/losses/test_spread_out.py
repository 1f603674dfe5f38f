"""The spread-out term against a double loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from speechde.losses.spread_out import spread_out


def naive(embeddings, meaning=None):
    batch, dim = embeddings.shape
    dots = []
    for i in range(batch):
        for j in range(batch):
            if i != j and (meaning is None or set(meaning[i]).isdisjoint(meaning[j])):
                dots.append(sum(a * b for a, b in zip(embeddings[i].tolist(), embeddings[j].tolist(), strict=True)))
    first, second = sum(dots) / len(dots), sum(d * d for d in dots) / len(dots)
    return first**2 + max(0.0, second - 1 / dim)


MEANING = [[0, 9], [1, 8], [7, 0], [2, 2], [2, 5], [3, 2], [8, 3]]  # 1 and 6, 5 and 6 share an id; 1 and 5 do not


@pytest.mark.parametrize("meaning", [None, [[i] for i in (0, 1, 0, 2, 2, 2, 3)], MEANING])
@pytest.mark.parametrize("centre", [0.0, 0.7])
def test_equals_a_double_loop(meaning, centre):
    embeddings = F.normalize(torch.randn(7, 5) + centre, dim=-1)
    value = spread_out(embeddings, None if meaning is None else torch.tensor(meaning))
    assert float(value) == pytest.approx(naive(embeddings, meaning), abs=1e-6)


def test_spread_vectors_cost_nothing_and_collapsed_ones_most():
    assert float(spread_out(torch.eye(4))) == 0.0
    collapsed = F.normalize(torch.ones(4, 4), dim=-1)
    assert float(spread_out(collapsed)) == pytest.approx(1 + 1 - 1 / 4)


@pytest.mark.parametrize(("batch", "meaning"), [(1, None), (3, [[5], [5], [5]])])
def test_no_pair_left_is_zero_with_a_gradient(batch, meaning):
    embeddings = F.normalize(torch.randn(batch, 4), dim=-1).requires_grad_()
    value = spread_out(embeddings, None if meaning is None else torch.tensor(meaning))
    value.backward()
    assert float(value.detach()) == 0.0 and (embeddings.grad == 0).all()


def test_gradient_drives_vectors_apart():
    start = F.normalize(torch.randn(6, 4) + 2, dim=-1)
    raw = start.clone().requires_grad_()
    spread_out(F.normalize(raw, dim=-1)).backward()
    assert raw.grad.isfinite().all()
    assert spread_out(F.normalize(start - 0.1 * raw.grad, dim=-1)) < spread_out(start)
