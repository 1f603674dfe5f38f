"""Units as tokens: the discrete frontend of the paper, unit ids → rows of the extended embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechde.errors import DataError
from speechde.models.frontends.base import compact, drop_spans, on_host
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


class UnitFrontend(nn.Module):
    """Unit ids ``(batch, time)`` → rows of the extended embedding.

    Args:
        units: number of audio tokens: k-means units, or the size of the BPE over them.
        drop: share of units left out at random in training, in runs of ``drop_span``.
        entry_layer: see ``Frontend``.
    """

    stride = 1

    def __init__(self, units: int, drop: float = 0.0, drop_span: int = 1, entry_layer: int = 0) -> None:
        super().__init__()
        self.entry_layer = entry_layer
        self.audio_tokens = units
        self.drop = drop
        self.drop_span = drop_span

    def forward(self, speech: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``Frontend``."""
        values, mask = speech.values, speech.mask
        if self.training and self.drop > 0:
            values, mask = compact(values, drop_spans(mask, self.drop, self.drop_span))
        # a GPU is not waited for: there the look-up of a unit beyond the table stops by itself
        for unit in (int(values.min()), int(values.max())) if on_host(values) else ():
            if not 0 <= unit < self.audio_tokens:
                raise DataError(f"unit {unit} is outside 0…{self.audio_tokens - 1}; it came from another quantiser")
        return embedding(torch.where(mask, values + embedding.text_tokens, 0)), mask
