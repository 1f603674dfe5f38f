"""Patch frontend: tokens of a vision encoder → projection into the LLM's input space.

Patches come row by row. Layers of the adapter have positions of their own; without them a patch is where the encoder
and the LLM say it is, and an LLM with absolute positions says nothing of what enters above its input. A vector is a
mean over positions, in which 49 patches would outweigh a sentence beside them: some may become one. Training may leave
patches out, which shortens a picture and keeps a model from knowing it by one of them (He et al. 2022 mask three in
four).
"""

from __future__ import annotations

from torch import Tensor

from speechde.models.frontends.adapter import Adapter, AttentionPooling, check_heads
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


class PatchFrontend(Adapter):
    """Patches ``(batch, patches, patch_dim)`` → ``(batch, patches / stride, width)`` input embeddings.

    Args:
        patch_dim: width of the stored patches.
        width: m of the LLM.
        embedding_std: standard deviation of the LLM's scaled text rows; outputs start at this scale.
        hidden: width of the adapter.
        layers: transformer layers of the adapter (0 for none).
        heads: attention heads of those layers, and of the pooling.
        dropout: in the adapter.
        drop: share of patches left out at random in training.
        entry_layer: see ``Frontend``.
        stride: neighbouring patches of one output position, pooled by ``AttentionPooling``.
    """

    def __init__(
        self,
        patch_dim: int,
        width: int,
        embedding_std: float,
        hidden: int = 384,
        layers: int = 0,
        heads: int = 6,
        dropout: float = 0.1,
        drop: float = 0.0,
        entry_layer: int = 0,
        stride: int = 1,
    ) -> None:
        check_heads("image", hidden, heads)
        super().__init__(patch_dim, hidden, drop, entry_layer=entry_layer)
        self.stride = stride
        self.pooling = AttentionPooling(hidden, heads, stride) if stride > 1 else None
        self.add_layers("image", width, embedding_std, layers, heads, dropout)

    def forward(self, patches: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``Frontend``."""
        values, mask = self.standardised(patches)
        hidden = self.entered(values)
        if self.pooling is not None:
            hidden, mask = self.pooling(hidden, mask)
        return self.in_context(hidden, mask), mask
