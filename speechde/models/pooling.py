"""From hidden states to one vector."""

from __future__ import annotations

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
