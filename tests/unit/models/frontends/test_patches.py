"""Patches → input embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from speechde.errors import ConfigError
from speechde.models.frontends.base import Frontend, pad_sequences
from speechde.models.frontends.patches import PatchFrontend

DIM, WIDTH = 6, 16


def pictures(counts=(4, 9, 1)):
    draw = np.random.default_rng(0)
    return pad_sequences([draw.normal(3.0, 2.0, size=(n, DIM)).astype(np.float32) for n in counts])


def build(**options):
    return PatchFrontend(DIM, WIDTH, 0.25, **{"hidden": 8, "heads": 2} | options).eval()


@pytest.mark.parametrize("layers", [0, 2])
def test_a_position_for_each_patch_at_the_scale_of_the_llm(layers):
    frontend, column = build(layers=layers), pictures()
    out, mask = frontend(column, None)
    assert isinstance(frontend, Frontend) and frontend.stride == 1 and frontend.audio_tokens == 0
    assert out.shape == (3, 9, WIDTH) and torch.equal(mask, column.mask)
    assert out[mask].std().item() == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(("layers", "stride"), [(0, 1), (2, 1), (0, 3), (1, 4)])
def test_a_picture_does_not_depend_on_the_batch(layers, stride):
    frontend, column = build(layers=layers, stride=stride), pictures()
    together, mask = frontend(column, None)
    assert mask.sum(1).tolist() == [-(-count // stride) for count in (4, 9, 1)]
    for row, count in enumerate((4, 9, 1)):
        alone, _ = frontend(pad_sequences([column.values[row, :count].numpy()]), None)
        torch.testing.assert_close(alone[0], together[row, mask[row]], atol=1e-5, rtol=1e-4)


def test_layers_know_where_a_patch_is_and_a_projection_alone_does_not():
    column = pictures((5,))
    turned = pad_sequences([column.values[0].flip(0).numpy()])
    for layers, same in ((0, True), (1, False)):
        frontend = build(layers=layers)
        assert torch.allclose(frontend(turned, None)[0].flip(1), frontend(column, None)[0], atol=1e-5) == same


def test_statistics_standardise_the_input():
    frontend, column = build(), pictures()
    values = column.values[column.mask]
    before, _ = frontend(column, None)
    frontend.set_statistics(values.mean(0), values.std(0))
    plain = build()
    plain.load_state_dict(frontend.state_dict())
    plain.set_statistics(torch.zeros(DIM), torch.ones(DIM))
    scaled = pad_sequences([((row[m] - values.mean(0)) / values.std(0)).numpy()
                            for row, m in zip(column.values, column.mask, strict=True)])  # fmt: skip
    torch.testing.assert_close(frontend(column, None)[0][column.mask], plain(scaled, None)[0][column.mask])
    assert (frontend(column, None)[0] - before).abs().max() > 1e-3


def test_patches_are_left_out_in_training_alone():
    frontend, column = build(drop=0.5, dropout=0.0), pictures((200, 200))
    assert frontend(column, None)[1].all()
    out, mask = frontend.train()(column, None)
    assert 70 < mask.sum(1).min() < mask.sum(1).max() < 130 and out.shape[1] == mask.shape[1]


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"image\.hidden=8 is not a multiple of image\.heads=3"):
        build(heads=3)
