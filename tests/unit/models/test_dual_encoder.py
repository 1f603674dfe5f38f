"""An embedding depends on its own utterance and prefix, and on nothing that shares its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde.errors import ConfigError
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import compact, pad_items, pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.models.pooling import mean_pool
from speechde.types import Inputs

UNITS, FRAME_DIM = 12, 6
LENGTHS = [9, 3, 17]
PREFIXES = [[1, 60, 61, 62, 63, 64, 65], [1], [1, 70, 71]]  # of different lengths, in one batch


@pytest.fixture(params=["units", "continuous"])
def kind(request):
    return request.param


def build(tiny_llm, kind="units", model_type="gemma3_text", entry_layer=0, attention="bidirectional", **options):
    units = UNITS if kind == "units" else 0
    backbone = Backbone.load(tiny_llm(model_type), audio_tokens=units, attention=attention)
    if kind == "units":
        frontend = UnitFrontend(UNITS, entry_layer=entry_layer)
    else:
        adapter = {"hidden": 8, "heads": 2, "layers": 1, "entry_layer": entry_layer}
        frontend = ContinuousFrontend(FRAME_DIM, backbone.width, 1.0, **adapter)
    return DualEncoder(backbone, {"speech": frontend}, **options).eval()


def speech_items(kind):
    draw = np.random.default_rng(5)
    if kind == "units":
        return [draw.integers(0, UNITS, n).astype(np.int32) for n in LENGTHS]
    return [draw.normal(size=(n, FRAME_DIM)).astype(np.float32) for n in LENGTHS]


def prompted(items, prefixes):
    return pad_items([[("text", np.array(p)), ("speech", item)] for p, item in zip(prefixes, items, strict=True)])


def texts(items):
    return pad_items([[("text", np.asarray(item))] for item in items])


def speech(model, items, prefixes):
    with torch.no_grad():
        return model.encode(prompted(items, prefixes))


@pytest.mark.parametrize("model_type", ["gemma3_text", "bert"])
def test_speech_embeddings_do_not_depend_on_the_batch(tiny_llm, kind, model_type):
    model, items = build(tiny_llm, kind, model_type), speech_items(kind)
    together = speech(model, items, PREFIXES)
    assert together.shape == (3, 16) and together.dtype == torch.float32
    for i, item in enumerate(items):
        torch.testing.assert_close(together[i : i + 1], speech(model, [item], [PREFIXES[i]]), atol=1e-5, rtol=1e-4)
    order = [2, 0, 1]
    shuffled = speech(model, [items[i] for i in order], [PREFIXES[i] for i in order])
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["gemma3_text", "bert"])
def test_text_embeddings_do_not_depend_on_the_batch(tiny_llm, model_type):
    model = build(tiny_llm, model_type=model_type)
    items = [np.arange(1, n + 1) * 7 % 250 for n in LENGTHS]
    with torch.no_grad():
        together = model.encode(texts(items))
        for i, item in enumerate(items):
            alone = model.encode(texts([item]))
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_prefix_changes_the_embedding(tiny_llm, kind):
    model, items = build(tiny_llm, kind), speech_items(kind)[:1]
    first, second = speech(model, items, [[1, 60, 61]]), speech(model, items, [[1, 60, 62]])
    assert (first - second).abs().max() > 1e-3
    assert not torch.equal(first, speech(model, speech_items(kind)[1:2], [[1, 60, 61]]))


def test_unit_speech_is_read_as_the_same_tokens_written_out(tiny_llm):
    model = build(tiny_llm)
    units = speech_items("units")[0]
    tokens = np.concatenate([PREFIXES[0], units + model.backbone.embedding.text_tokens])
    with torch.no_grad():
        written = model.encode(texts([tokens]))
    torch.testing.assert_close(speech(model, [units], PREFIXES[:1]), written)


def test_states_then_project_is_encode(tiny_llm, kind):
    model = build(tiny_llm, kind, normalise=True)
    for inputs in (texts([[1, 9, 30], [1, 4]]), prompted(speech_items(kind), PREFIXES)):
        assert torch.equal(model.project(model.states(inputs)), model.encode(inputs))


def test_normalise_gives_unit_vectors_in_the_same_direction(tiny_llm, kind):
    model, items = build(tiny_llm, kind, dim=5), speech_items(kind)
    plain = speech(model, items, PREFIXES)
    model.normalise = True
    unit = speech(model, items, PREFIXES)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3))
    assert (plain.norm(dim=-1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(unit, plain / plain.norm(dim=-1, keepdim=True))


def test_dim_and_identity_projection(tiny_llm):
    text = texts([[1, 9, 30]])
    model = build(tiny_llm, projection_init="identity")
    assert model.dim == 16
    assert torch.equal(model.encode(text), model.states(text))
    narrow = build(tiny_llm, dim=5, projection_init="identity")
    assert narrow.dim == 5
    torch.testing.assert_close(narrow.encode(text), narrow.states(text)[:, :5])
    with pytest.raises(ConfigError, match=r"model\.projection_init: 'ident' is not known; allowed: identity, random"):
        build(tiny_llm, projection_init="ident")


def test_gradient_reaches_what_feeds_a_frozen_llm(tiny_llm, kind):
    model, items = build(tiny_llm, kind), speech_items(kind)
    model.backbone.freeze(["*"])
    model.encode(prompted(items, PREFIXES)).sum().backward()
    inputs = [model.backbone.embedding.audio] if kind == "units" else list(model.frontends.parameters())
    for parameter in [*inputs, model.projection.weight]:
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
    assert model.backbone.embedding.text.weight.grad is None


@pytest.mark.parametrize("buckets", [2, 3, 5])
def test_buckets_equal_one_padded_batch(tiny_llm, kind, buckets):
    model, items = build(tiny_llm, kind), speech_items(kind)
    text = texts([np.arange(1, n + 1) * 7 % 250 for n in LENGTHS])
    for batch in (prompted(items, PREFIXES), text):
        torch.testing.assert_close(model.encode(batch, buckets), model.encode(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["gemma3_text", "bert", "llama"])
def test_speech_entering_at_a_layer_skips_those_below_it_and_only_for_speech(tiny_llm, kind, model_type):
    model, items = build(tiny_llm, kind, model_type, entry_layer=1), speech_items(kind)
    text = texts([np.arange(1, n + 1) * 7 % 250 for n in LENGTHS])
    with torch.no_grad():
        speech_before, text_before = speech(model, items, PREFIXES), model.encode(text)
        for parameter in model.backbone.layers[0].parameters():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(speech(model, items, PREFIXES), speech_before)
        assert (model.encode(text) - text_before).abs().max() > 1e-3
        for parameter in model.backbone.layers[1].parameters():
            parameter.add_(torch.randn_like(parameter))
        assert (speech(model, items, PREFIXES) - speech_before).abs().max() > 1e-3


def test_a_speech_layer_that_does_not_exist_is_refused(tiny_llm):
    with pytest.raises(ConfigError, match=r"speech_layer=2.*0 to\s*1"):
        build(tiny_llm, entry_layer=2)


def by_hand(model, words, items=None):
    """Texts, or speech after its prefix: each step of the dual encoder written out for this make-up alone."""
    words, frontend, entry = pad_sequences([np.asarray(ids) for ids in words]), model.frontends["speech"], 0
    hidden, mask = model.backbone.embed(words.values), words.mask
    if items is not None:
        frames, real = frontend(pad_sequences(items), model.backbone.embedding)
        hidden = torch.cat([hidden.to(frames.dtype), frames], dim=1)
        (hidden, mask), entry = compact(hidden, torch.cat([mask, real], dim=1)), frontend.entry_layer
    return model.project(mean_pool(model.backbone(hidden, mask, entry), mask))


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("entry_layer", [0, 1])
def test_the_columns_of_speech_and_of_text_give_bit_for_bit_what_is_written_out(tiny_llm, kind, attention, entry_layer):
    options = {"entry_layer": entry_layer, "attention": attention, "dim": 5, "normalise": True}
    model, items = build(tiny_llm, kind, **options), speech_items(kind)
    written = [np.arange(1, n + 1) * 7 % 250 for n in LENGTHS]
    with torch.no_grad():
        assert torch.equal(model.encode(prompted(items, PREFIXES)), by_hand(model, PREFIXES, items))
        assert torch.equal(model.encode(texts(written)), by_hand(model, written))
        # a prefix may be empty: then, in the whole batch, there is no column of it
        empty = [np.array([], np.int64)] * len(items)
        bare, same = prompted(items, empty), Inputs([("speech", pad_sequences(items))])
        assert [modality for modality, _ in bare.columns] == ["speech"]
        assert torch.equal(model.encode(bare), model.encode(same))


@pytest.mark.parametrize(("llm", "adapter"), [("bfloat16", torch.float32), ("float32", torch.bfloat16)])
def test_words_beside_a_medium_are_read_in_its_precision(tiny_llm, llm, adapter):
    backbone = Backbone.load(tiny_llm("gemma3_text"), dtype=llm)
    frontend = ContinuousFrontend(FRAME_DIM, backbone.width, 1.0, hidden=8, heads=2, layers=1).to(adapter)
    model, items = DualEncoder(backbone, {"speech": frontend}).eval(), speech_items("continuous")
    with torch.no_grad():
        expected = by_hand(model, PREFIXES, items)
        assert torch.equal(model.encode(prompted(items, PREFIXES)), expected)


@pytest.mark.parametrize("order", [["speech", "text"], ["text", "speech", "text"], ["speech", "text", "speech"]])
def test_parts_are_read_in_their_order_and_rows_do_not_share_anything(tiny_llm, kind, order):
    model, clips = build(tiny_llm, kind), speech_items(kind)
    lengths = {place: np.roll(LENGTHS, place) for place in range(3)}  # other lengths in each column
    rows = [
        [(name, clips[(row + place) % 3] if name == "speech" else np.arange(1, lengths[place][row] + 1))
         for place, name in enumerate(order)]
        for row in range(3)
    ]  # fmt: skip
    with torch.no_grad():
        together = model.encode(pad_items(rows))
        torch.testing.assert_close(model.encode(pad_items(rows), 2), together, atol=1e-5, rtol=1e-4)
        for row, vector in zip(rows, together, strict=True):
            torch.testing.assert_close(model.encode(pad_items([row]))[0], vector, atol=1e-5, rtol=1e-4)
        turned = model.encode(pad_items([[*row[1:], row[0]] for row in rows]))
    assert (turned - together).abs().amax(-1).min() > 1e-3
