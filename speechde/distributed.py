"""The one place where processes exchange tensors; without a process group it does nothing.

Why the gradients are right. Every rank computes the loss of the whole batch from the embeddings of all ranks; so all
hold the same ``∂loss/∂embeddings``, and rank r can continue it into the parameters through its own rows only. DDP
*averages* what the ranks found over W ranks, but the gradient is their *sum*: the backward pass of ``gather``
multiplies by W, and that is the only place where W appears. It needs no communication of its own. Parameters of the
loss itself (a learned temperature) get the whole gradient on every rank, and the mean of equal numbers is that number.

History: projects that gather without a gradient, or scale by W in several files, have met users whose loss was right
and whose gradients were not; tests/distributed compares both with one process.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def active() -> bool:
    """Whether this process has others to exchange tensors with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Number of this process; 0 without a process group."""
    return dist.get_rank() if active() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if active() else 1


def gather(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Rows of all ranks, rank after rank, with gradient to this rank's rows; ``tensors`` themselves without a group.

    Args:
        tensors: ``(rows, …)`` each, with the same number of rows; ranks may differ in it.
    """
    if not active():
        return tensors
    own = torch.tensor([len(tensors[0])], device=tensors[0].device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    sizes = torch.cat(counts).tolist()
    return tuple(_Gather.apply(tensor, sizes) for tensor in tensors)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, sizes: list[int]) -> Tensor:
        start = sum(sizes[: rank()])
        ctx.rows = slice(start, start + len(own))
        # collectives want one shape: short ranks are padded, and the padding is cut again
        padded = F.pad(own, (0, 0) * (own.dim() - 1) + (0, max(sizes) - len(own))).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return world_size() * gradient[ctx.rows], None


def from_first(value: float) -> float:
    """The number that rank 0 has."""
    if not active():
        return value
    held = [value]
    dist.broadcast_object_list(held)
    return held[0]


def alike(value: object) -> bool:
    """Whether all ranks have an equal value; every rank has to ask."""
    if not active():
        return True
    held: list[object] = [None] * world_size()
    dist.all_gather_object(held, value)
    return all(other == value for other in held)
