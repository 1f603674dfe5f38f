"""Spread-out regulariser (Zhang et al. 2017, "Learning Spread-out Local Feature Descriptors").

Two vectors drawn independently and uniformly from the unit sphere in ``dim`` dimensions have a dot product of mean 0
and second moment ``1/dim``. The term pushes the first moment of the non-matching pairs to 0 and their second moment
down to ``1/dim``. It is defined on the sphere, so callers pass unit vectors also when the similarity is a plain dot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechde.losses.gradcache import BLOCK, sum_over_blocks
from speechde.losses.meaning import same_meaning


def spread_out(embeddings: Tensor, meaning: Tensor | None = None) -> Tensor:
    """``mean(dot)² + relu(mean(dot²) − 1/dim)`` over the pairs of different items of one modality.

    Args:
        embeddings: ``(batch, dim)``, unit norm.
        meaning: ``(batch, k)`` integers; rows that share an id are left out. A batch in which all do gives 0.
    """
    batch, dim = embeddings.shape
    if batch > BLOCK:
        return _in_blocks(embeddings, meaning)
    same = torch.eye(batch, dtype=torch.bool, device=embeddings.device)
    if meaning is not None:
        same = same | same_meaning(meaning, meaning)
    dots = (embeddings @ embeddings.T)[~same]
    if dots.numel() == 0:
        return embeddings.sum() * 0.0
    return dots.mean() ** 2 + torch.relu((dots**2).mean() - 1.0 / dim)


def _in_blocks(embeddings: Tensor, meaning: Tensor | None) -> Tensor:
    """The same from sums over blocks of rows."""
    batch, dim = embeddings.shape
    own = torch.arange(batch, device=embeddings.device)[:, None]  # every row is at least itself
    meaning = own if meaning is None else meaning

    def moments(rows: slice) -> Tensor:
        dots = (embeddings[rows] @ embeddings.T).masked_fill(same_meaning(meaning[rows], meaning), 0.0)
        return torch.stack([dots.sum(), (dots**2).sum()])

    pairs = batch**2 - sum(int(same_meaning(rows, meaning).sum()) for rows in meaning.split(BLOCK))
    first, second = sum_over_blocks(moments, batch) / max(1, pairs)
    return first**2 + torch.relu(second - 1.0 / dim)
