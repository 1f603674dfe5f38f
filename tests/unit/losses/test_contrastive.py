"""The contrastive loss against a double loop in both directions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from speechde.errors import ConfigError
from speechde.losses.contrastive import ContrastiveLoss, contrastive_loss
from speechde.losses.spread_out import spread_out

TRANSCRIPTS = [[4], [1], [4], [2], [1], [4]]  # one id a row: equal transcripts
SHARED = [[4, 9], [1, 4], [3, 3], [2, 9], [5, 1], [6, 6]]  # 1 shares an id with 0 and with 4, which share none


def pairs(batch=6, dim=8):
    return torch.randn(batch, dim), torch.randn(batch, dim)


def naive(speech, text, scale=1.0, meaning=None):
    """Cross-entropy of each row's own partner, one query at a time."""
    batch = len(speech)
    total = 0.0
    for queries, gallery in ((speech, text), (text, speech)):
        for i in range(batch):
            scores = {}
            for j in range(batch):
                if i == j or meaning is None or set(meaning[i]).isdisjoint(meaning[j]):
                    products = (a * b for a, b in zip(queries[i].tolist(), gallery[j].tolist(), strict=True))
                    scores[j] = scale * sum(products)
            top = max(scores.values())
            total += top + math.log(sum(math.exp(s - top) for s in scores.values())) - scores[i]
    return total / (2 * batch)


@pytest.mark.parametrize("meaning", [None, TRANSCRIPTS, SHARED])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_dot_equals_a_double_loop(meaning, scale):
    speech, text = pairs()
    loss = contrastive_loss(speech, text, scale, None if meaning is None else torch.tensor(meaning))
    assert float(loss) == pytest.approx(naive(speech, text, scale, meaning), rel=1e-5)


@pytest.mark.parametrize("mask_duplicates", [True, False])
@pytest.mark.parametrize(("similarity", "temperature"), [("dot", None), ("dot", 0.5), ("cosine", 0.05)])
def test_module_equals_a_double_loop(similarity, temperature, mask_duplicates):
    speech, text = pairs()
    module = ContrastiveLoss(similarity, temperature, mask_duplicates=mask_duplicates, spread_out_weight=0.3)
    out = module(speech, text, torch.tensor(TRANSCRIPTS))
    unit = F.normalize(speech, dim=-1), F.normalize(text, dim=-1)
    meaning = TRANSCRIPTS if mask_duplicates else None
    contrastive = naive(*(unit if similarity == "cosine" else (speech, text)), 1 / (temperature or 1.0), meaning)
    spread = sum(float(spread_out(u, torch.tensor(TRANSCRIPTS) if mask_duplicates else None)) for u in unit)
    assert set(out) == {"loss", "contrastive", "spread_out"}
    assert float(out["contrastive"]) == pytest.approx(contrastive, rel=1e-5)
    assert float(out["spread_out"]) == pytest.approx(spread, rel=1e-5)
    assert float(out["loss"]) == pytest.approx(contrastive + 0.3 * spread, rel=1e-5)


def test_both_directions_count():
    # every speech row finds its text, but both texts prefer the first speech row
    speech, text = torch.tensor([[9.0, 9.0], [0.0, 1.0]]), torch.tensor([[1.0, -0.9], [0.0, 1.0]])
    assert float(contrastive_loss(speech, text)) == pytest.approx(naive(speech, text), rel=1e-5)
    assert contrastive_loss(speech, text) == contrastive_loss(text, speech)


def test_masked_pairs_have_no_influence():
    speech, text = pairs(4)
    speech[:, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    moved = text.clone()
    moved[2, 0] += 3.0  # changes the dot product of speech 0 and text 2, and no other
    meaning = torch.tensor([[0], [1], [0], [2]])
    torch.testing.assert_close(
        contrastive_loss(speech, moved, 1.0, meaning), contrastive_loss(speech, text, 1.0, meaning)
    )
    assert (contrastive_loss(speech, moved) - contrastive_loss(speech, text)).abs() > 1e-2


def test_one_group_for_all_is_zero_and_finite():
    speech, text = (t.requires_grad_() for t in pairs(3))
    out = ContrastiveLoss("cosine", 0.05, learn_temperature=True)(speech, text, torch.tensor([[7], [7], [7]]))
    out["loss"].backward()
    assert float(out["loss"].detach()) == 0.0
    assert speech.grad.isfinite().all() and text.grad.isfinite().all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("magnitude", [0.0, 1.0, 1e3])
def test_gradients_are_finite(similarity, magnitude):
    speech, text = ((magnitude * t).requires_grad_() for t in pairs())
    ContrastiveLoss(similarity, 0.02)(speech, text, torch.tensor(TRANSCRIPTS))["loss"].backward()
    assert speech.grad.isfinite().all() and text.grad.isfinite().all()


def test_half_precision_embeddings_are_compared_in_float32():
    speech, text = (t.bfloat16() for t in pairs())
    module = ContrastiveLoss("cosine", 0.05)
    exact = module(speech.float(), text.float(), torch.tensor(TRANSCRIPTS))["loss"]
    assert torch.equal(module(speech, text, torch.tensor(TRANSCRIPTS))["loss"], exact)


def test_learned_temperature_is_trained_and_bounded():
    module = ContrastiveLoss("cosine", 0.05, learn_temperature=True)
    assert float(module.scale.detach()) == pytest.approx(20.0)
    speech, text = pairs()
    for wrong in (False, True):  # aligned pairs ask for a higher scale, misaligned ones for a lower one
        module.zero_grad()
        module(speech, speech.roll(1, 0) if wrong else speech, torch.arange(6)[:, None])["loss"].backward()
        assert (module.log_scale.grad > 0) == wrong
    with torch.no_grad():
        module.log_scale.fill_(10.0)
    module.zero_grad()
    module(speech, text, torch.arange(6)[:, None])["loss"].backward()
    assert float(module.scale.detach()) == pytest.approx(100.0)
    assert module.log_scale.grad.abs() > 0, "at the bound it must be able to come back"


def test_fixed_temperature_is_stored_but_not_trained():
    module = ContrastiveLoss("cosine", 0.1)
    assert not module.log_scale.requires_grad and "log_scale" in module.state_dict()
    assert float(ContrastiveLoss().scale) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "cosin"}, r"loss\.similarity: 'cosin'.*Did you mean 'cosine'"),
        ({"learn_temperature": True}, r"loss\.learn_temperature=true needs"),
        ({"temperature": 0.0}, r"loss\.temperature must be at least 0\.01 or null; got 0\.0"),
        ({"temperature": -1.0}, "got -1"),
        ({"temperature": 0.001}, "got 0.001"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        ContrastiveLoss(**options)
