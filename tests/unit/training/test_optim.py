"""Learning-rate schedule and parameter groups."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from speechde.errors import ConfigError
from speechde.training.optim import build_optimiser, parameter_groups, warmup_cosine

RATES = {"lr": 1.0, "backbone_lr": 0.1, "weight_decay": 0.01}


def test_schedule():
    factors = [warmup_cosine(step, warmup=4, total=12) for step in range(14)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert factors[12] == factors[13] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(factors[4:]))
    assert warmup_cosine(0, warmup=1, total=1) == 1.0 and warmup_cosine(1, warmup=1, total=1) == 1.0


def test_the_schedule_is_applied_to_every_group():
    weights = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    groups = [{"params": weights[:1], "lr": 2.0}, {"params": weights[1:], "lr": 1.0}]
    optimiser, schedule = build_optimiser(groups, warmup=2, total=10)
    rates = []
    for _ in range(3):
        rates.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    assert rates == [[1.0, 0.5], [2.0, 1.0], [2.0, 1.0]]


def test_fused_steps_equal_plain_ones():
    generator = torch.Generator().manual_seed(0)
    start, gradients = (torch.randn(3, 4, generator=generator) for _ in range(2))
    found, expected = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    groups = [{"params": [found], "lr": 0.1, "weight_decay": 0.01}]
    optimiser, _ = build_optimiser(groups, warmup=1, total=10**9)
    plain = torch.optim.AdamW([{**groups[0], "params": [expected]}], fused=False)
    for step in range(3):
        found.grad, expected.grad = gradients * (step + 1), gradients * (step + 1)
        optimiser.step()
        plain.step()
    torch.testing.assert_close(found, expected)


def named():
    shapes = {
        "model.backbone.model.layers.0.weight": (2, 2),
        "model.backbone.model.norm.weight": (2,),
        "model.backbone.embedding.audio": (3, 2),
        "model.backbone.embedding.text.weight": (5, 2),
        "model.projection.weight": (2, 2),
        "model.frontends.speech.input.bias": (2,),
        "loss.log_scale": (),
    }
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    parameters["model.backbone.embedding.text.weight"].requires_grad_(False)
    return parameters


def test_groups():
    parameters = named()
    names = {id(parameter): name for name, parameter in parameters.items()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(parameters.items(), **RATES)
        for p in group["params"]
    }
    assert found == {
        "model.backbone.model.layers.0.weight": (0.1, 0.01),
        "model.backbone.model.norm.weight": (0.1, 0.0),
        "model.backbone.embedding.audio": (1.0, 0.01),  # starts from scratch
        "model.projection.weight": (1.0, 0.01),
        "model.frontends.speech.input.bias": (1.0, 0.0),
        "loss.log_scale": (1.0, 0.0),
    }


def test_nothing_trainable():
    parameters = named()
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"nothing is trainable: model\.freeze"):
        parameter_groups(parameters.items(), **RATES)
