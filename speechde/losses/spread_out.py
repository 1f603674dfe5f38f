"""Spread-out regulariser (Zhang et al. 2017, "Learning Spread-out Local Feature Descriptors").

Two vectors drawn independently and uniformly from the unit sphere in ``dim`` dimensions have a dot product of mean 0
and second moment ``1/dim``. The term pushes the first moment of the non-matching pairs to 0 and their second moment
down to ``1/dim``. It is defined on the sphere, so callers pass unit vectors also when the similarity is a plain dot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechde.losses.gradcache import BLOCK, sum_over_blocks


def spread_out(embeddings: Tensor, group: Tensor | None = None) -> Tensor:
    """``mean(dot)² + relu(mean(dot²) − 1/dim)`` over the pairs of different items of one modality.

    Args:
        embeddings: ``(batch, dim)``, unit norm.
        group: ``(batch,)`` integers; pairs of equal items are left out. A batch without any such pair gives 0.
    """
    batch, dim = embeddings.shape
    if batch > BLOCK:
        return _in_blocks(embeddings, group)
    same = torch.eye(batch, dtype=torch.bool, device=embeddings.device)
    if group is not None:
        same = same | (group[:, None] == group[None, :])
    dots = (embeddings @ embeddings.T)[~same]
    if dots.numel() == 0:
        return embeddings.sum() * 0.0
    return dots.mean() ** 2 + torch.relu((dots**2).mean() - 1.0 / dim)


def _in_blocks(embeddings: Tensor, group: Tensor | None) -> Tensor:
    """The same from sums over blocks of rows."""
    batch, dim = embeddings.shape
    group = torch.arange(batch, device=embeddings.device) if group is None else group

    def moments(rows: slice) -> Tensor:
        dots = (embeddings[rows] @ embeddings.T).masked_fill(group[rows, None] == group[None, :], 0.0)
        return torch.stack([dots.sum(), (dots**2).sum()])

    pairs = batch**2 - int((torch.unique(group, return_counts=True)[1] ** 2).sum())
    first, second = sum_over_blocks(moments, batch) / max(1, pairs)
    return first**2 + torch.relu(second - 1.0 / dim)
