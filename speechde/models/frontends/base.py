"""The one Protocol behind which the inputs of every modality but text live.

What is stored of a medium is made once, off line: unit ids, or frames. In the model a frontend turns a padded batch of
those into *input embeddings of the LLM*, so that everything downstream is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from speechde.errors import DataError
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import WORDS, Inputs, Sequences


@runtime_checkable
class Frontend(Protocol):
    """Stored items of one modality → LLM input embeddings. Implementations are ``nn.Module``s.

    The lowest layers of an LLM compose sub-words into words; an adapter that has context of its own can do without
    them, is several times cheaper to train, and reaches a frozen LLM's text space through fewer frozen layers.
    """

    audio_tokens: int  # rows this frontend needs in the extended vocabulary; 0 for none
    entry_layer: int  # of the LLM, at which its output enters; 0 is the LLM's input
    stride: int  # stored items of one input position

    def __call__(self, speech: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """A padded batch → ``(batch, time, width)`` input embeddings and their ``(batch, time)`` bool mask."""
        ...


def pad_sequences(items: Sequence[np.ndarray], allow_empty: bool = False) -> Sequences:
    """Stack arrays ``(time, …)`` of unequal length, zeros on the right.

    Integer arrays become int64; float arrays become float32. ``allow_empty`` lets sequences be empty (a prefix may be).

    Raises:
        DataError: no item, or an empty one.
    """
    if not len(items):
        raise DataError("cannot make a batch of no items")
    lengths = torch.tensor([len(item) for item in items], dtype=torch.int64)
    if not allow_empty and not lengths.all():
        raise DataError(f"item {int(lengths.argmin())} of the batch is an empty sequence; drop it before batching")
    first = np.asarray(items[0])
    dtype = np.float32 if np.issubdtype(first.dtype, np.floating) else np.int64
    values = np.zeros((len(items), int(lengths.max()), *first.shape[1:]), dtype)
    mask = torch.arange(values.shape[1]) < lengths[:, None]
    for row, item in zip(values, items, strict=True):
        row[: len(item)] = item
    return Sequences(torch.from_numpy(values), mask, lengths)


def pad_items(items: Sequence[Sequence[tuple[str, np.ndarray]]]) -> Inputs:
    """Items of ``(modality, values)`` parts, made up alike, as one batch; the words of a prompt may be empty.

    Raises:
        DataError: no item, or a part of one is empty that is no text.
    """
    if not items:
        raise DataError("cannot make a batch of no items")
    columns = []
    for part in zip(*items, strict=True):
        modality = part[0][0]
        column = pad_sequences([values for _, values in part], allow_empty=modality in WORDS and len(items[0]) > 1)
        if column.values.shape[1] or len(items[0]) == 1:
            columns.append((modality, column))
    return Inputs(columns)


def drop_spans(mask: Tensor, share: float, span: int) -> Tensor:
    """Randomly un-mark about ``share`` of the real positions, in runs of ``span``; the first always stays.

    Dropping (rather than zeroing) keeps a model from recognising a clip by one telling unit, and shortens the input.
    Draws from torch's global generator. ``mask`` is ``(batch, time)`` bool.
    """
    if share <= 0:
        return mask
    # a position stays when none of the span starts before it fell: (1 − p)^span = 1 − share
    starts = torch.rand(mask.shape, device=mask.device) < 1 - (1 - share) ** (1 / span)
    dropped = starts.clone()
    for shift in range(1, span):
        dropped[:, shift:] |= starts[:, :-shift]
    keep = ~dropped
    keep[:, 0] = True
    return mask & keep


def on_host(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a GPU, or for a graph that has none yet."""
    return tensor.device.type == "cpu" and not torch.compiler.is_exporting()


def compact(values: Tensor, mask: Tensor, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Move the marked positions of each row to the left and cut the common padding.

    ``values`` is ``(batch, time, …)``, ``mask`` ``(batch, time)`` bool. Where they are not on the host no row may have
    more than ``longest`` marked positions, and the padding beyond is cut; None: it stays.
    """
    time = mask.shape[1]
    # distinct numbers to sort by: not every runtime sorts stably
    order = torch.argsort(torch.arange(time, device=mask.device) + time * (~mask).long(), dim=1)
    if on_host(mask):
        longest = int(mask.sum(1).max())
    order = order[:, :longest]
    index = order.view(*order.shape, *([1] * (values.dim() - 2))).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index), mask.gather(1, order)
