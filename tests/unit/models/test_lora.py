"""LoRA beside the table of ``test_llm_table.py``: targets, refusals, and what checkpoints and optimisers see."""

from __future__ import annotations

import sys

import pytest
import torch

from speechde.errors import ConfigError
from speechde.losses.contrastive import ContrastiveLoss
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.units import UnitFrontend
from speechde.models.lora import add_lora, merge_lora
from speechde.training.lit_module import LitDualEncoder

IDS = torch.tensor([[1, 40, 77, 261]])


@pytest.fixture
def backbone(tiny_llm):
    return Backbone.load(tiny_llm("llama"), audio_tokens=12)


def states(backbone):
    with torch.no_grad():
        return backbone(backbone.embed(IDS), torch.ones_like(IDS).bool())


def set_updates(module):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "v_proj"], ["self_attn.q_proj", "self_attn.v_proj"]),
        (["mlp.up_proj", "up_proj"], ["mlp.up_proj"]),
        (["layers.1.mlp.up_proj"], None),
    ],
)
def test_targets(backbone, targets, expected):
    adapted = add_lora(backbone, rank=2, targets=targets)
    if expected is None:
        assert adapted == ["layers.1.mlp.up_proj"]
    else:
        assert adapted == sorted(f"layers.{i}.{name}" for i in (0, 1) for name in expected)
    assert {n for n, p in backbone.named_parameters() if p.requires_grad} == {"embedding.audio"} | {
        f"model.{name}.lora_{ab}.default.weight" for name in adapted for ab in "AB"
    }


def test_rank_alpha_and_dropout(backbone):
    add_lora(backbone, rank=3, alpha=12, dropout=0.4, targets=["o_proj"])
    layer = backbone.layers[0].self_attn.o_proj
    assert layer.lora_A["default"].weight.shape == (3, 16) and layer.scaling["default"] == 4
    set_updates(backbone)
    backbone.train()
    assert not torch.equal(states(backbone), states(backbone))
    backbone.eval()
    assert torch.equal(states(backbone), states(backbone))


def test_refused(backbone, monkeypatch):
    with pytest.raises(ConfigError, match=r"'query' is no linear map; use all-linear, or of down_proj, .*v_proj"):
        add_lora(backbone, targets=["q_proj", "query"])
    with pytest.raises(ConfigError, match="rank must be at least 1"):
        add_lora(backbone, rank=0)
    with pytest.raises(ConfigError, match=r"dropout in \[0, 1\)"):
        add_lora(backbone, dropout=1.0)
    add_lora(backbone, rank=2)
    with pytest.raises(ConfigError, match="has LoRA adapters already"):
        add_lora(backbone, rank=2)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs peft; install it with: .*pip install -e '.*\[lora\]'"):
        add_lora(backbone)


def test_adapters_of_a_bfloat16_llm_are_float32_and_merge_within_its_rounding(tiny_llm):
    backbone = Backbone.load(tiny_llm("llama"), audio_tokens=12, dtype="bfloat16").eval()
    plain = states(backbone)
    add_lora(backbone, rank=2)
    assert {p.dtype for n, p in backbone.named_parameters() if p.requires_grad} == {torch.float32}
    set_updates(backbone)
    adapted = states(backbone).float()
    merge_lora(backbone)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    error = (states(backbone).float() - adapted).abs().mean()
    assert error < 0.05 * (plain.float() - adapted).abs().mean() + 0.02


def test_layers_can_be_skipped_and_checkpointed_with_adapters(backbone):
    add_lora(backbone, rank=2)
    set_updates(backbone)
    backbone.eval()
    mask = torch.ones_like(IDS).bool()
    gradients = []
    for checkpointing in (False, True):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        backbone(backbone.embed(IDS), mask, first_layer=1)[0, :, :3].sum().backward()
        gradients.append({n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert "model.layers.1.mlp.up_proj.lora_A.default.weight" in gradients[0]
    assert not any(".layers.0." in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_checkpoints_hold_what_is_trained_and_restore_it(tiny_llm):
    def module():
        backbone = Backbone.load(tiny_llm("llama"), audio_tokens=12)
        add_lora(backbone, rank=2)
        model = DualEncoder(backbone, {"speech": UnitFrontend(12)})
        rates = {"lr": 1e-3, "backbone_lr": 1e-4, "weight_decay": 0.01, "warmup_share": 0.1}
        return LitDualEncoder(model, ContrastiveLoss(), seed=0, steps=10, **rates)

    first, second = module(), module()
    assert not first.text_is_frozen  # adapters change the text side too
    set_updates(first)
    checkpoint = {"state_dict": first.state_dict()}
    first.on_save_checkpoint(checkpoint)
    kept = set(checkpoint["state_dict"])
    adapters = {name for name in first.state_dict() if "lora_" in name}
    assert len(adapters) == 28 and kept >= adapters | {"model.backbone.embedding.audio", "model.projection.weight"}
    assert not any("base_layer" in name or "norm" in name or "embed_tokens" in name for name in kept)
    second.on_load_checkpoint(checkpoint)
    second.load_state_dict(checkpoint["state_dict"])
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    groups = first.configure_optimizers()["optimizer"].param_groups
    llm = {id(p) for group in groups if group["initial_lr"] == 1e-4 for p in group["params"]}
    named = dict(first.named_parameters())
    assert llm == {id(named[name]) for name in adapters}
