"""Units as tokens: the discrete frontend of the paper, unit ids → rows of the extended embedding.

In the paper they enter the LLM as they are. With ``layers`` an adapter reads the rows first, the one that frames go
through, so that the two frontends can be compared with the same parts: what is left of the difference is k-means.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechde.errors import ConfigError, DataError
from speechde.models.frontends.adapter import Adapter
from speechde.models.frontends.base import compact, drop_spans, on_host
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


class UnitFrontend(nn.Module):
    """Unit ids ``(batch, time)`` → rows of the extended embedding, or what an adapter makes of them.

    Args:
        units: number of audio tokens: k-means units, or the size of the BPE over them.
        drop: share of units left out at random in training, in runs of ``drop_span``.
        layers: transformer layers of the adapter; 0: there is none, and ``hidden`` to ``width`` are not read.
        hidden, heads, dropout: width, attention heads and dropout of the adapter.
        embedding_std: standard deviation of the LLM's scaled text rows, at which the adapter's outputs start.
        width: m of the LLM.
        entry_layer: see ``Frontend``.

    Raises:
        ConfigError: the width of the adapter cannot be shared among the heads, or that of the LLM is not given.
    """

    stride = 1

    def __init__(
        self,
        units: int,
        drop: float = 0.0,
        drop_span: int = 1,
        layers: int = 0,
        hidden: int = 384,
        heads: int = 6,
        dropout: float = 0.1,
        embedding_std: float = 1.0,
        width: int | None = None,
        entry_layer: int = 0,
    ) -> None:
        super().__init__()
        self.entry_layer = entry_layer
        self.audio_tokens = units
        self.drop = drop
        self.drop_span = drop_span
        if layers and width is None:
            raise ConfigError(f"layers={layers} over units need the width of the LLM that they feed")
        self.adapter = Adapter(width, hidden) if layers else None
        if layers:
            self.adapter.add_layers("frontend", width, embedding_std, layers, heads, dropout)

    def forward(self, speech: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``Frontend``."""
        values, mask = speech.values, speech.mask
        if self.training and self.drop > 0:
            values, mask = compact(values, drop_spans(mask, self.drop, self.drop_span))
        # a GPU is not waited for: there the look-up of a unit beyond the table stops by itself
        for unit in (int(values.min()), int(values.max())) if on_host(values) else ():
            if not 0 <= unit < self.audio_tokens:
                raise DataError(f"unit {unit} is outside 0…{self.audio_tokens - 1}; it came from another quantiser")
        rows = embedding(torch.where(mask, values + embedding.text_tokens, 0))
        return rows if self.adapter is None else self.adapter.in_context(self.adapter.entered(rows), mask), mask
