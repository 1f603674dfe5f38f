"""Batched embedding: order, mode and bounded batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from speechde.features.units import UnitFrontend
from speechde.models import embed
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import pad_sequences
from speechde.models.prompt import Prompt

LENGTHS = [9, 2, 30, 5, 5, 1, 14]


@pytest.fixture
def model(tiny_llm):
    return DualEncoder(Backbone.load(tiny_llm("gemma3_text"), audio_tokens=12), UnitFrontend(12, drop=0.5), dim=5)


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(AutoTokenizer.from_pretrained(tiny_llm("gemma3_text")))


@pytest.fixture
def items():
    draw = np.random.default_rng(3)
    return [draw.integers(0, 12, n).astype(np.int32) for n in LENGTHS]


@pytest.mark.parametrize("positions", [1, 40, 8192])
def test_speech_comes_back_in_order_whatever_the_batches(model, prompt, items, monkeypatch, positions):
    monkeypatch.setitem(embed.BATCH_POSITIONS, "cpu", positions)
    langs = ["fr_fr", "ro_ro", None, "fr_fr", "ca_es", "ro_ro", "fr_fr"]
    out = embed.embed_speech(model, prompt, items, langs)
    assert out.shape == (7, 5) and out.dtype == np.float32
    model.eval()
    for item, lang, vector in zip(items, langs, out, strict=True):
        with torch.no_grad():
            alone = model.encode_speech(pad_sequences([item]), pad_sequences([prompt.speech_ids(lang)]))
        np.testing.assert_allclose(vector, alone[0].numpy(), atol=1e-5)


def test_texts_and_their_states(model, monkeypatch):
    ids = [np.arange(1, n + 1) * 7 % 250 for n in LENGTHS]
    texts, states = embed.embed_texts(model, ids), embed.text_states(model, ids)
    assert texts.shape == (7, 5) and states.shape == (7, 16)
    np.testing.assert_allclose(model.project(torch.from_numpy(states)).detach().numpy(), texts, atol=1e-6)
    monkeypatch.setitem(embed.BATCH_POSITIONS, "cpu", 12)
    np.testing.assert_allclose(embed.embed_texts(model, ids), texts, atol=1e-5)


def test_batches_are_bounded_and_complete():
    batches = list(embed._batches(LENGTHS, 20))
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or max(LENGTHS[row] for row in batch) * len(batch) <= 20


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_and_random_numbers_are_left_alone(model, prompt, items, training):
    model.train(training)
    state = torch.get_rng_state()
    first = embed.embed_speech(model, prompt, items, ["fr_fr"] * 7)
    assert torch.equal(torch.get_rng_state(), state)  # no unit was dropped
    assert model.training is training and model.frontend.training is training
    np.testing.assert_array_equal(first, embed.embed_speech(model, prompt, items, ["fr_fr"] * 7))
    with pytest.raises(IndexError):
        embed.embed_texts(model, [np.array([10_000])])
    assert model.training is training


def test_nothing_to_embed(model, prompt):
    assert embed.embed_texts(model, []).shape == embed.embed_speech(model, prompt, [], []).shape == (0, 5)
