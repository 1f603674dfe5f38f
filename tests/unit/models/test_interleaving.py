"""Items that mix media and text where media enter the LLM above its lowest layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from speechde.errors import ConfigError
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_items
from speechde.models.frontends.base import compact, pad_items, pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.patches import PatchFrontend
from speechde.models.pooling import mean_pool
from speechde.models.prompt import Prompt
from speechde.types import Audio, Image, Item, Text

LENGTHS = [(5, 4, 7), (2, 4, 3), (9, 4, 1)]  # of the frames, patches and words of three items


def build(folder, speech_layer=1, image_layer=1, **options):
    torch.manual_seed(0)
    backbone = Backbone.load(folder, **options)
    speech = ContinuousFrontend(6, backbone.width, 1.0, hidden=8, stride=1, heads=2, layers=1, entry_layer=speech_layer)
    image = PatchFrontend(5, backbone.width, 1.0, hidden=8, heads=2, layers=1, entry_layer=image_layer)
    return DualEncoder(backbone, {"speech": speech, "image": image}, dim=5).eval()


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(AutoTokenizer.from_pretrained(tiny_llm("gemma3_text")))


def rows(order):
    """Items of columns in this order; words in other numbers in each."""
    draw = np.random.default_rng(1)
    out = []
    for frames, patches, words in LENGTHS:
        made = {"speech": draw.normal(size=(frames, 6)), "image": draw.normal(size=(patches, 5)),
                "written": draw.integers(4, 200, words), "text": draw.integers(4, 200, words % 3 + 1)}  # fmt: skip
        out.append([(name, made[name] if name in ("written", "text") else made[name].astype("f4")) for name in order])
    return out


def by_hand(model, items, entry):
    """Each item alone: texts run through the whole LLM with a hook that looks, the item with a hook that replaces."""
    layers = model.backbone.layers
    out = []
    for item in items:
        parts, lower, own = [], [], []
        for name, values in item:
            column = pad_sequences([values])
            if name in ("text", "written"):
                hidden = model.backbone.embed(column.values)
            else:
                hidden, _ = model.frontends[name](column, model.backbone.embedding)
            parts.append(hidden)
            seen = []
            if name == "written":
                handle = layers[entry].register_forward_pre_hook(lambda _, given, s=seen: s.append(given[0]))
                model.backbone(hidden, column.mask)
                handle.remove()
            lower.append(seen[0] if seen else torch.zeros_like(hidden))
            own += [name == "written"] * hidden.shape[1]
        lower, own = torch.cat(lower, 1), torch.tensor(own)

        class Entering(torch.nn.Module):
            def __init__(self, layer, states, where):
                super().__init__()
                self.layer, self.states, self.where = layer, states, where

            def __getattr__(self, name):  # what the model asks of its layer
                try:
                    return super().__getattr__(name)
                except AttributeError:
                    return getattr(super().__getattr__("layer"), name)

            def forward(self, hidden, *args, **named):
                hidden = torch.where(self.where[None, :, None], self.states, hidden)
                return self.layer(hidden, *args, **named)

        hidden = torch.cat(parts, 1)
        mask, before = torch.ones(hidden.shape[:2], dtype=torch.bool), layers[entry]
        layers[entry] = Entering(before, lower, own)
        out.append(model.project(mean_pool(model.backbone(hidden, mask, entry), mask)))
        layers[entry] = before
    return torch.cat(out)


ORDERS = [["text", "speech", "written"], ["written", "speech"], ["text", "image", "written", "speech", "written"]]


@pytest.mark.parametrize("llm", ["gemma3_text", "qwen3", "bert", "modernbert", "mt5", "t5gemma"])
@pytest.mark.parametrize("order", ORDERS)
def test_text_goes_through_the_lower_layers_on_its_own(tiny_llm, llm, order):
    model, items = build(tiny_llm(llm)), rows(order)
    with torch.no_grad():
        together = model.encode(pad_items(items))
        torch.testing.assert_close(together, by_hand(model, items, 1), atol=1e-5, rtol=1e-4)
        raw = [[("text" if name == "written" else name, values) for name, values in item] for item in items]
        assert (model.encode(pad_items(raw)) - together).abs().amax(-1).min() > 1e-4
        assert torch.equal(model.encode(pad_items(items)), together), "nothing of a pass is left"


@pytest.mark.parametrize("order", ORDERS)
def test_at_the_input_it_makes_no_difference_whose_words_they_are(tiny_llm, order):
    model, items = build(tiny_llm("gemma3_text"), 0, 0), rows(order)
    raw = [[("text" if name == "written" else name, values) for name, values in item] for item in items]
    with torch.no_grad():
        assert torch.equal(model.encode(pad_items(items)), model.encode(pad_items(raw)))


def test_the_words_of_a_prompt_alone_enter_with_the_medium_as_before(tiny_llm):
    """Golden: what an item of one medium is, written out."""
    model, items = build(tiny_llm("gemma3_text")), rows(["text", "speech"])
    inputs = pad_items(items)
    (_, words), (_, speech) = inputs.columns
    with torch.no_grad():
        hidden, real = model.frontends["speech"](speech, model.backbone.embedding)
        hidden = torch.cat([model.backbone.embed(words.values), hidden], dim=1)
        hidden, mask = compact(hidden, torch.cat([words.mask, real], dim=1))
        assert torch.equal(model.encode(inputs), model.project(mean_pool(model.backbone(hidden, mask, 1), mask)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_layer_learns_from_an_item_of_all(tiny_llm, checkpointing):
    model = build(tiny_llm("gemma3_text"), gradient_checkpointing=checkpointing)
    model.encode(pad_items(rows(ORDERS[2]))).square().sum().backward()
    for layer in model.backbone.layers:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    below = [p.grad.abs().sum() for p in model.backbone.layers[0].parameters()]
    assert max(below) > 0, "through the words"
    plain = build(tiny_llm("gemma3_text"))
    plain.encode(pad_items(rows(ORDERS[2]))).square().sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


FRAMES, PATCHES = np.random.default_rng(0).normal(size=(5, 6)), np.random.default_rng(1).normal(size=(4, 5))
CLIP, PICTURE = Audio(FRAMES.astype("f4")), Image(PATCHES.astype("f4"))


def stored(media):
    return [[part.content] for _, part in media]


def test_items_of_every_make_up_have_the_vectors_that_they_have_alone(tiny_llm, prompt):
    model = build(tiny_llm("gemma3_text"))
    words = Text("is it there?")
    makes = [(CLIP,), (PICTURE,), (words,), (words, CLIP), (CLIP, words), (PICTURE, CLIP), (CLIP, PICTURE),
             (words, PICTURE), (PICTURE, words, CLIP), (PICTURE, PICTURE)]  # fmt: skip
    items = [Item(*parts, lang="fr_fr") for parts in makes]
    vectors = embed_items(model, prompt, items, stored).vectors
    assert len(np.unique(np.round(vectors, 4), axis=0)) == len(makes)
    for item, vector in zip(items, vectors, strict=True):
        np.testing.assert_allclose(embed_items(model, prompt, [item], stored).vectors[0], vector, atol=1e-5)


def test_media_that_enter_at_different_layers_are_refused_and_what_would_do_is_named(tiny_llm, prompt):
    model, read = build(tiny_llm("gemma3_text"), 1, 0), []
    alone = [Item(CLIP), Item(PICTURE), Item(Text("a"), PICTURE), Item(Text("a"), CLIP)]
    assert embed_items(model, prompt, alone, stored).vectors.shape == (4, 5)
    mixed = Item(PICTURE, CLIP, Text("a"), id="a mixture")
    with pytest.raises(ConfigError) as error:
        embed_items(model, prompt, [*alone, mixed], lambda media: read.append(media) or stored(media))
    for words in ("'a mixture'", "image at layer 0", "speech at layer 1", "model.image_layer=null", "of its own"):
        assert words in str(error.value)
    assert not read  # before anything is decoded


def test_a_medium_without_a_frontend_is_refused(tiny_llm, prompt):
    model = build(tiny_llm("gemma3_text"))
    model = DualEncoder(model.backbone, {"speech": model.frontends["speech"]}, dim=5)
    with pytest.raises(ConfigError, match=r"no frontend for image; it reads text, speech"):
        embed_items(model, prompt, [Item(Text("a"), PICTURE)], stored)


def test_an_image_layer_that_does_not_exist_is_refused(tiny_llm):
    with pytest.raises(ConfigError, match=r"model\.image_layer=2 is not a layer.*0 to 1"):
        build(tiny_llm("gemma3_text"), 1, 2)
