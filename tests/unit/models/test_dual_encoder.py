"""An embedding depends on its own utterance and prefix, and on nothing that shares its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde.errors import ConfigError
from speechde.features.units import UnitFrontend
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend

UNITS, FRAME_DIM = 12, 6
LENGTHS = [9, 3, 17]
PREFIXES = [[1, 60, 61, 62, 63, 64, 65], [1], [1, 70, 71]]  # of different lengths, in one batch


@pytest.fixture(params=["units", "continuous"])
def kind(request):
    return request.param


def build(tiny_llm, kind="units", model_type="gemma3_text", **options):
    units = UNITS if kind == "units" else 0
    backbone = Backbone.load(tiny_llm(model_type), audio_tokens=units)
    if kind == "units":
        frontend = UnitFrontend(UNITS)
    else:
        frontend = ContinuousFrontend(FRAME_DIM, backbone.width, 1.0, hidden=8, heads=2, layers=1)
    return DualEncoder(backbone, frontend, **options).eval()


def speech_items(kind):
    draw = np.random.default_rng(5)
    if kind == "units":
        return [draw.integers(0, UNITS, n).astype(np.int32) for n in LENGTHS]
    return [draw.normal(size=(n, FRAME_DIM)).astype(np.float32) for n in LENGTHS]


def speech(model, items, prefixes):
    prefix = pad_sequences([np.array(p) for p in prefixes])
    with torch.no_grad():
        return model.encode_speech(pad_sequences(items), prefix)


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
        together = model.encode_text(pad_sequences(items))
        for i, item in enumerate(items):
            alone = model.encode_text(pad_sequences([item]))
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
        written = model.encode_text(pad_sequences([tokens]))
    torch.testing.assert_close(speech(model, [units], PREFIXES[:1]), written)


def test_text_states_then_project_is_encode_text(tiny_llm):
    model = build(tiny_llm, normalise=True)
    text = pad_sequences([np.array([1, 9, 30]), np.array([1, 4])])
    assert torch.equal(model.project(model.text_states(text)), model.encode_text(text))


def test_normalise_gives_unit_vectors_in_the_same_direction(tiny_llm, kind):
    model, items = build(tiny_llm, kind, dim=5), speech_items(kind)
    plain = speech(model, items, PREFIXES)
    model.normalise = True
    unit = speech(model, items, PREFIXES)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3))
    assert (plain.norm(dim=-1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(unit, plain / plain.norm(dim=-1, keepdim=True))


def test_dim_and_identity_projection(tiny_llm):
    text = pad_sequences([np.array([1, 9, 30])])
    model = build(tiny_llm, projection_init="identity")
    assert model.dim == 16
    assert torch.equal(model.encode_text(text), model.text_states(text))
    narrow = build(tiny_llm, dim=5, projection_init="identity")
    assert narrow.dim == 5
    torch.testing.assert_close(narrow.encode_text(text), narrow.text_states(text)[:, :5])
    with pytest.raises(ConfigError, match=r"model\.projection_init: 'ident' is not known; allowed: identity, random"):
        build(tiny_llm, projection_init="ident")


def test_gradient_reaches_what_feeds_a_frozen_llm(tiny_llm, kind):
    model, items = build(tiny_llm, kind), speech_items(kind)
    model.backbone.freeze(["*"])
    model.encode_speech(pad_sequences(items), pad_sequences([np.array(p) for p in PREFIXES])).sum().backward()
    inputs = [model.backbone.embedding.audio] if kind == "units" else list(model.frontend.parameters())
    for parameter in [*inputs, model.projection.weight]:
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
    assert model.backbone.embedding.text.weight.grad is None


@pytest.mark.parametrize("buckets", [2, 3, 5])
def test_buckets_equal_one_padded_batch(tiny_llm, kind, buckets):
    model, items = build(tiny_llm, kind), speech_items(kind)
    batch, prefix = pad_sequences(items), pad_sequences([np.array(p) for p in PREFIXES])
    whole = model.encode_speech(batch, prefix)
    torch.testing.assert_close(model.encode_speech(batch, prefix, buckets), whole, atol=1e-5, rtol=1e-4)
    text = pad_sequences([np.arange(1, n + 1) * 7 % 250 for n in LENGTHS])
    torch.testing.assert_close(model.encode_text(text, buckets), model.encode_text(text), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["gemma3_text", "bert", "llama"])
def test_speech_entering_at_a_layer_skips_those_below_it_and_only_for_speech(tiny_llm, kind, model_type):
    model, items = build(tiny_llm, kind, model_type, speech_layer=1), speech_items(kind)
    text = pad_sequences([np.arange(1, n + 1) * 7 % 250 for n in LENGTHS])
    with torch.no_grad():
        speech_before, text_before = speech(model, items, PREFIXES), model.encode_text(text)
        for parameter in model.backbone.layers[0].parameters():
            parameter.add_(torch.randn_like(parameter))
        assert torch.equal(speech(model, items, PREFIXES), speech_before)
        assert (model.encode_text(text) - text_before).abs().max() > 1e-3
        for parameter in model.backbone.layers[1].parameters():
            parameter.add_(torch.randn_like(parameter))
        assert (speech(model, items, PREFIXES) - speech_before).abs().max() > 1e-3


def test_a_speech_layer_that_does_not_exist_is_refused(tiny_llm):
    with pytest.raises(ConfigError, match=r"speech_layer=2.*0 to\s*1"):
        build(tiny_llm, speech_layer=2)
