"""The adapter shortens, keeps padding out, and starts at the scale of the LLM's own embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from speechde.errors import ConfigError
from speechde.models.frontends.adapter import AttentionPooling, SinusoidalPositions
from speechde.models.frontends.base import pad_sequences
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.vocabulary import ExtendedEmbedding

DIM, WIDTH = 5, 16
EMBEDDING = ExtendedEmbedding(nn.Embedding(4, WIDTH))


def build(**options):
    options = {"hidden": 8, "heads": 2, "layers": 1, "embedding_std": 0.3} | options
    return ContinuousFrontend(DIM, WIDTH, **options).eval()


def items(*lengths):
    draw = np.random.default_rng(0)
    return [draw.normal(size=(n, DIM)).astype(np.float32) for n in lengths]


STRIDES = [("conv", 1), ("conv", 2), ("conv", 4), ("conv", 8), ("attention", 1), ("attention", 3), ("attention", 4)]


@pytest.mark.parametrize(("downsample", "stride"), STRIDES)
def test_stride_shortens_the_sequence(downsample, stride):
    out, mask = build(stride=stride, downsample=downsample)(pad_sequences(items(21, 8, 1)), EMBEDDING)
    assert out.shape == (3, -(-21 // stride), WIDTH)
    assert mask.sum(1).tolist() == [-(-n // stride) for n in (21, 8, 1)]


@pytest.mark.parametrize("grad", [True, False])  # without gradients torch takes its fused layer
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize(("downsample", "stride"), STRIDES)
def test_padding_does_not_change_the_output(downsample, stride, layers, grad):
    frontend, clips = build(stride=stride, downsample=downsample, layers=layers), items(7, 30, 8)
    frontend.set_statistics(torch.full((DIM,), 2.0), torch.full((DIM,), 0.5))  # padding is not zero once standardised
    with torch.set_grad_enabled(grad):
        together, mask = frontend(pad_sequences(clips), EMBEDDING)
        for i, clip in enumerate(clips):
            alone, _ = frontend(pad_sequences([clip]), EMBEDDING)
            torch.testing.assert_close(together[i][mask[i]], alone[0], atol=1e-5, rtol=1e-4)


def test_statistics_standardise_and_are_saved():
    frontend, clip = build(), items(12)[0]
    plain, _ = frontend(pad_sequences([clip]), EMBEDDING)
    frontend.set_statistics(torch.full((DIM,), 3.0), torch.full((DIM,), 2.0))
    shifted, _ = frontend(pad_sequences([clip * 2 + 3]), EMBEDDING)
    torch.testing.assert_close(shifted, plain, atol=1e-5, rtol=1e-4)
    other = build()
    other.load_state_dict(frontend.state_dict())
    assert torch.equal(other.frame_mean, torch.full((DIM,), 3.0))
    assert torch.equal(other(pad_sequences([clip]), EMBEDDING)[0], frontend(pad_sequences([clip]), EMBEDDING)[0])


def test_output_starts_at_the_scale_of_the_text_embeddings():
    out, _ = build(embedding_std=0.3)(pad_sequences(items(40)), EMBEDDING)
    assert float(out.detach().std()) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("downsample", ["conv", "attention"])
def test_every_parameter_gets_a_finite_gradient(downsample):
    frontend = build(dropout=0.1, downsample=downsample, mask_features=2).train()
    (frontend(pad_sequences(items(9, 4)), EMBEDDING)[0] ** 3).sum().backward()
    for name, parameter in frontend.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_attention_pooling_weights_by_content_and_place():
    pooling, hidden = AttentionPooling(4, 2, 2), torch.randn(1, 5, 4)
    mask = torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        pooling.value.weight.copy_(torch.eye(4))
        pooling.value.bias.zero_()
        for parameter in pooling.score.parameters():
            parameter.zero_()
        even, _ = pooling(hidden, mask)
        expected = torch.stack([hidden[0, :2].mean(0), hidden[0, 2:4].mean(0), hidden[0, 4]])
        torch.testing.assert_close(even[0], expected)
        pooling.place[0, 0] = 50.0  # the first head takes the first frame of a group
        first, _ = pooling(hidden, mask)
        torch.testing.assert_close(first[0, :, :2], hidden[0, ::2, :2])
        torch.testing.assert_close(first[0, :, 2:], expected[:, 2:])
        pooling.score.weight[1, 3] = 100.0  # the second, the frame with the larger last value
        best = hidden[0, :4, 3].view(2, 2).argmax(1) + torch.tensor([0, 2])
        torch.testing.assert_close(pooling(hidden, mask)[0][0, :2, 2:], hidden[0, best, 2:], atol=1e-3, rtol=1e-3)


def test_feature_mask_is_one_band_a_clip():
    frontend = build(mask_features=3, dropout=0.0, stride=1).train()
    seen = []
    frontend.input.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for _ in range(30):
        frontend(pad_sequences([np.ones((6, DIM), np.float32)] * 4), EMBEDDING)
    values = torch.cat(seen)
    assert (values == values[:, :1]).all()  # the same features at all times
    rows = ["".join("01"[int(v)] for v in clip) for clip in values[:, 0].tolist()]
    assert all("0" not in row.strip("1").strip("0") and "1" not in row.strip("1") for row in rows)
    assert {row.count("0") for row in rows} == {0, 1, 2, 3} and len(set(rows)) > 8


@pytest.mark.parametrize("options", [{"drop": 0.5, "drop_span": 2}, {"noise": 0.5}, {"mask_features": 4}])
def test_augmentation_acts_in_training_only(options):
    frontend, speech = build(dropout=0.0, stride=1, **options), pad_sequences(items(60))
    quiet = [frontend.eval()(speech, EMBEDDING)[0] for _ in range(2)]
    loud = [frontend.train()(speech, EMBEDDING)[0] for _ in range(2)]
    assert torch.equal(*quiet)
    assert loud[0].shape != loud[1].shape or not torch.equal(*loud)
    assert (loud[0].shape[1] < 60) == ("drop" in options)


def test_positions_tell_order_and_extend():
    table = SinusoidalPositions(8)(torch.zeros(1, 50, 8))
    assert table.shape == (50, 8)
    assert (torch.cdist(table, table) + torch.eye(50)).min() > 0.1
    assert torch.equal(table[:10], SinusoidalPositions(8)(torch.zeros(1, 10, 8)))


def test_without_layers_only_positions_tell_order():
    """An LLM that is entered above its input may add none of its own."""
    (clip,) = items(6)
    plain, placed = build(layers=0, stride=1), build(layers=0, stride=1, positions=True)
    placed.load_state_dict(plain.state_dict())
    forward, backward = (pad_sequences([rows]) for rows in (clip, clip[::-1].copy()))
    torch.testing.assert_close(plain(backward, EMBEDDING)[0].flip(1), plain(forward, EMBEDDING)[0])
    assert (placed(backward, EMBEDDING)[0].flip(1) - placed(forward, EMBEDDING)[0]).abs().max() > 0.1


def test_config_errors():
    for stride in (0, 3, 6):
        with pytest.raises(ConfigError, match=rf"frontend\.stride={stride} is not a power of two"):
            build(stride=stride)
    with pytest.raises(ConfigError, match=r"frontend\.hidden=8 is not a multiple of frontend\.heads=3"):
        build(heads=3)
    with pytest.raises(ConfigError, match=r"frontend\.downsample: 'mean' is not known; allowed: attention, conv"):
        build(downsample="mean")
    with pytest.raises(ConfigError, match=r"frontend\.stride=0 "):
        build(downsample="attention", stride=0)
    for band in (-1, DIM + 1):
        with pytest.raises(ConfigError, match=rf"frontend\.mask_features={band} is not possible; use 0 to {DIM}"):
            build(mask_features=band)
