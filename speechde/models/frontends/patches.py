"""Patch frontend: tokens of a vision encoder → projection into the LLM's input space.

Patches come row by row, and the LLM tells them apart by its own positions; layers of the adapter have positions of
theirs. Training may leave patches out, which shortens a picture and keeps a model from knowing it by one of them
(He et al. 2022 mask three in four).
"""

from __future__ import annotations

from torch import Tensor

from speechde.models.frontends.adapter import Adapter
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


class PatchFrontend(Adapter):
    """Patches ``(batch, patches, patch_dim)`` → ``(batch, patches, width)`` input embeddings.

    Args:
        patch_dim: width of the stored patches.
        width: m of the LLM.
        embedding_std: standard deviation of the LLM's scaled text rows; outputs start at this scale.
        hidden: width of the adapter.
        layers: transformer layers of the adapter (0 for none).
        heads: attention heads of those layers.
        dropout: in the adapter.
        drop: share of patches left out at random in training.
        entry_layer: see ``Frontend``.
    """

    stride = 1

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
    ) -> None:
        super().__init__(patch_dim, hidden, drop, entry_layer=entry_layer)
        self.add_layers("image", width, embedding_std, layers, heads, dropout)

    def forward(self, patches: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``Frontend``."""
        values, mask = self.standardised(patches)
        return self.in_context(self.entered(values), mask), mask
