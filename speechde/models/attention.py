"""Bidirectional attention for decoder LLMs, by mask and behind an allow-list.

A dual encoder reads the whole input at once, so the causal mask of a decoder only hides information. transformers
(5.x) passes a ready-made 4-D mask through to the attention kernel untouched, which is enough to make a decoder
bidirectional without patching any of its code. FlashAttention takes no such mask, but does take ``is_causal=False``,
which transformers hands on to it. Whether an architecture honours either must be tested and not assumed: a model type
enters one of the lists below together with a row in ``tests/unit/models/test_llm_table.py``, which checks that a
later token changes an earlier state.

Layers with a sliding window of w keep it: a decoder trained with one saw the w − 1 positions before its own, and sees
w − 1 on either side when bidirectional. Encoders make their own masks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from speechde.errors import ConfigError

# names are those of the text config: EmbeddingGemma is a gemma3_text, T5Gemma's encoder a t5_gemma_module
BIDIRECTIONAL_DECODERS = frozenset({"gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
ENCODERS = frozenset({"bert", "embedding_gemma2_text", "modernbert", "mt5", "t5", "t5_gemma_module", "t5gemma2_text",
                      "xlm-roberta"})  # fmt: skip
# every layer looks token ids up in a table of its own, in which audio tokens and frames have no row
NEED_TOKEN_IDS = frozenset({"gemma3n_text", "gemma4_text"})


def attention_direction(config: Any, requested: str) -> str:
    """The direction a backbone of this text config will run in, ``bidirectional`` or ``causal``.

    Raises:
        ConfigError: the model type was not validated for the requested direction.
    """
    model_type = config.model_type
    trained_bidirectional = model_type in ENCODERS or getattr(config, "use_bidirectional_attention", False) is True
    if requested == "bidirectional" and model_type in BIDIRECTIONAL_DECODERS | ENCODERS:
        return requested
    if requested == "causal" and not trained_bidirectional and model_type not in NEED_TOKEN_IDS:
        return requested
    raise ConfigError(
        f"model.attention={requested!r} is not validated for model type {model_type!r}; bidirectional is validated for "
        f"{', '.join(sorted(BIDIRECTIONAL_DECODERS | ENCODERS))}, and causal works for any decoder that reads input "
        "embeddings alone. To add a type, list it in speechde/models/attention.py and add its row to "
        "tests/unit/models/test_llm_table.py."
    )


def is_flash(config: Any) -> bool:
    """Whether the model runs on a FlashAttention kernel (transformers may name the package's or the hub's)."""
    return "flash" in config._attn_implementation


def decoder_arguments(config: Any, mask: Tensor) -> dict[str, Any]:
    """Arguments that make the forward pass of a decoder bidirectional; ``mask`` is ``(batch, time)`` bool."""
    if is_flash(config):
        return {"attention_mask": mask.long(), "is_causal": False}
    layer_types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    masks = {"full_attention": None, "sliding_attention": window}
    masks = {kind: _kernel_mask(config, bidirectional_mask(mask, width)) for kind, width in masks.items()}
    if layer_types:
        return {"attention_mask": masks}
    return {"attention_mask": masks["sliding_attention"]}  # Mistral: in every layer, where the config has a window


def _kernel_mask(config: Any, visible: Tensor) -> Tensor:
    """The eager kernel adds its mask to the logits; the fused one takes a bool mask."""
    if config._attn_implementation != "eager":
        return visible
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, torch.finfo(torch.bfloat16).min)


def bidirectional_mask(mask: Tensor, window: int | None = None) -> Tensor:
    """A ``(batch, 1, time, time)`` bool mask: every real position sees every real position.

    Args:
        mask: ``(batch, time)`` bool, true where real.
        window: keep only positions less than ``window`` apart (sliding layers).

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
