"""From hidden states to one vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of the real positions.

    Args:
        hidden: ``(batch, time, width)``.
        mask: ``(batch, time)`` bool, true where real; every row needs at least one real position.

    Returns:
        ``(batch, width)`` in float32: a sum over hundreds of positions loses digits in bfloat16.
    """
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)


def mean_of_parts(vectors: Tensor, owners: Tensor, clips: int, normalise: bool) -> Tensor:
    """One vector for each clip: that of its only part as it is, or the mean of those of its parts.

    Args:
        vectors: ``(parts, dim)``.
        owners: ``(parts,)`` int64, the clip of each part: 0 to ``clips`` − 1, each at least once.
        normalise: bring means to unit length, as the vectors are.

    Returns:
        ``(clips, dim)``.
    """
    counts = torch.zeros(clips, device=vectors.device, dtype=vectors.dtype).index_add_(
        0, owners, vectors.new_ones(len(vectors))
    )
    sums = vectors.new_zeros(clips, vectors.shape[1]).index_add_(0, owners, vectors)
    means = sums / counts.unsqueeze(1)
    return torch.where(counts.unsqueeze(1) > 1, F.normalize(means, dim=1), sums) if normalise else means
