"""Mean pooling sees the real positions only."""

from __future__ import annotations

import torch

from speechde.models.pooling import mean_pool


def test_mean_of_the_real_positions():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, -100.0]], [[5.0, 5.0], [7.0, 7.0], [0.0, 3.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert mean_pool(hidden, mask).tolist() == [[2.0, 4.0], [4.0, 5.0]]


def test_padding_has_neither_influence_nor_gradient():
    hidden = torch.randn(2, 5, 3, requires_grad=True)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    pooled = mean_pool(hidden, mask)
    torch.testing.assert_close(pooled[:1], mean_pool(hidden[:1, :3], mask[:1, :3]))
    pooled.sum().backward()
    assert (hidden.grad[0, 3:] == 0).all() and (hidden.grad[mask] != 0).all()


def test_half_precision_input_is_summed_in_float32():
    hidden = torch.full((1, 1000, 1), 1.0078125, dtype=torch.bfloat16)  # a sum of these in bfloat16 stops growing
    pooled = mean_pool(hidden, torch.ones(1, 1000, dtype=torch.bool))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, 1), 1.0078125))
