"""In-batch softmax contrastive loss with hard negatives, a duplicate mask, a learned or fixed scale, and Matryoshka.

For query i with its positive ``p_i`` and hard negatives ``h_i1 … h_in``, s being the similarity and t its scale:

    −log  exp(t·s(q_i, p_i)) / ( Σ_j mask(i, j)·exp(t·s(q_i, p_j)) + Σ_k w_ik·exp(t·s(q_i, h_ik)) )

``mask(i, j)`` leaves out the rows j ≠ i that mean what row i means, and a hard negative that does is left out too. In
both directions, the mean with the loss of each positive among all queries is taken; hard negatives answer queries and
are in no other denominator than that of their own row. It is the loss of Gemini Embedding 2 (arXiv 2605.27295,
equations 2 and 3), which is of queries alone; ``w_ik = exp(hardness·s(q_i, h_ik))``, without a gradient, is
EmbeddingGemma's (arXiv 2509.20354). A bank of further answers, those of no row, can stand in the denominators of all
queries.

The loss sees embeddings only, never a model, so that it can be cached, gathered and tested alone.

History: the paper (arXiv 2404.01616, appendix A.1) uses the plain dot product, in both directions after Yang et al.
2019, and adds a spread-out term. Its scale is then free to grow with the embeddings. The cosine form with a learned
temperature is CLIP's. Corpora in which several people read one sentence put the same text in a batch twice; without a
mask the loss would push a recording away from its own transcript. A label of the transcript alone was not enough: a
translation pair whose text is the transcript of another row, or a sentence in two languages, is no negative either.
Matryoshka (Kusupati et al. 2022, arXiv 2205.13147) takes the mean of the loss over prefixes of the vectors, so that
each prefix is a vector of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechde.errors import ConfigError, unknown_value
from speechde.losses.gradcache import BLOCK, sum_over_blocks
from speechde.losses.meaning import ABSENT, counted, means_its_row, same_meaning
from speechde.losses.spread_out import spread_out

SIMILARITIES = ("dot", "cosine")
DIRECTIONS = ("both", "query")


def contrastive_loss(
    query: Tensor,
    positive: Tensor,
    scale: Tensor | float = 1.0,
    meaning: Tensor | None = None,
    hard: Tensor | None = None,
    directions: str = "both",
    bank: Tensor | None = None,
    banked: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over a batch of aligned pairs.

    Args:
        query: ``(batch, dim)``, row i belongs to row i of ``positive``.
        positive: ``(batch, dim)``.
        scale: multiplies the dot products (the inverse temperature).
        meaning: ``(batch, k)`` integers; different rows that share an id are neither positives nor negatives.
        hard: ``(batch, n)`` logits of each query's hard negatives; −∞ where one does not count.
        directions: ``query`` (query→positive) or ``both`` (the mean with positive→query).
        bank: ``(m, dim)``, further negatives of all queries.
        banked: ``(m,)`` bool, those of ``bank`` that count.
    """
    batch, both = len(query), directions == "both"

    def others(rows: slice) -> list[Tensor]:
        """Logits of what is no row's positive: of the hard negatives of some rows, and of the bank."""
        found = [] if hard is None else [hard[rows]]
        if bank is not None:
            found.append((scale * (query[rows] @ bank.T)).masked_fill(~banked, float("-inf")))
        return found

    if batch > BLOCK:

        def term(rows: slice) -> Tensor:
            forth = _block(query, positive, scale, meaning, rows, others(rows))
            return forth + _block(positive, query, scale, meaning, rows) if both else forth

        return sum_over_blocks(term, batch) / (batch * (1 + both))
    logits = scale * (query @ positive.T)
    if meaning is not None:
        duplicate = same_meaning(meaning, meaning)
        duplicate.fill_diagonal_(False)
        logits = logits.masked_fill(duplicate, float("-inf"))
    target = torch.arange(batch, device=logits.device)
    forth = F.cross_entropy(torch.cat([logits, *others(slice(None))], 1), target)
    return (forth + F.cross_entropy(logits.T, target)) / 2 if both else forth


def _block(
    queries: Tensor,
    gallery: Tensor,
    scale: Tensor | float,
    meaning: Tensor | None,
    rows: slice,
    others: Sequence[Tensor] = (),
) -> Tensor:
    """Summed cross-entropies of some rows of ``queries`` among all of ``gallery`` and others of given logits."""
    logits = scale * (queries[rows] @ gallery.T)
    target = torch.arange(rows.start, rows.stop, device=logits.device)
    if meaning is not None:
        duplicate = same_meaning(meaning[rows], meaning)
        duplicate[torch.arange(len(target)), target] = False
        logits = logits.masked_fill(duplicate, float("-inf"))
    return F.cross_entropy(torch.cat([logits, *others], 1), target, reduction="sum")


class ContrastiveLoss(nn.Module):
    """Contrastive loss with its similarity, temperature, masks, prefixes and spread-out weight.

    Args:
        similarity: ``dot`` (faithful to the paper) or ``cosine``.
        temperature: initial temperature, or ``None`` for no scaling.
        learn_temperature: whether the temperature is trained (as its logarithm).
        spread_out_weight: weight of the spread-out term on each side; 0 switches it off.
        mask_duplicates: leave rows that mean the same out of each other's negatives, and hard negatives that mean what
            their row means out of its own.
        directions: ``both``, or ``query`` for query→positive alone.
        hardness: weighs a hard negative by exp(hardness · its cosine to the query); 0 weighs all alike.
        dims: sizes of the prefixes whose losses are averaged, the width first; none for the whole vectors alone.

    Raises:
        ConfigError: a value is not allowed, or two do not go together.
    """

    MAX_SCALE = 100.0  # CLIP's bound: beyond it the softmax is one-hot in half precision and the gradient vanishes

    def __init__(
        self,
        similarity: str = "dot",
        temperature: float | None = None,
        learn_temperature: bool = False,
        spread_out_weight: float = 1.0,
        mask_duplicates: bool = True,
        directions: str = "both",
        hardness: float = 0.0,
        dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if similarity not in SIMILARITIES:
            raise unknown_value("loss.similarity", similarity, SIMILARITIES)
        if directions not in DIRECTIONS:
            raise unknown_value("loss.directions", directions, DIRECTIONS)
        if temperature is None and learn_temperature:
            raise ConfigError("loss.learn_temperature=true needs a starting loss.temperature, e.g. 0.05; got null")
        if temperature is not None and temperature < 1 / self.MAX_SCALE:
            raise ConfigError(f"loss.temperature must be at least {1 / self.MAX_SCALE} or null; got {temperature}")
        if hardness and similarity != "cosine":
            raise ConfigError(
                f"loss.hardness={hardness} weighs by cosines, and loss.similarity={similarity} has none; set "
                "loss.similarity=cosine, or loss.hardness=0"
            )
        self.similarity, self.directions = similarity, directions
        self.spread_out_weight, self.hardness = spread_out_weight, hardness
        self.mask_duplicates, self.dims = mask_duplicates, tuple(dims)
        log_scale = torch.tensor(0.0 if temperature is None else -math.log(temperature))
        self.log_scale = nn.Parameter(log_scale, requires_grad=learn_temperature)

    @property
    def scale(self) -> Tensor:
        """The factor on the dot products, the inverse temperature."""
        return self.log_scale.exp()

    def forward(
        self, query: Tensor, positive: Tensor, meaning: Tensor, negatives: Tensor | None = None,
        bank: Tensor | None = None, bank_meaning: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """``{"loss", "contrastive", "spread_out"}``, and ``false_negatives`` where there are hard negatives.

        Args:
            query, positive: ``(batch, dim)`` embeddings.
            meaning: ``(batch, k + n)`` ids: k of what a row means, and one of what each of its n negatives means, which
                is ``ABSENT`` where it has fewer.
            negatives: ``(batch, n, dim)`` embeddings; what stands in the place of an absent one has no influence.
            bank: ``(m, dim)`` embeddings of further negatives of all queries.
            bank_meaning: ``(m,)`` what each of these means. It counts once, and not at all where it is ``ABSENT`` or
                what a row means, which is compared already.

        ``false_negatives`` is the share of the hard negatives there are that are left out, for they mean what their row
        means.
        """
        with torch.no_grad():  # bounding the parameter and not its use: past a clamp it would have no gradient back
            self.log_scale.clamp_(max=math.log(self.MAX_SCALE))
        used, masked = None, {}
        if negatives is not None:
            meaning, against = meaning.tensor_split([meaning.shape[1] - negatives.shape[1]], dim=1)
            there = against != ABSENT
            false = there & means_its_row(meaning, against) if self.mask_duplicates else torch.zeros_like(there)
            used, masked = there & ~false, {"false_negatives": false.sum() / there.sum().clamp(min=1)}
        banked = None if bank is None else counted(bank_meaning, meaning)
        sides = [side if side is None else side.float() for side in (query, positive, negatives, bank)]
        own = meaning if self.mask_duplicates else None
        prefixes = [
            self._of_prefix(*(side if side is None else side[..., :dim] for side in sides), own, used, banked)
            for dim in self.dims or (query.shape[-1],)
        ]
        contrastive, spread = (sum(values) / len(prefixes) for values in zip(*prefixes, strict=True))
        return {
            "loss": contrastive + self.spread_out_weight * spread,
            "contrastive": contrastive.detach(),
            "spread_out": spread.detach(),
            **masked,
        }

    def _of_prefix(
        self, query: Tensor, positive: Tensor, negatives: Tensor | None, bank: Tensor | None,
        meaning: Tensor | None, used: Tensor | None, banked: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The contrastive and the spread-out term of vectors of one size; ``used`` ``(batch, n)`` bool, ``banked``
        ``(m,)``."""
        unit_query, unit_positive = F.normalize(query, dim=-1), F.normalize(positive, dim=-1)
        if self.similarity == "cosine":
            query, positive = unit_query, unit_positive
            bank = None if bank is None else F.normalize(bank, dim=-1)
        hard = None if negatives is None else self._hard_logits(query, negatives, used)
        contrastive = contrastive_loss(query, positive, self.scale, meaning, hard, self.directions, bank, banked)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.spread_out_weight > 0):
            spread = spread_out(unit_query, meaning) + spread_out(unit_positive, meaning)
        return contrastive, spread

    def _hard_logits(self, query: Tensor, negatives: Tensor, used: Tensor) -> Tensor:
        """``(batch, n)`` logits of the hard negatives of each query, −∞ where one is not used."""
        if self.similarity == "cosine":
            negatives = F.normalize(negatives, dim=-1)
        similarity = (negatives @ query[:, :, None]).squeeze(2)
        logits = self.scale * similarity + self.hardness * similarity.detach()  # the logarithm of the weighted term
        return logits.masked_fill(~used, float("-inf"))
