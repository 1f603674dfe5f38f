"""The dual encoder: one LLM, two modalities, one vector each.

    [prefix tokens] [speech frames or units] ─► LLM ─► mean over real tokens ─► projection ─► speech embedding
    [prefix tokens] [text tokens           ] ─► LLM ─► mean over real tokens ─► projection ─► text embedding

LLM and projection are shared; only what feeds the LLM's input differs (arXiv 2404.01616, section 2). Similarity is
the dot product of the outputs, or of the normalised outputs when ``normalise`` is set.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import unknown_value
from speechde.frontends.base import SpeechFrontend, compact
from speechde.models.backbone import Backbone
from speechde.models.pooling import mean_pool
from speechde.types import Sequences

PROJECTION_INITS = ("random", "identity")


class DualEncoder(nn.Module):
    """Backbone, speech frontend and projection.

    Args:
        dim: width of the embeddings; ``None`` takes the LLM's width.
        projection_init: ``random`` as in the paper, or ``identity`` (rectangular identity), which starts from the
            LLM's own text embedding space.
        normalise: return unit vectors.
    """

    def __init__(
        self,
        backbone: Backbone,
        frontend: SpeechFrontend,
        dim: int | None = None,
        projection_init: str = "random",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if projection_init not in PROJECTION_INITS:
            raise unknown_value("model.projection_init", projection_init, PROJECTION_INITS)
        self.backbone = backbone
        self.frontend = frontend
        self.projection = nn.Linear(backbone.width, dim or backbone.width, bias=False)
        if projection_init == "identity":
            nn.init.eye_(self.projection.weight)
        self.normalise = normalise

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.projection.out_features

    def encode_speech(self, speech: Sequences, prefix: Sequences) -> Tensor:
        """Stored speech items and the prefix tokens of each → ``(batch, dim)`` float32 embeddings."""
        frames, mask = self.frontend(speech, self.backbone.embedding)
        inputs = torch.cat([self.backbone.embed(prefix.values).to(frames.dtype), frames], dim=1)
        mask = torch.cat([prefix.mask, mask], dim=1)
        # positions are absolute, so the gap that a short prefix leaves before the speech must be closed
        return self.project(self._pooled(*compact(inputs, mask)))

    def encode_text(self, text: Sequences) -> Tensor:
        """Token ids, prefix included → ``(batch, dim)`` float32 embeddings."""
        return self.project(self.text_states(text))

    def text_states(self, text: Sequences) -> Tensor:
        """Token ids → ``(batch, width)`` pooled states before the projection; constant when the LLM is frozen."""
        return self._pooled(self.backbone.embed(text.values), text.mask)

    def project(self, pooled: Tensor) -> Tensor:
        """``(batch, width)`` pooled states → embeddings."""
        out = self.projection(pooled).float()
        return F.normalize(out, dim=-1) if self.normalise else out

    def _pooled(self, inputs: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(self.backbone(inputs, mask), mask)

