"""Which rows of a batch mean the same."""

from __future__ import annotations

from torch import Tensor


def same_meaning(rows: Tensor, others: Tensor) -> Tensor:
    """``(m, n)`` bool: whether a row of ``(m, k)`` shares an id with a row of ``(n, k)``, in whichever column.

    It need not be transitive: a sentence that is in a corpus under two ids does not make those two one.
    """
    return (rows[:, None, :, None] == others[None, :, None, :]).flatten(2).any(2)
