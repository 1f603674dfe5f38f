"""The dual encoder: one LLM, any modalities, one vector for an item.

    parts of an item, in order ─► frontend of each ─► input embeddings ─► LLM ─► mean over real positions ─► projection

Text tokens go through the LLM's own embedding, speech through its frontend; LLM, pooling and projection are shared
(arXiv 2404.01616, section 2). Similarity is the dot product of the outputs, or of the normalised outputs when
``normalise`` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError, unknown_value
from speechde.models.backbone import Backbone, twin
from speechde.models.frontends.base import Frontend, compact
from speechde.models.pooling import mean_pool
from speechde.types import TEXT, WORDS, WRITTEN, Inputs, Sequences

PROJECTION_INITS = ("random", "identity")


class DualEncoder(nn.Module):
    """Backbone, a frontend for each modality but text, and projection.

    Args:
        frontends: by the modality they read.
        dim: width of the embeddings; ``None`` takes the LLM's width.
        projection_init: ``random`` as in the paper, or ``identity`` (rectangular identity), which starts from the
            LLM's own text embedding space.
        projection_gain: factor on the initial projection. Hidden states of LLMs differ in norm by a factor of 25; with
            a plain dot product that is a temperature, and a large one starts from a saturated softmax.
        normalise: return unit vectors.
    """

    def __init__(
        self,
        backbone: Backbone,
        frontends: Mapping[str, Frontend],
        dim: int | None = None,
        projection_init: str = "random",
        projection_gain: float = 1.0,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if projection_init not in PROJECTION_INITS:
            raise unknown_value("model.projection_init", projection_init, PROJECTION_INITS)
        for modality, frontend in frontends.items():
            if not 0 <= frontend.entry_layer < len(backbone.layers):
                raise ConfigError(
                    f"model.{modality}_layer={frontend.entry_layer} is not a layer: the LLM has "
                    f"{len(backbone.layers)}; use 0 to {len(backbone.layers) - 1}"
                )
        self.backbone = backbone
        self.frontends = nn.ModuleDict(frontends)
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

    def room(self, modality: str, prompt: int) -> int | None:
        """How many stored items of a modality fit the LLM's positions beside ``prompt`` tokens; None: any number.

        Raises:
            ConfigError: none do.
        """
        if (positions := self.backbone.positions) is None:
            return None
        if prompt >= positions:
            raise ConfigError(
                f"a {modality} prefix of {prompt} tokens fills the {positions} positions of the LLM; shorten "
                f"model.prefix.{modality}"
            )
        return (positions - prompt) * self.stride(modality)

    def encode(self, inputs: Inputs, buckets: int = 1) -> Tensor:
        """Items → ``(batch, dim)`` float32 embeddings.

        ``buckets`` > 1 encodes the batch in that many parts of similar length: the same embeddings for less padding.
        """
        if buckets > 1:
            return in_buckets(self.encode, buckets, inputs)
        return self.project(self.states(inputs))

    def states(self, inputs: Inputs) -> Tensor:
        """Items → ``(batch, width)`` pooled states before the projection; those of text are constant in a frozen LLM.

        The words of a prompt enter the LLM where the medium enters that they surround. Text of an item that has media
        too goes through the layers below on its own, as a text does, and joins them there.
        """
        parts = [self._embed(modality, column) for modality, column in inputs.columns]
        entry = max(self.entry_layer(modality) for modality, _ in inputs.columns)
        kinds = [modality for modality, _ in inputs.columns]
        hidden, mask = parts[-1]
        joining = None
        if len(parts) > 1:
            media = [part for kind, part in zip(kinds, parts, strict=True) if kind not in WORDS]
            dtype = (media or parts)[-1][0].dtype
            hidden = torch.cat([values.to(dtype) for values, _ in parts], dim=1)
            mask, longest = torch.cat([mask for _, mask in parts], dim=1), self._longest(inputs)
            if entry and WRITTEN in kinds:
                states, written = self._written(kinds, parts, entry)
                states, _ = compact(states, mask, longest)
                joining = states, compact(written.unsqueeze(-1), mask, longest)[0].squeeze(-1)
            # positions are absolute, so the gaps that short parts leave must be closed
            hidden, mask = compact(hidden, mask, longest)
        return mean_pool(self.backbone(hidden, mask, entry, joining), mask)

    def _written(
        self, kinds: Sequence[str], parts: Sequence[tuple[Tensor, Tensor]], entry: int
    ) -> tuple[Tensor, Tensor]:
        """States of an item's own text at the layer ``entry``, ``(batch, time, width)``, and where they are.

        Each text is a sequence of its own below that layer; elsewhere the states are zero.
        """
        states, where = [], []
        for kind, (values, mask) in zip(kinds, parts, strict=True):
            own = self.backbone.up_to(values, mask, entry) if kind == WRITTEN else None
            states.append(values.new_zeros(values.shape, dtype=torch.float32) if own is None else own.float())
            where.append(mask if kind == WRITTEN else torch.zeros_like(mask))
        return torch.cat(states, dim=1), torch.cat(where, dim=1)

    def entry_layer(self, modality: str) -> int:
        """The layer of the LLM at which a modality enters.

        Raises:
            ConfigError: the model has no frontend for it.
        """
        if modality in WORDS:
            return 0
        if modality not in self.frontends:
            known = ", ".join([TEXT, *self.frontends])
            fix = "make pictures of it (media.video.as_pictures)" if modality == "video" else "give it another model"
            raise ConfigError(f"this model has no frontend for {modality}; it reads {known}: {fix}")
        return self.frontends[modality].entry_layer

    def stride(self, modality: str) -> int:
        """How many stored items of a modality take one position."""
        return 1 if modality in WORDS else self.frontends[modality].stride

    def _embed(self, modality: str, column: Sequences) -> tuple[Tensor, Tensor]:
        """Input embeddings ``(batch, time, width)`` of one column, and their mask."""
        if modality in WORDS:
            return self.backbone.embed(column.values), column.mask
        return self.frontends[modality](column, self.backbone.embedding)

    def _longest(self, inputs: Inputs) -> int | None:
        """Positions of the longest row in the LLM, where they are known without asking a GPU."""
        known = [(column.lengths, self.stride(modality)) for modality, column in inputs.columns]
        if any(lengths is None for lengths, _ in known):
            return None
        return int(sum(-(-lengths // stride) for lengths, stride in known).max())

    def project(self, pooled: Tensor) -> Tensor:
        """``(batch, width)`` pooled states → embeddings."""
        out = self.projection(pooled).float()
        return F.normalize(out, dim=-1) if self.normalise else out

    def entered_at(self, modality: str) -> DualEncoder:
        """A model over the same weights without the layers below those at which a modality enters; for exporters."""
        frontend = self.frontends[modality]
        lowered = twin(self.frontends, {modality: twin(frontend, entry_layer=0)})
        backbone = self.backbone.entered_at(frontend.entry_layer)
        return twin(self, {"backbone": backbone, "frontends": lowered})

    def cut_to(self, dim: int) -> DualEncoder:
        """A model over the same weights whose vectors are the first ``dim`` components, of unit length where these are.

        A vector is a projection, so the rows that are cut off are not computed. A clip that is embedded in pieces has
        the mean of their shorter vectors.
        """
        projection = nn.Linear(self.projection.in_features, dim, bias=False, device="meta")
        projection.weight = nn.Parameter(self.projection.weight.detach()[:dim].clone())
        return twin(self, {"projection": projection})

    def in_precision(self, dtype: torch.dtype) -> DualEncoder:
        """A copy for embedding, with the weights of LLM and frontends in ``dtype``, which is what they compute in.

        Pooling, projection and the frontends' statistics stay float32, and so do the embeddings. On a CPU this is
        faster than autocast, which casts before every product (docs/performance.md).
        """
        lowered = [*self.backbone.parameters(), *self.frontends.parameters()]
        memo = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in lowered}
        return deepcopy(self, memo)


def in_buckets(encode: Callable[[Inputs], Tensor], buckets: int, inputs: Inputs) -> Tensor:
    """Encode rows in ``buckets`` groups of similar length, and put the embeddings back in order.

    The longest come first: later parts then fit in the memory that earlier ones have freed. With hundreds of parts in
    the other order a process took twice as much.
    """
    order = torch.argsort(inputs.lengths, descending=True, stable=True)
    together = torch.cat([encode(inputs.rows(rows)) for rows in order.chunk(buckets)])
    return together[torch.argsort(order).to(together.device, non_blocking=True)]
