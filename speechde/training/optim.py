"""Fused AdamW with one rate for the LLM and one for what starts from scratch; linear warm-up, cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from speechde.errors import ConfigError


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], *, lr: float, backbone_lr: float, weight_decay: float
) -> list[dict]:
    """Optimiser groups of the trainable parameters: LLM or new, with or without weight decay.

    Vectors (norms, biases) and the temperature are not decayed. The temperature is a group of its own, because it is
    whole where the others are sharded, and one fused step cannot have both.

    Raises:
        ConfigError: nothing is trainable.
    """
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            is_backbone = name.startswith("model.backbone.") and not name.endswith("embedding.audio")
            groups.setdefault((is_backbone, parameter.dim() > 1, parameter.dim() == 0), []).append(parameter)
    if not groups:
        raise ConfigError("nothing is trainable: model.freeze covers every parameter")
    return [
        {
            "params": parameters,
            "lr": backbone_lr if is_backbone else lr,
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (is_backbone, decayed, _), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def warmup_cosine(step: int, *, warmup: int, total: int) -> float:
    """Factor on the learning rate: linear from 1/warmup to 1, then a cosine to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimiser(
    groups: list[dict], *, warmup: int, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimiser and its schedule, stepped once per training step."""
    optimiser = torch.optim.AdamW(groups, fused=True)
    factor = partial(warmup_cosine, warmup=warmup, total=total)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
