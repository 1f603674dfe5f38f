"""The mean over prefixes is that of losses of shorter vectors."""

from __future__ import annotations

import pytest
import torch

from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.meaning import ABSENT

BATCH, WIDTH = 6, 8
DIMS = (8, 5, 2)


def sides():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, WIDTH, generator=generator) for shape in ((BATCH,), (BATCH,), (BATCH, 1))]


def ids():
    meaning = torch.tensor([[1], [2], [1], [3], [4], [5]])
    return torch.cat([meaning, torch.tensor([[9], [2], [ABSENT], [10], [11], [12]])], 1)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_mean_of_the_losses_of_shorter_vectors(similarity):
    """Each renormalised where cosines are compared, with its own spread-out term, one temperature for all."""
    query, positive, negatives = sides()
    options = {"temperature": 0.3, "learn_temperature": True, "spread_out_weight": 0.4}
    together = ContrastiveLoss(similarity, **options, dims=DIMS)
    out = together(query, positive, ids(), negatives)
    alone = [ContrastiveLoss(similarity, **options) for _ in DIMS]
    losses = [one(query[:, :d], positive[:, :d], ids(), negatives[..., :d]) for one, d in zip(alone, DIMS, strict=True)]
    for name in ("loss", "contrastive", "spread_out"):
        torch.testing.assert_close(out[name], sum(each[name] for each in losses) / 3)
    assert torch.equal(out["false_negatives"], losses[0]["false_negatives"])
    out["loss"].backward()
    sum(each["loss"] for each in losses).backward()
    torch.testing.assert_close(together.log_scale.grad, sum(one.log_scale.grad for one in alone) / 3)


def test_a_component_learns_from_the_prefixes_that_have_it():
    query, positive, _ = sides()
    query.requires_grad_()
    ContrastiveLoss("dot", spread_out_weight=0.0, dims=(5, 2))(query, positive, ids()[:, :1])["loss"].backward()
    assert (query.grad.abs().sum(0) > 0).tolist() == [True] * 5 + [False] * 3
