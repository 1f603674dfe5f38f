"""The dual encoder: one LLM, two modalities, one vector each.

    [prefix tokens] [speech frames or units] ─► LLM ─► mean over real tokens ─► projection ─► speech embedding
    [prefix tokens] [text tokens           ] ─► LLM ─► mean over real tokens ─► projection ─► text embedding

LLM and projection are shared; only what feeds the LLM's input differs (arXiv 2404.01616, section 2). Similarity is
the dot product of the outputs, or of the normalised outputs when ``normalise`` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError, unknown_value
from speechde.frontends.base import SpeechFrontend, compact
from speechde.models.backbone import Backbone, twin
from speechde.models.pooling import mean_pool
from speechde.types import Sequences

PROJECTION_INITS = ("random", "identity")


class DualEncoder(nn.Module):
    """Backbone, speech frontend and projection.

    Args:
        dim: width of the embeddings; ``None`` takes the LLM's width.
        projection_init: ``random`` as in the paper, or ``identity`` (rectangular identity), which starts from the
            LLM's own text embedding space.
        projection_gain: factor on the initial projection. Hidden states of LLMs differ in norm by a factor of 25; with
            a plain dot product that is a temperature, and a large one starts from a saturated softmax.
        normalise: return unit vectors.
        speech_layer: the layer of the LLM at which speech enters. The lowest layers compose sub-words into words; an
            adapter that has context of its own can do without them, is several times cheaper to train, and reaches
            a frozen LLM's text space through fewer frozen layers. 0 is the LLM's input.
    """

    def __init__(
        self,
        backbone: Backbone,
        frontend: SpeechFrontend,
        dim: int | None = None,
        projection_init: str = "random",
        projection_gain: float = 1.0,
        normalise: bool = False,
        speech_layer: int = 0,
    ) -> None:
        super().__init__()
        if projection_init not in PROJECTION_INITS:
            raise unknown_value("model.projection_init", projection_init, PROJECTION_INITS)
        if not 0 <= speech_layer < len(backbone.layers):
            raise ConfigError(
                f"model.speech_layer={speech_layer} is not a layer: the LLM has {len(backbone.layers)}; use 0 to "
                f"{len(backbone.layers) - 1}"
            )
        self.speech_layer = speech_layer
        self.backbone = backbone
        self.frontend = frontend
        self.projection = nn.Linear(backbone.output_width, dim or backbone.output_width, bias=False)
        if projection_init == "identity":
            nn.init.eye_(self.projection.weight)
        else:
            nn.init.normal_(self.projection.weight, std=backbone.output_width**-0.5)
        self.projection.weight.data.mul_(projection_gain)
        self.normalise = normalise

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.projection.out_features

    def speech_room(self, prefix: int) -> int | None:
        """How many stored speech items fit the LLM's positions after ``prefix`` tokens; None where it has no limit.

        Raises:
            ConfigError: none do.
        """
        if (positions := self.backbone.positions) is None:
            return None
        if prefix >= positions:
            raise ConfigError(
                f"a speech prefix of {prefix} tokens fills the {positions} positions of the LLM; shorten "
                "model.prefix.speech"
            )
        return (positions - prefix) * self.frontend.stride

    def encode_speech(self, speech: Sequences, prefix: Sequences, buckets: int = 1) -> Tensor:
        """Stored speech items and the prefix tokens of each → ``(batch, dim)`` float32 embeddings.

        ``buckets`` > 1 encodes the batch in that many parts of similar length: the same embeddings for less padding.
        """
        if buckets > 1:
            return in_buckets(lambda a, b: self.encode_speech(a, b), buckets, speech, prefix)
        frames, mask = self.frontend(speech, self.backbone.embedding)
        inputs = torch.cat([self.backbone.embed(prefix.values).to(frames.dtype), frames], dim=1)
        mask = torch.cat([prefix.mask, mask], dim=1)
        # positions are absolute, so the gap that a short prefix leaves before the speech must be closed
        longest = None
        if speech.lengths is not None and prefix.lengths is not None:
            longest = int((prefix.lengths + -(-speech.lengths // self.frontend.stride)).max())
        return self.project(self._pooled(*compact(inputs, mask, longest), self.speech_layer))

    def encode_text(self, text: Sequences, buckets: int = 1) -> Tensor:
        """Token ids, prefix included → ``(batch, dim)`` float32 embeddings; ``buckets`` as in ``encode_speech``."""
        if buckets > 1:
            return in_buckets(self.encode_text, buckets, text)
        return self.project(self.text_states(text))

    def text_states(self, text: Sequences) -> Tensor:
        """Token ids → ``(batch, width)`` pooled states before the projection; constant when the LLM is frozen."""
        return self._pooled(self.backbone.embed(text.values), text.mask)

    def project(self, pooled: Tensor) -> Tensor:
        """``(batch, width)`` pooled states → embeddings."""
        out = self.projection(pooled).float()
        return F.normalize(out, dim=-1) if self.normalise else out

    def for_speech(self) -> DualEncoder:
        """A model over the same weights that has no layers below ``speech_layer``; for exporters."""
        return twin(self, {"backbone": self.backbone.entered_at(self.speech_layer)}, speech_layer=0)

    def in_precision(self, dtype: torch.dtype) -> DualEncoder:
        """A copy for embedding, with the weights of LLM and frontend in ``dtype``, which is what they compute in.

        Pooling, projection and the frontend's statistics stay float32, and so do the embeddings. On a CPU this is
        faster than autocast, which casts before every product (docs/performance.md).
        """
        lowered = [*self.backbone.parameters(), *self.frontend.parameters()]
        memo = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in lowered}
        return deepcopy(self, memo)

    def _pooled(self, inputs: Tensor, mask: Tensor, first_layer: int = 0) -> Tensor:
        return mean_pool(self.backbone(inputs, mask, first_layer), mask)


def in_buckets(encode: Callable[..., Tensor], buckets: int, first: Sequences, *others: Sequences) -> Tensor:
    """Encode rows in ``buckets`` groups of similar length of ``first``, and put the embeddings back in order.

    The longest come first: later parts then fit in the memory that earlier ones have freed. With hundreds of parts in
    the other order a process took twice as much.
    """
    lengths = first.mask.sum(1) if first.lengths is None else first.lengths
    order = torch.argsort(lengths, descending=True, stable=True)
    parts = [encode(*(_rows(sequences, rows) for sequences in (first, *others))) for rows in order.chunk(buckets)]
    together = torch.cat(parts)
    return together[torch.argsort(order).to(together.device, non_blocking=True)]


def _rows(sequences: Sequences, rows: Tensor) -> Sequences:
    """Some rows, cut to the longest of them."""
    there = rows.to(sequences.mask.device, non_blocking=True)
    mask = sequences.mask[there]
    lengths = None if sequences.lengths is None else sequences.lengths[rows.cpu()]
    longest = int((mask.sum(1) if lengths is None else lengths).max())
    return Sequences(sequences.values[there][:, :longest], mask[:, :longest], lengths)
