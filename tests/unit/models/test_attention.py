"""The mask itself, position by position."""

from __future__ import annotations

import pytest
import torch

from speechde.errors import ConfigError
from speechde.models.attention import attention_direction, bidirectional_mask

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


def test_directions():
    assert attention_direction("gemma3_text", "bidirectional") == "bidirectional"
    assert attention_direction("bert", "bidirectional") == "bidirectional"
    assert attention_direction("gpt2", "causal") == "causal"
    for model_type, requested in (("bert", "causal"), ("gpt2", "bidirectional"), ("llama", "both")):
        with pytest.raises(ConfigError, match=r"bert, gemma3_text, llama, .*attention\.py"):
            attention_direction(model_type, requested)
