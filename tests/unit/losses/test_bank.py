"""A bank of further answers, against plain loops; it counts once, and never against those who mean it."""

from __future__ import annotations

import math

import pytest
import torch

from speechde.losses import contrastive, gradcache, spread_out
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.meaning import ABSENT, counted

BATCH, DIM, SCALE = 5, 6, 2.0
MEANING = [[1, 2], [3, 3], [2, 4], [5, 6], [7, 8]]  # rows 0 and 2 share an id
BANK = [20, 2, ABSENT, 21, 20, 8]  # in turn new, what two rows mean, absent, new, again, what row 4 means
COUNTED = [0, 3]


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (BATCH, DIM), (BATCH, DIM), (len(BANK), DIM)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def loss_of(query, positive, bank, **options):
    options = {"similarity": "cosine", "temperature": 1 / SCALE, "spread_out_weight": 0.0} | options
    ids = {"bank": bank, "bank_meaning": torch.tensor(BANK)}
    return ContrastiveLoss(**options)(query, positive, torch.tensor(MEANING), **ids)["loss"]


def naive(query, positive, bank, *, cosine, both):
    """One term of one denominator at a time."""

    def similar(a, b):
        length = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)) if cosine else 1.0
        return math.exp((SCALE if cosine else 1.0) * sum(x * y for x, y in zip(a, b, strict=True)) / length)

    query, positive, bank = (side.tolist() for side in (query, positive, bank))
    total = 0.0
    for forth in (True, False) if both else (True,):
        left, right = (query, positive) if forth else (positive, query)
        for i in range(BATCH):
            own = [j for j in range(BATCH) if i == j or set(MEANING[i]).isdisjoint(MEANING[j])]
            terms = [similar(left[i], right[j]) for j in own]
            terms += [similar(left[i], bank[j]) for j in COUNTED] if forth else []
            total += math.log(sum(terms) / similar(left[i], right[i]))
    return total / (BATCH * (1 + both))


@pytest.mark.parametrize("directions", ["both", "query"])
@pytest.mark.parametrize(("similarity", "temperature"), [("dot", None), ("cosine", 1 / SCALE)])
def test_equals_plain_loops(similarity, temperature, directions):
    own = tensors()
    found = loss_of(*own, similarity=similarity, temperature=temperature, directions=directions)
    expected = naive(*own, cosine=similarity == "cosine", both=directions == "both")
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dims", [(), (6, 3)])
def test_blocks_of_a_large_batch_change_nothing(monkeypatch, dims):
    whole = tensors()
    loss_of(*whole, dims=dims).backward()
    for module in (contrastive, gradcache, spread_out):
        monkeypatch.setattr(module, "BLOCK", 2)
    parts = tensors()
    loss_of(*parts, dims=dims).backward()
    for one, other in zip(whole, parts, strict=True):
        assert one.grad.abs().max() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-7)


def test_what_does_not_count_has_no_gradient():
    query, positive, bank = tensors()
    loss_of(query, positive, bank).backward()
    assert (bank.grad.abs().sum(1) > 0).nonzero()[:, 0].tolist() == COUNTED


def test_without_any_that_counts_it_is_the_plain_loss():
    query, positive, bank = tensors()
    loss, ids = ContrastiveLoss("cosine", 0.5), torch.tensor(MEANING)
    plain = loss(query, positive, ids)["loss"]
    absent = loss(query, positive, ids, bank=bank, bank_meaning=torch.full((len(BANK),), ABSENT))["loss"]
    assert torch.equal(plain, absent)


def test_counted():
    assert counted(torch.tensor(BANK), torch.tensor(MEANING)).nonzero()[:, 0].tolist() == COUNTED
    nothing = torch.empty(0, dtype=torch.int64)
    assert counted(nothing, torch.tensor(MEANING)).tolist() == []
