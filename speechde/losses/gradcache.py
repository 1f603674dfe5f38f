"""Gradient caching (GradCache; Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup"): a contrastive batch of any size in the memory of one part of it.

A contrastive loss needs the embeddings of the whole batch at once, but an embedding needs no other row. So every part
is encoded without keeping what its backward pass needs; the loss is taken over all embeddings, which gives the gradient
of each; then part after part is encoded a second time, with the same random numbers, and the cached gradient goes on
into the weights. It costs a second forward pass.

Here each part is a checkpoint of PyTorch's non-reentrant kind, which replays random numbers and autocast, and autograd
runs the parts in reverse order, one at a time. The whole step stays *one* graph. Therefore Lightning's automatic
optimisation is used and nothing else has to know: a gradient scaler, clipping and accumulation see an ordinary loss,
and DDP sees each parameter become ready once, after its last part. (The original hooks a second backward pass for each
part into the first; DDP then meets parameters that are ready several times and stops.)
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from itertools import count

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from speechde.types import Inputs, Sequences

BLOCK = 256  # rows of the similarity matrix that exist at once; smaller batches are compared in one go
PARTS = 16  # after so many, a process gives back the memory that it has freed
_encoded = count(1)


def cached(encode: Callable[[Inputs], Tensor]) -> Callable[[Inputs], Tensor]:
    """``encode``, run a second time for its gradient in place of keeping activations."""

    def run(inputs: Inputs) -> Tensor:
        columns = [column for _, column in inputs.columns]

        def encode_tensors(*tensors: Tensor) -> Tensor:
            again = map(Sequences, tensors[::2], tensors[1::2], (column.lengths for column in columns))
            try:
                return encode(Inputs(list(zip((name for name, _ in inputs.columns), again, strict=True))))
            finally:  # a second run ends with an exception of PyTorch's, as soon as it has what it needs
                if tensors[0].device.type == "cpu" and next(_encoded) % PARTS == 0:
                    _malloc_trim()(0)

        # tensors, and not Inputs: checkpoint saves the random state of the devices of the tensors that it is given
        tensors = [tensor for column in columns for tensor in (column.values, column.mask)]
        return checkpoint(encode_tensors, *tensors, use_reentrant=False)

    return run


@cache
def _malloc_trim() -> Callable[[int], int]:
    """glibc's ``malloc_trim``; where there is none, a function that does nothing.

    Its heap hardly finds aligned blocks that were freed again: over the 512 parts of 8,192 pairs a process grew by
    several gigabytes, nearly all of them free.
    """
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found or (lambda _: 0)


def sum_over_blocks(term: Callable[[slice], Tensor], batch: int) -> Tensor:
    """Sum of ``term(rows)`` over blocks of ``BLOCK`` of ``batch`` rows, each computed again for its gradient.

    ``term`` uses no random numbers. The matrix of 8,192 × 8,192 similarities, and its copies in the softmax and the
    backward pass, would otherwise need more memory than the parts of the batch.
    """
    rows = (slice(start, min(start + BLOCK, batch)) for start in range(0, batch, BLOCK))
    return sum(checkpoint(term, block, use_reentrant=False, preserve_rng_state=False) for block in rows)
