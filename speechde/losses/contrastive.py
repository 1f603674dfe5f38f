"""In-batch softmax contrastive loss in both directions, with a duplicate mask and a learned or fixed scale.

The loss sees embeddings only, never a model, so that it can be cached, gathered and tested alone.

History: the paper (arXiv 2404.01616, appendix A.1) uses the plain dot product, in both directions after Yang et al.
2019, and adds a spread-out term. Its scale is then free to grow with the embeddings. The cosine form with a learned
temperature is CLIP's. Corpora in which several people read one sentence put the same text in a batch twice; without a
mask the loss would push a recording away from its own transcript. A label of the transcript alone was not enough: a
translation pair whose text is the transcript of another row, or a sentence in two languages, is no negative either.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError, unknown_value
from speechde.losses.gradcache import BLOCK, sum_over_blocks
from speechde.losses.meaning import same_meaning
from speechde.losses.spread_out import spread_out

SIMILARITIES = ("dot", "cosine")


def contrastive_loss(
    speech: Tensor, text: Tensor, scale: Tensor | float = 1.0, meaning: Tensor | None = None
) -> Tensor:
    """Mean of the speech→text and text→speech cross-entropies over a batch of aligned pairs.

    Args:
        speech: ``(batch, dim)``, row i belongs to row i of ``text``.
        text: ``(batch, dim)``.
        scale: multiplies the dot products (the inverse temperature).
        meaning: ``(batch, k)`` integers; different rows that share an id are neither positives nor negatives.
    """
    if (batch := len(speech)) > BLOCK:
        directions = (speech, text), (text, speech)
        total = sum_over_blocks(lambda rows: sum(_block(*both, scale, meaning, rows) for both in directions), batch)
        return total / (2 * batch)
    logits = scale * (speech @ text.T)
    if meaning is not None:
        duplicate = same_meaning(meaning, meaning)
        duplicate.fill_diagonal_(False)
        logits = logits.masked_fill(duplicate, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _block(queries: Tensor, gallery: Tensor, scale: Tensor | float, meaning: Tensor | None, rows: slice) -> Tensor:
    """Summed cross-entropies of some rows of ``queries`` among all of ``gallery``."""
    logits = scale * (queries[rows] @ gallery.T)
    target = torch.arange(rows.start, rows.stop, device=logits.device)
    if meaning is not None:
        duplicate = same_meaning(meaning[rows], meaning)
        duplicate[torch.arange(len(target)), target] = False
        logits = logits.masked_fill(duplicate, float("-inf"))
    return F.cross_entropy(logits, target, reduction="sum")


class ContrastiveLoss(nn.Module):
    """Contrastive loss with its similarity, temperature, duplicate mask and spread-out weight.

    Args:
        similarity: ``dot`` (faithful to the paper) or ``cosine``.
        temperature: initial temperature, or ``None`` for no scaling.
        learn_temperature: whether the temperature is trained (as its logarithm).
        spread_out_weight: weight of the spread-out term on each modality; 0 switches it off.
        mask_duplicates: leave rows that mean the same out of each other's negatives.
    """

    MAX_SCALE = 100.0  # CLIP's bound: beyond it the softmax is one-hot in half precision and the gradient vanishes

    def __init__(
        self,
        similarity: str = "dot",
        temperature: float | None = None,
        learn_temperature: bool = False,
        spread_out_weight: float = 1.0,
        mask_duplicates: bool = True,
    ) -> None:
        super().__init__()
        if similarity not in SIMILARITIES:
            raise unknown_value("loss.similarity", similarity, SIMILARITIES)
        if temperature is None and learn_temperature:
            raise ConfigError("loss.learn_temperature=true needs a starting loss.temperature, e.g. 0.05; got null")
        if temperature is not None and temperature < 1 / self.MAX_SCALE:
            raise ConfigError(f"loss.temperature must be at least {1 / self.MAX_SCALE} or null; got {temperature}")
        self.similarity = similarity
        self.spread_out_weight = spread_out_weight
        self.mask_duplicates = mask_duplicates
        log_scale = torch.tensor(0.0 if temperature is None else -math.log(temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=learn_temperature)

    @property
    def scale(self) -> Tensor:
        """The factor on the dot products, the inverse temperature."""
        return self.log_scale.exp()

    def forward(self, speech: Tensor, text: Tensor, meaning: Tensor) -> dict[str, Tensor]:
        """``{"loss", "contrastive", "spread_out"}`` of ``(batch, dim)`` embeddings; ``meaning`` as above."""
        with torch.no_grad():  # bounding the parameter and not its use: past a clamp it would have no gradient back
            self.log_scale.clamp_(max=math.log(self.MAX_SCALE))
        unit_speech, unit_text = F.normalize(speech.float(), dim=-1), F.normalize(text.float(), dim=-1)
        if self.similarity == "cosine":
            speech, text = unit_speech, unit_text
        meaning = meaning if self.mask_duplicates else None
        contrastive = contrastive_loss(speech.float(), text.float(), self.scale, meaning)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.spread_out_weight > 0):
            spread = spread_out(unit_speech, meaning) + spread_out(unit_text, meaning)
        return {
            "loss": contrastive + self.spread_out_weight * spread,
            "contrastive": contrastive.detach(),
            "spread_out": spread.detach(),
        }
