"""Batched embedding of items of any make-up: order, mode and bounded batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from speechde.models import embed
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_items
from speechde.models.frontends.base import pad_items
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.models.prompt import Prompt
from speechde.types import Audio, Item, Text

LENGTHS = [9, 2, 30, 5, 5, 1, 14]
LANGS = ["fr_fr", "ro_ro", None, "fr_fr", "ca_es", "ro_ro", "fr_fr"]


def build(tiny_llm, kind="units", entry_layer=0):
    backbone = Backbone.load(tiny_llm("gemma3_text"), audio_tokens=12 if kind == "units" else 0)
    if kind == "units":
        frontend = UnitFrontend(12, drop=0.5, entry_layer=entry_layer)
    else:
        adapter = {"hidden": 8, "heads": 2, "layers": 1, "entry_layer": entry_layer}
        frontend = ContinuousFrontend(6, backbone.width, 1.0, **adapter)
    return DualEncoder(backbone, {"speech": frontend}, dim=5)


@pytest.fixture
def model(tiny_llm):
    return build(tiny_llm)


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(AutoTokenizer.from_pretrained(tiny_llm("gemma3_text")))


def clips(kind="units"):
    draw = np.random.default_rng(3)
    if kind == "units":
        return [Audio(draw.integers(0, 12, n).astype(np.int32)) for n in LENGTHS]
    return [Audio(draw.normal(size=(n, 6)).astype(np.float32)) for n in LENGTHS]


@pytest.fixture
def spoken():
    return [Item(clip, lang=lang) for clip, lang in zip(clips(), LANGS, strict=True)]


def stored(media):
    """Clips whose content is what is stored of them."""
    return [[part.content] for _, part in media]


def texts():
    return [[("text", np.arange(1, n + 1) * 7 % 250)] for n in LENGTHS]


@pytest.mark.parametrize("positions", [1, 40, 8192])
def test_speech_comes_back_in_order_whatever_the_batches(model, prompt, spoken, monkeypatch, positions):
    monkeypatch.setitem(embed.BATCH_POSITIONS, "cpu", positions)
    out = embed_items(model, prompt, spoken, stored).vectors
    assert out.shape == (7, 5) and out.dtype == np.float32
    model.eval()
    for item, vector in zip(spoken, out, strict=True):
        with torch.no_grad():
            row = [("text", prompt.speech_ids(item.lang)), ("speech", item.parts[0].content)]
            alone = model.encode(pad_items([row]))
        np.testing.assert_allclose(vector, alone[0].numpy(), atol=1e-5)


def test_texts_and_their_states(model, prompt, monkeypatch):
    rows = texts()
    vectors, states = embed.embed_rows(model, rows), embed.text_states(model, [ids for ((_, ids),) in rows])
    assert vectors.shape == (7, 5) and states.shape == (7, 16)
    np.testing.assert_allclose(model.project(torch.from_numpy(states)).detach().numpy(), vectors, atol=1e-6)
    written = [Item(Text("x" * n), lang=lang) for n, lang in zip(LENGTHS, LANGS, strict=True)]
    ids = [[("text", prompt.text_ids("x" * n, lang))] for n, lang in zip(LENGTHS, LANGS, strict=True)]
    np.testing.assert_array_equal(embed_items(model, prompt, written, stored).vectors, embed.embed_rows(model, ids))
    monkeypatch.setitem(embed.BATCH_POSITIONS, "cpu", 12)
    np.testing.assert_allclose(embed.embed_rows(model, rows), vectors, atol=1e-5)


MAKE_UPS = [("text",), ("text", "speech"), ("text", "speech", "text"), ("speech", "text", "speech")]


def parts_of(order, number, kind):
    own = clips(kind)
    words = (Text(f"words {number}" + "x" * LENGTHS[number]), Text(f"and {number} more"))
    return [own[(number + place) % 7] if one == "speech" else words[place > 0] for place, one in enumerate(order)]


@pytest.mark.parametrize("positions", [1, 60, 8192])
@pytest.mark.parametrize("kind", ["units", "continuous"])
def test_an_item_of_several_parts_is_one_vector_that_nothing_else_changes(
    tiny_llm, prompt, monkeypatch, kind, positions
):
    """Items of all make-ups in one list: each has the vector that it has alone."""
    model = build(tiny_llm, kind)
    orders = [*MAKE_UPS, ("speech",)]
    items = [Item(*parts_of(orders[i % 5], i % 7, kind), lang=LANGS[i % 7]) for i in range(15)]
    monkeypatch.setitem(embed.BATCH_POSITIONS, "cpu", positions)
    made = embed_items(model, prompt, items, stored)
    assert made.vectors.shape == (15, 5) and made.pieces.tolist() == [1] * 15
    assert len(np.unique(np.round(made.vectors, 4), axis=0)) == 15
    for item, vector in zip(items, made.vectors, strict=True):
        alone = embed_items(model, prompt, [item], stored)
        assert alone.vectors.shape == (1, 5)
        np.testing.assert_allclose(alone.vectors[0], vector, atol=1e-5)


def test_an_item_is_its_prompt_its_words_and_its_clips_in_one_sequence(model, prompt):
    """Units are tokens like any other, so an interleaved item can be written out as one text."""
    first, second = (clip.content for clip in clips()[:2])
    item = Item(Audio(first), Text("and"), Audio(second), lang="fr_fr")
    beyond = model.backbone.embedding.text_tokens
    words = prompt.tokenizer("and", add_special_tokens=False)["input_ids"]
    ids = np.concatenate([prompt.speech_ids("fr_fr"), first + beyond, words, second + beyond])
    written = embed.embed_rows(model, [[("text", ids)]])
    np.testing.assert_allclose(embed_items(model, prompt, [item], stored).vectors, written, atol=1e-5)


@pytest.mark.parametrize("kind", ["units", "continuous"])
def test_words_change_the_vector_of_speech_and_so_does_their_place(tiny_llm, prompt, kind):
    model, clip = build(tiny_llm, kind), clips(kind)[0]
    items = [
        Item(clip, lang="fr_fr"),
        Item(Text("is this a question?"), clip, lang="fr_fr"),
        Item(Text("is this an answer?"), clip, lang="fr_fr"),
        Item(clip, Text("is this a question?"), lang="fr_fr"),
        Item(Text("is this a question?"), lang="fr_fr"),
    ]
    vectors = embed_items(model, prompt, items, stored).vectors
    apart = np.abs(vectors[:, None] - vectors[None]).max(-1)
    assert apart[~np.eye(5, dtype=bool)].min() > 1e-3


def test_batches_are_bounded_complete_and_of_one_make_up():
    own = [clip.content for clip in clips()]
    rows = texts()
    for words in (np.arange(3), np.arange(25)):  # a prompt, and words that are longer than the speech
        rows += [[("text", words), ("speech", content)] for content in own]
    batches = list(embed._batches(rows, 60))
    assert sorted(row for batch in batches for row in batch) == list(range(21))
    for batch in batches:
        assert len({tuple(name for name, _ in rows[row]) for row in batch}) == 1
        for column in zip(*(rows[row] for row in batch), strict=True):
            assert len(batch) == 1 or max(len(values) for _, values in column) * len(batch) <= 60
    assert max(map(len, batches)) > 3


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_and_random_numbers_are_left_alone(model, prompt, spoken, training):
    model.train(training)
    state = torch.get_rng_state()
    first = embed_items(model, prompt, spoken, stored).vectors
    assert torch.equal(torch.get_rng_state(), state)  # no unit was dropped
    assert model.training is training and model.frontends["speech"].training is training
    np.testing.assert_array_equal(first, embed_items(model, prompt, spoken, stored).vectors)
    with pytest.raises(IndexError):
        embed.embed_rows(model, [[("text", np.array([10_000]))]])
    assert model.training is training


def test_nothing_to_embed(model, prompt):
    made = embed_items(model, prompt, [], stored)
    assert embed.embed_rows(model, []).shape == made.vectors.shape == (0, 5) and made.pieces.shape == (0,)
