"""What the frontends of frames and of patches share: standardised input, layers with context, a meeting with the LLM.

A few transformer layers give an adapter context that a frozen LLM cannot learn, and a projection meets the width and
the scale of the LLM's input embeddings: an LLM fed with vectors ten times longer than its own tokens starts from
saturated attention. What training leaves out at random, and adds as noise, concerns the standardised input, where zero
is the mean.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError
from speechde.models.frontends.base import compact, drop_spans
from speechde.types import Sequences


class Adapter(nn.Module):
    """Stored vectors ``(batch, time, input_dim)`` → input embeddings; subclasses decide what happens in between.

    Args:
        input_dim: width of what is stored: frames, or patches.
        hidden: width of the adapter.
        drop: share of positions left out at random in training, in runs of ``drop_span``.
        noise: standard deviation of Gaussian noise added to the standardised values in training.
        entry_layer: see ``Frontend``.
    """

    audio_tokens = 0

    def __init__(
        self, input_dim: int, hidden: int, drop: float = 0.0, drop_span: int = 1, noise: float = 0.0,
        entry_layer: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.entry_layer = entry_layer
        self.drop, self.drop_span, self.noise = drop, drop_span, noise
        self.register_buffer("frame_mean", torch.zeros(input_dim))
        self.register_buffer("frame_std", torch.ones(input_dim))
        self.input = nn.Linear(input_dim, hidden)

    def add_layers(
        self, group: str, width: int, embedding_std: float, layers: int, heads: int, dropout: float,
        positions: bool = False,
    ) -> None:  # fmt: skip
        """Make the layers and the way into an LLM of ``width``; a subclass calls it when its own modules are made.

        Args:
            group: of the configuration, which errors name.
            embedding_std: standard deviation of the LLM's scaled text rows; outputs start at this scale.
            positions: without layers, which have them, positions are added too.

        Raises:
            ConfigError: the width of the adapter cannot be shared among the heads.
        """
        hidden = self.input.out_features
        check_heads(group, hidden, heads)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, 4 * hidden, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.positions = SinusoidalPositions(hidden) if layers or positions else None
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.LayerNorm(width))
        nn.init.constant_(self.output[-1].weight, embedding_std)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise with the statistics ``(input_dim,)`` of the training set."""
        self.frame_mean.copy_(mean)
        self.frame_std.copy_(std)

    def standardised(self, stored: Sequences) -> tuple[Tensor, Tensor]:
        """Standardised values and mask; in training less what is dropped, and with noise."""
        values, mask = (stored.values - self.frame_mean) / self.frame_std, stored.mask
        if self.training and self.drop > 0:
            values, mask = compact(values, drop_spans(mask, self.drop, self.drop_span))
        if self.training and self.noise > 0:
            values = values + self.noise * torch.randn_like(values)
        return values, mask

    def entered(self, values: Tensor) -> Tensor:
        """Standardised values at the width of the adapter."""
        return self.dropout(self.input(values.to(self.input.weight.dtype)))

    def in_context(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """``(batch, time, hidden)`` → ``(batch, time, width)``."""
        if self.positions is not None:
            hidden = hidden + self.positions(hidden)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        return self.output(hidden)


class AttentionPooling(nn.Module):
    """Groups of ``stride`` positions → one: each head weights them by content and by place in the group.

    A learned query against a linear map of a position is one linear map to a score, which is all that is kept of it.
    """

    def __init__(self, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.heads, self.stride = heads, stride
        self.score = nn.Linear(width, heads)
        self.place = nn.Parameter(torch.zeros(stride, heads))
        self.value = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(batch, time, width)`` → ``(batch, ceil(time / stride), width)`` and its mask; padding has no weight."""
        missing = -hidden.shape[1] % self.stride
        hidden, real = F.pad(hidden, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        groups = hidden.shape[0], hidden.shape[1] // self.stride, self.stride
        scores = self.score(hidden).view(*groups, self.heads) + self.place
        scores = scores.masked_fill(~real.view(*groups, 1), torch.finfo(scores.dtype).min)
        values = self.value(hidden).view(*groups, self.heads, -1)
        pooled = (scores.softmax(2).unsqueeze(-1) * values).sum(2)
        return pooled.flatten(2), mask[:, :: self.stride]


class SinusoidalPositions(nn.Module):
    """Absolute sine and cosine positions (Vaswani et al. 2017), for any length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(batch, time, width)`` → ``(time, width)`` positions of the same dtype."""
        angles = torch.arange(hidden.shape[1], device=hidden.device)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1).to(hidden.dtype)


def check_heads(group: str, hidden: int, heads: int) -> None:
    """Refuse a width that cannot be shared among the heads.

    Raises:
        ConfigError: it is no multiple.
    """
    if hidden % heads:
        raise ConfigError(f"{group}.hidden={hidden} is not a multiple of {group}.heads={heads}")
