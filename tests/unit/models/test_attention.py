"""The mask itself, position by position."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from speechde.errors import ConfigError
from speechde.models.attention import attention_direction, bidirectional_mask, decoder_arguments

MASK = torch.tensor([[True, True, True, True, True, True], [True, True, False, False, False, False]])


def test_full_mask_shows_every_real_position_to_everyone():
    visible = bidirectional_mask(MASK)
    assert visible.shape == (2, 1, 6, 6) and visible.dtype == torch.bool
    for row in range(2):
        for query in range(6):
            assert visible[row, 0, query].tolist() == MASK[row].tolist()


@pytest.mark.parametrize("window", [1, 2, 3, 5, 6, 9])
def test_window_against_a_loop(window):
    visible = bidirectional_mask(MASK, window)
    for row in range(2):
        for query in range(6):
            for key in range(6):
                expected = bool(MASK[row, key]) and abs(query - key) < window
                if MASK[row, query]:
                    assert visible[row, 0, query, key] == expected
    assert visible.any(-1).all(), "an empty row would make the softmax NaN"


def config(model_type, **values):
    return SimpleNamespace(model_type=model_type, **values)


def test_directions():
    assert attention_direction(config("gemma3_text"), "bidirectional") == "bidirectional"
    assert attention_direction(config("bert"), "bidirectional") == "bidirectional"
    assert attention_direction(config("gpt2"), "causal") == "causal"
    embedding_gemma = config("gemma3_text", use_bidirectional_attention=True)
    assert attention_direction(embedding_gemma, "bidirectional") == "bidirectional"
    for one, requested in (
        (config("bert"), "causal"),
        (config("gpt2"), "bidirectional"),
        (config("llama"), "both"),
        (embedding_gemma, "causal"),
        (config("gemma4_text"), "causal"),  # looks token ids up in every layer
    ):
        with pytest.raises(ConfigError, match=r"bert, embedding_gemma2_text, gemma2, .*attention\.py"):
            attention_direction(one, requested)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_masks_by_layer_type_and_kernel(kernel):
    full, near = bidirectional_mask(MASK), bidirectional_mask(MASK, 2)
    visible = (lambda m: m) if kernel == "sdpa" else (lambda m: m == 0)
    typed = config("gemma3_text", _attn_implementation=kernel, layer_types=["full_attention"], sliding_window=2)
    masks = decoder_arguments(typed, MASK)["attention_mask"]
    assert torch.equal(visible(masks["full_attention"]), full)
    assert torch.equal(visible(masks["sliding_attention"]), near)
    mistral = config("mistral", _attn_implementation=kernel, sliding_window=2)
    assert torch.equal(visible(decoder_arguments(mistral, MASK)["attention_mask"]), near)
    llama = config("llama", _attn_implementation=kernel)
    assert torch.equal(visible(decoder_arguments(llama, MASK)["attention_mask"]), full)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "kernels-community/flash-attn2"])
def test_flash_attention_gets_the_padding_and_is_told_not_to_be_causal(kernel):
    arguments = decoder_arguments(config("llama", _attn_implementation=kernel), MASK)
    assert arguments["is_causal"] is False and arguments["attention_mask"].tolist() == MASK.long().tolist()
