"""On a GPU no step waits for a number: shapes come from lengths that are known on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde.errors import DataError
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.types import Inputs, Sequences


@pytest.fixture(params=["units", "frames"])
def model(request, tiny_llm):
    backbone = Backbone.load(tiny_llm("bert"), audio_tokens=12 if request.param == "units" else 0)
    if request.param == "units":
        return DualEncoder(backbone, {"speech": UnitFrontend(12, drop=0.4)}).eval()
    frontend = ContinuousFrontend(6, 16, 1.0, hidden=8, heads=2, layers=1, stride=2, drop=0.4, dropout=0.0)
    return DualEncoder(backbone, {"speech": frontend}).eval()


@pytest.fixture
def speech(model):
    draw = np.random.default_rng(0)
    shape = (6,) if isinstance(model.frontends["speech"], ContinuousFrontend) else ()
    items = [np.abs(draw.normal(size=(n, *shape))).astype(np.float32) for n in (9, 3, 17, 4)]
    prefix = pad_sequences([np.arange(1, n) for n in (8, 2, 3, 5)])
    spoken = pad_sequences(items if shape else [np.floor(item).astype(np.int32) for item in items])
    return Inputs([("text", prefix), ("speech", spoken)])


@pytest.mark.parametrize("buckets", [1, 2])
def test_vectors_are_the_same_and_nothing_is_read(model, speech, monkeypatch, as_on_a_device, buckets):
    text = Inputs([("text", pad_sequences([np.arange(1, n) for n in (4, 30, 7)]))])
    mixed = Inputs([*speech.columns, ("text", pad_sequences([np.arange(1, n) for n in (3, 9, 2, 6)]))])
    every = speech, text, mixed
    with torch.no_grad():
        expected = [model.encode(inputs, buckets) for inputs in every]
        plain, made = model.backbone.forward, []  # transformers' own code looks whether a mask is needed
        monkeypatch.setattr(model.backbone, "forward", lambda *a: (made.append(a), torch.ones_like(a[0]))[1])
        with as_on_a_device(*every):
            for inputs in every:
                model.encode(inputs, buckets)
        monkeypatch.setattr(model.backbone, "forward", plain)
        found = [model.encode(inputs, buckets) for inputs in every]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert len(made) == 3 * buckets
    for inputs, mask, *_ in made:
        assert inputs.shape[1] == mask.sum(1).max()  # no padding that nobody needs


def test_in_training_what_is_left_out_stays_as_padding_and_changes_nothing(model, speech, as_on_a_device):
    model.frontends.train()
    torch.manual_seed(0)
    expected = model.encode(speech)
    torch.manual_seed(0)
    as_on_a_device()
    torch.testing.assert_close(model.encode(speech), expected, atol=1e-5, rtol=1e-4)


def test_without_lengths_the_vectors_are_the_same(model, speech, as_on_a_device):
    with torch.no_grad():
        expected = model.encode(speech)
        as_on_a_device()
        bare = Inputs([(name, Sequences(column.values, column.mask)) for name, column in speech.columns])
        torch.testing.assert_close(model.encode(bare), expected, atol=1e-6, rtol=1e-5)


def test_on_the_host_a_foreign_unit_is_an_error(tiny_llm):
    frontend, embedding = UnitFrontend(4), Backbone.load(tiny_llm("bert"), audio_tokens=4).embedding
    for unit in (-1, 4):
        with pytest.raises(DataError, match=f"unit {unit} is outside 0…3"):
            frontend(pad_sequences([np.array([0, unit])]), embedding)
