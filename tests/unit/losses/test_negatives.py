"""Hard negatives and single directions against plain loops; without them the loss is what it was, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from speechde.errors import ConfigError
from speechde.losses import contrastive, gradcache, spread_out
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.meaning import ABSENT

BATCH, DIM = 5, 6
MEANING = [[1, 2], [3, 3], [2, 4], [5, 6], [7, 8]]  # rows 0 and 2 share an id
# of two hard negatives a row: in turn what the query means, what the positive means, another row, absent, new
AGAINST = [[1, 20], [21, 22], [4, 5], [ABSENT, 23], [ABSENT, ABSENT]]
FALSE, THERE = 2, 7


def sides(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (BATCH, DIM), (BATCH, DIM), (BATCH, 2, DIM)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def ids():
    return torch.cat([torch.tensor(MEANING), torch.tensor(AGAINST)], 1)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(vector):
    length = math.sqrt(dot(vector, vector))
    return [x / length for x in vector]


def naive(query, positive, negatives, scale, *, cosine, mask, directions, hardness):
    """One query at a time, one term of its denominator at a time."""
    query, positive, negatives = (side.tolist() for side in (query, positive, negatives))
    if cosine:
        query, positive = [unit(v) for v in query], [unit(v) for v in positive]
        negatives = [[unit(v) for v in some] for some in negatives]
    total = 0.0
    for forth in (True, False) if directions == "both" else (True,):
        left, right = (query, positive) if forth else (positive, query)
        for i in range(BATCH):
            terms = 0.0
            for j in range(BATCH):
                if i == j or not mask or set(MEANING[i]).isdisjoint(MEANING[j]):
                    terms += math.exp(scale * dot(left[i], right[j]))
            for vector, id_ in zip(negatives[i], AGAINST[i], strict=True):
                if forth and id_ != ABSENT and not (mask and id_ in MEANING[i]):
                    similarity = dot(left[i], vector)
                    terms += math.exp(hardness * similarity) * math.exp(scale * similarity)
            total += math.log(terms) - scale * dot(left[i], right[i])
    return total / (BATCH * (2 if directions == "both" else 1))


@pytest.mark.parametrize("directions", ["both", "query"])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(("similarity", "temperature", "hardness"), [
    ("dot", None, 0.0), ("cosine", 0.5, 0.0), ("cosine", 0.2, 5.0),
])  # fmt: skip
def test_equals_plain_loops(similarity, temperature, hardness, mask, directions):
    own = sides()
    options = {"mask_duplicates": mask, "directions": directions, "hardness": hardness, "spread_out_weight": 0.0}
    out = ContrastiveLoss(similarity, temperature, **options)(*own[:2], ids(), own[2])
    expected = naive(*own, 1 / (temperature or 1.0), cosine=similarity == "cosine", mask=mask, directions=directions,
                     hardness=hardness)  # fmt: skip
    assert float(out["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(out["false_negatives"]) == pytest.approx(FALSE / THERE if mask else 0.0)


def test_the_weight_has_no_gradient():
    """Of hardness: a weight that did would be lowered by moving what it weighs."""
    query, positive, negatives = sides()
    loss = ContrastiveLoss("cosine", 0.5, hardness=5.0, spread_out_weight=0.0, directions="query")
    loss(query, positive, ids(), negatives)["loss"].backward()
    found = negatives.grad.clone()
    unit_query, unit_positive, units = (F.normalize(side.detach(), dim=-1) for side in (query, positive, negatives))
    fixed = (units @ unit_query[:, :, None]).squeeze(2) * 5.0
    free = negatives.detach().requires_grad_()
    logits = 2 * (F.normalize(free, dim=-1) @ unit_query[:, :, None]).squeeze(2) + fixed
    used = torch.tensor([[a != ABSENT and a not in m for a in some]
                         for some, m in zip(AGAINST, MEANING, strict=True)])  # fmt: skip
    own = 2 * (unit_query @ unit_positive.T)
    shared = torch.zeros(BATCH, BATCH, dtype=torch.bool)
    shared[0, 2] = shared[2, 0] = True
    every = torch.cat([own.masked_fill(shared, -math.inf), logits.masked_fill(~used, -math.inf)], 1)
    F.cross_entropy(every, torch.arange(BATCH)).backward()
    torch.testing.assert_close(found, free.grad, rtol=1e-5, atol=1e-7)


def test_a_masked_or_absent_negative_has_no_influence_and_another_has():
    query, positive, negatives = sides()
    loss = ContrastiveLoss("cosine", 0.5, hardness=1.0)
    loss(query, positive, ids(), negatives)["loss"].backward()
    moved = negatives.grad.abs().sum(2) > 0
    assert moved.tolist() == [[False, True], [True, True], [False, True], [False, True], [False, False]]


def test_without_any_negative_that_is_there_it_is_the_plain_loss():
    query, positive, negatives = sides()
    loss = ContrastiveLoss("cosine", 0.5)
    absent = torch.cat([torch.tensor(MEANING), torch.full((BATCH, 2), ABSENT)], 1)
    out = loss(query, positive, absent, negatives * 1e6)
    torch.testing.assert_close(out["loss"], loss(query, positive, torch.tensor(MEANING))["loss"])
    assert float(out["false_negatives"]) == 0.0


def before(speech, text, scale, meaning):
    """The loss as it was before there were hard negatives."""
    logits = scale * (speech @ text.T)
    shared = (meaning[:, None, :, None] == meaning[None, :, None, :]).flatten(2).any(2)
    shared.fill_diagonal_(False)
    logits = logits.masked_fill(shared, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@pytest.mark.parametrize("dims", [(), (DIM,)])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_without_negatives_and_prefixes_it_is_what_it_was_bit_for_bit(similarity, dims):
    query, positive, _ = sides()
    meaning = torch.tensor(MEANING)
    loss = ContrastiveLoss(similarity, 0.5, learn_temperature=True, spread_out_weight=0.3, dims=dims)
    out = loss(query, positive, meaning)
    units = F.normalize(query, dim=-1), F.normalize(positive, dim=-1)
    own = units if similarity == "cosine" else (query, positive)
    alone = before(*own, loss.scale, meaning)
    spread = spread_out.spread_out(units[0], meaning) + spread_out.spread_out(units[1], meaning)
    expected = alone + 0.3 * spread
    assert torch.equal(out["loss"], expected) and out.keys() == {"loss", "contrastive", "spread_out"}
    parameters = query, positive, loss.log_scale
    for one, other in zip(*(torch.autograd.grad(value, parameters) for value in (out["loss"], expected)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("directions", ["both", "query"])
@pytest.mark.parametrize("dims", [(), (DIM, 3)])
def test_blocks_give_the_loss_and_gradients_of_the_whole_matrix(monkeypatch, directions, dims):
    results = []
    for block in (1024, 2):
        for module in (gradcache, contrastive, spread_out):
            monkeypatch.setattr(module, "BLOCK", block)
        own = sides()
        loss = ContrastiveLoss("cosine", 0.1, learn_temperature=True, directions=directions, hardness=2.0, dims=dims)
        out = loss(*own[:2], ids(), own[2])
        out["loss"].backward()
        results.append([*out.values(), *(side.grad for side in own), loss.log_scale.grad])
    for one, other in zip(*results, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "querry"}, r"loss\.directions: 'querry'.*Did you mean 'query'"),
        ({"hardness": 5.0}, r"loss\.hardness=5\.0 weighs by cosines.*loss\.similarity=cosine"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        ContrastiveLoss(**options)
