"""Continuous frontend: frames → light down-sampling → projection into the LLM's input space.

Convolutions or attention pooling shorten the sequence (50 Hz frames to a token rate nearer to text); what follows is
in ``adapter``. Training may leave out runs of frames, zero a band of features (together SpecAugment, Park et al. 2019,
on frames in place of mel columns) and add noise.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import mask_along_axis_iid

from speechde.errors import ConfigError, unknown_value
from speechde.models.frontends.adapter import Adapter, AttentionPooling, check_heads
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences

DOWNSAMPLE = ("conv", "attention")


class ContinuousFrontend(Adapter):
    """Frames ``(batch, time, frame_dim)`` → ``(batch, time / stride, width)`` input embeddings.

    Args:
        frame_dim: width of the stored frames.
        width: m of the LLM.
        embedding_std: standard deviation of the LLM's scaled text rows; outputs start at this scale.
        hidden: width of the adapter.
        stride: frames per output position.
        downsample: ``conv``, convolutions of stride 2 (``stride`` is a power of two); ``attention``, a learned
            weighting of each group of ``stride`` frames.
        layers: transformer layers of the adapter (0 for none).
        positions: added to frames also where no layer needs them; see ``Adapter``.
        heads: attention heads of those layers, and of the down-sampling.
        dropout: in the adapter.
        drop: share of frames left out at random in training, in runs of ``drop_span``.
        noise: standard deviation of Gaussian noise added to the standardised frames in training.
        mask_features: widest band of neighbouring features set to zero in training, one for each clip.
        entry_layer: see ``Frontend``.
    """

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
        downsample: str = "conv",
        mask_features: int = 0,
        entry_layer: int = 0,
        positions: bool = False,
    ) -> None:
        if downsample not in DOWNSAMPLE:
            raise unknown_value("frontend.downsample", downsample, DOWNSAMPLE)
        if stride < 1 or (downsample == "conv" and stride & (stride - 1)):
            fix = "use 1, 2, 4 or 8, or frontend.downsample=attention" if stride > 0 else "use 1, 2, 4 or 8"
            raise ConfigError(f"frontend.stride={stride} is not a power of two; {fix}")
        check_heads("frontend", hidden, heads)
        if not 0 <= mask_features <= frame_dim:
            raise ConfigError(f"frontend.mask_features={mask_features} is not possible; use 0 to {frame_dim}")
        super().__init__(frame_dim, hidden, drop, drop_span, noise, entry_layer)
        self.stride, self.mask_features = stride, mask_features
        convolutions = stride.bit_length() - 1 if downsample == "conv" else 0
        self.convolutions = nn.ModuleList(
            nn.Conv1d(hidden, hidden, kernel_size=3, stride=2, padding=1) for _ in range(convolutions)
        )
        self.pooling = AttentionPooling(hidden, heads, stride) if downsample == "attention" else None
        self.add_layers("frontend", width, embedding_std, layers, heads, dropout, positions)

    def forward(self, speech: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``Frontend``."""
        values, mask = self.standardised(speech)
        if self.training and self.mask_features > 0:
            values = mask_along_axis_iid(values, self.mask_features + 1, mask_value=0.0, axis=2)
        hidden = self.entered(values)
        for convolution in self.convolutions:
            # padding stays zero, as the convolution's own edge padding, so that it cannot leak into the last frame
            hidden = F.gelu(convolution((hidden * mask.unsqueeze(-1)).transpose(1, 2)).transpose(1, 2))
            mask = mask[:, ::2]
        if self.pooling is not None:
            hidden, mask = self.pooling(hidden, mask)
        return self.in_context(hidden, mask), mask
