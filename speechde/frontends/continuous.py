"""Continuous frontend: frames → light down-sampling → projection into the LLM's input space.

The convolutions shorten the sequence (50 Hz frames to a token rate nearer to text), a few transformer layers give the
adapter context that a frozen LLM cannot learn, and a projection meets the width and the scale of the LLM's input
embeddings: an LLM fed with vectors ten times longer than its own tokens starts from saturated attention.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError
from speechde.frontends.base import compact, drop_spans
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


class ContinuousFrontend(nn.Module):
    """Frames ``(batch, time, frame_dim)`` → ``(batch, time / stride, width)`` input embeddings.

    Args:
        frame_dim: width of the stored frames.
        width: m of the LLM.
        embedding_std: standard deviation of the LLM's scaled text rows; outputs start at this scale.
        hidden: width of the adapter.
        stride: down-sampling, a product of strided convolutions of 2.
        layers: transformer layers of the adapter (0 for none).
        heads: attention heads of those layers.
        dropout: in the adapter.
        drop: share of frames left out at random in training, in runs of ``drop_span``.
        noise: standard deviation of Gaussian noise added to the standardised frames in training.
    """

    audio_tokens = 0

    def __init__(
        self,
        frame_dim: int,
        width: int,
        embedding_std: float,
        hidden: int = 384,
        stride: int = 2,
        layers: int = 2,
        heads: int = 6,
        dropout: float = 0.1,
        drop: float = 0.0,
        drop_span: int = 1,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        if stride < 1 or stride & (stride - 1):
            raise ConfigError(f"frontend.stride={stride} is not a power of two; use 1, 2, 4 or 8")
        if hidden % heads:
            raise ConfigError(f"frontend.hidden={hidden} is not a multiple of frontend.heads={heads}")
        self.drop, self.drop_span, self.noise = drop, drop_span, noise
        self.register_buffer("frame_mean", torch.zeros(frame_dim))
        self.register_buffer("frame_std", torch.ones(frame_dim))
        self.input = nn.Linear(frame_dim, hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden, hidden, kernel_size=3, stride=2, padding=1) for _ in range(stride.bit_length() - 1)
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, heads, 4 * hidden, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.positions = SinusoidalPositions(hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.LayerNorm(width))
        nn.init.constant_(self.output[-1].weight, embedding_std)

    @torch.no_grad()
    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise frames with the statistics ``(frame_dim,)`` of the training frames."""
        self.frame_mean.copy_(mean)
        self.frame_std.copy_(std)

    def forward(self, speech: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``SpeechFrontend``."""
        values, mask = (speech.values - self.frame_mean) / self.frame_std, speech.mask
        if self.training and self.drop > 0:
            values, mask = compact(values, drop_spans(mask, self.drop, self.drop_span))
        if self.training and self.noise > 0:
            values = values + self.noise * torch.randn_like(values)
        hidden = self.dropout(self.input(values))
        for convolution in self.convolutions:
            # padding stays zero, as the convolution's own edge padding, so that it cannot leak into the last frame
            hidden = F.gelu(convolution((hidden * mask.unsqueeze(-1)).transpose(1, 2)).transpose(1, 2))
            mask = mask[:, ::2]
        if len(self.layers):
            hidden = hidden + self.positions(hidden)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        return self.output(hidden), mask


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
