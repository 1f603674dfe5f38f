"""Bidirectional attention for decoder LLMs, by mask and behind an allow-list.

A dual encoder reads the whole input at once, so the causal mask of a decoder only hides information. transformers
(5.x) passes a ready-made 4-D mask through to the attention kernel untouched, which is enough to make a decoder
bidirectional without patching any of its code. Whether an architecture honours such a mask must be tested and not
assumed: a model type enters ``BIDIRECTIONAL_DECODERS`` together with a row in ``tests/unit/models/test_backbone.py``
which checks that a later token changes an earlier state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speechde.errors import ConfigError

BIDIRECTIONAL_DECODERS = frozenset({"gemma3_text", "llama", "mistral", "qwen3"})
ENCODERS = frozenset({"bert", "xlm-roberta", "modernbert"})


def attention_direction(model_type: str, requested: str) -> str:
    """The direction a backbone will run in, ``bidirectional`` or ``causal``; refuses what was not validated.

    Raises:
        ConfigError: the model type is not on the list for the requested direction.
    """
    if requested == "bidirectional" and model_type in BIDIRECTIONAL_DECODERS | ENCODERS:
        return requested
    if requested == "causal" and model_type not in ENCODERS:
        return requested
    allowed = sorted(BIDIRECTIONAL_DECODERS | ENCODERS)
    raise ConfigError(
        f"model.attention={requested!r} is not validated for model type {model_type!r}; bidirectional is validated for "
        f"{', '.join(allowed)}, and causal works for any decoder. To add a type, list it in "
        "speechde/models/attention.py and add its row to tests/unit/models/test_backbone.py."
    )


def bidirectional_mask(mask: Tensor, window: int | None = None) -> Tensor:
    """A ``(batch, 1, time, time)`` bool mask: every real position sees every real position.

    Args:
        mask: ``(batch, time)`` bool, true where real.
        window: keep only positions less than ``window`` apart (the sliding layers of Gemma 3).

    Padding positions see the same real positions as everyone else, so that no softmax row is empty (NaN).
    """
    time = mask.shape[1]
    visible = mask[:, None, None, :].expand(-1, 1, time, -1)
    if window is not None and window < time:
        position = torch.arange(time, device=mask.device)
        near = (position[:, None] - position[None, :]).abs() < window
        # a padding row far from all real positions would be empty; it may see itself
        visible = (visible & near) | torch.eye(time, dtype=torch.bool, device=mask.device)
    return visible
