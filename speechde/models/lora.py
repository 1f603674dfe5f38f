"""LoRA: train small low-rank updates in place of the weights of the LLM's linear maps (Hu et al. 2021), through peft.

The adapters are put into the transformers model itself, without peft's wrapper around it, so that parameters keep
names that start with ``backbone.model.``, checkpoints hold the adapters and nothing frozen, and layers stay where
``Backbone`` looks for them. ``merge_lora`` adds the updates to the weights; what is left is a plain model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from speechde.errors import ConfigError
from speechde.install import install_command
from speechde.models.backbone import Backbone

ALL_LINEAR = "all-linear"


def add_lora(
    backbone: Backbone, rank: int = 16, alpha: float = 32, dropout: float = 0.0, targets: Sequence[str] = (ALL_LINEAR,)
) -> list[str]:
    """Freeze the LLM and add trainable adapters; returns the names of the adapted maps.

    The updates are zero at first, so that embeddings do not change. The audio rows stay trainable, and adapters are
    float32 whatever the LLM is in.

    Args:
        rank: of each update.
        alpha: updates are multiplied by ``alpha / rank``.
        dropout: probability, on the input of the updates.
        targets: last parts of names of linear maps in the layers (``q_proj``; ``self_attn.q_proj``), or
            ``all-linear`` for every one.

    Raises:
        ConfigError: peft is not installed; a target matches nothing; a number is out of range; there are adapters.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(f"model.lora needs peft; install it with: {install_command('lora')}") from error
    if rank < 1 or not 0 <= dropout < 1:
        raise ConfigError(f"model.lora.rank={rank} and dropout={dropout}: rank must be at least 1, dropout in [0, 1)")
    if _adapted(backbone):
        raise ConfigError("the LLM has LoRA adapters already; merge them first")
    maps = _linear_maps(backbone)
    chosen: list[str] = []
    for target in targets:
        found = [name for name in maps if target == ALL_LINEAR or f".{name}".endswith(f".{target}")]
        if not found:
            ends = ", ".join(sorted({name.rpartition(".")[2] for name in maps}))
            raise ConfigError(f"model.lora.targets: {target!r} is no linear map; use {ALL_LINEAR}, or of {ends}")
        chosen += found
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=sorted(set(chosen)))
    inject_adapter_in_model(config, backbone.model)
    for parameter in backbone.model.parameters():
        if parameter.requires_grad:  # peft has frozen all else
            parameter.data = parameter.data.float()
    return sorted(set(chosen))


def merge_lora(backbone: Backbone) -> int:
    """Add the updates to the weights and remove the adapters; returns how many there were (0 without LoRA).

    Embeddings stay equal up to rounding, which is that of the LLM's number format.
    """
    adapted = _adapted(backbone)
    for name, module in adapted.items():
        module.merge()
        owner, _, child = name.rpartition(".")
        setattr(backbone.model.get_submodule(owner), child, module.get_base_layer())
    if adapted:
        del backbone.model.peft_config
    return len(adapted)


def _adapted(backbone: Backbone) -> dict[str, nn.Module]:
    return {name: module for name, module in backbone.model.named_modules() if hasattr(module, "lora_A")}


def _linear_maps(backbone: Backbone) -> list[str]:
    inside = {id(module) for module in backbone.layers.modules()}
    named = backbone.model.named_modules()
    return [name for name, module in named if isinstance(module, nn.Linear) and id(module) in inside]
