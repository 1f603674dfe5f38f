"""Which rows of a batch mean the same."""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT = -(2**63)  # id of a hard negative that a row has not; those that are there have hashes


def same_meaning(rows: Tensor, others: Tensor) -> Tensor:
    """``(m, n)`` bool: whether a row of ``(m, k)`` shares an id with a row of ``(n, k)``, in whichever column.

    It need not be transitive: a sentence that is in a corpus under two ids does not make those two one.
    """
    return (rows[:, None, :, None] == others[None, :, None, :]).flatten(2).any(2)


def means_its_row(rows: Tensor, negatives: Tensor) -> Tensor:
    """``(m, n)`` bool: whether hard negatives, an id each ``(m, n)``, mean what their own row of ``(m, k)`` means."""
    return (rows[:, :, None] == negatives[:, None, :]).any(1)


def counted(bank: Tensor, rows: Tensor) -> Tensor:
    """``(m,)`` bool: which of ``(m,)`` ids are there, in no row of ``(n, k)``, and the first of their like."""
    ordered, places = bank.sort(stable=True)
    again = torch.zeros_like(bank, dtype=torch.bool)
    again[places[1:]] = ordered[1:] == ordered[:-1]
    return (bank != ABSENT) & ~torch.isin(bank, rows.flatten()) & ~again
