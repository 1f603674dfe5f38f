"""What a backbone does beside the table of ``test_llm_table.py``: windows, refusals, freezing."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, Gemma3TextConfig

from speechde.errors import ConfigError
from speechde.models.attention import BIDIRECTIONAL_DECODERS, ENCODERS
from speechde.models.backbone import Backbone
from speechde.models.loading import load_config, untrained

IDS = torch.tensor([[1, 40, 77, 120, 9, 200, 31, 64, 150, 12]])


def states(backbone, ids, mask=None):
    with torch.no_grad():
        return backbone(backbone.embed(ids), torch.ones_like(ids).bool() if mask is None else mask)


def load(folder, **options):
    return Backbone.load(folder, **options).eval()


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("gemma3_text", 2, 8),  # a window of 4: three positions on either side
        ("gemma2", 2, 8),
        ("mistral-sliding", 2, 8),
        ("embeddinggemma", 2, 8),  # 6 on both sides together, for transformers
        ("t5gemma2", 3, 6),  # 4 together, its own position among them
        ("mistral", 0, 9),
    ],
)
def test_sliding_layers_see_their_window_on_both_sides(tiny_llm, name, first, last):
    backbone = load(tiny_llm(name), num_layers=1)
    changed = IDS.clone()
    changed[0, 5] = 99
    difference = (states(backbone, IDS) - states(backbone, changed)).abs().amax(-1)[0]
    assert [i for i, d in enumerate(difference) if d > 1e-4] == list(range(first, last + 1))


def test_equals_the_bidirectional_form_that_transformers_has_for_gemma(tiny_llm):
    config = Gemma3TextConfig.from_pretrained(tiny_llm("gemma3_text"))
    reference = AutoModel.from_config(Gemma3TextConfig(**config.to_dict() | {"use_bidirectional_attention": True}))
    config.sliding_window = reference.config.sliding_window
    model = AutoModel.from_config(config)
    model.load_state_dict(reference.state_dict())
    mask = torch.tensor([[True] * 10, [True] * 6 + [False] * 4])
    ids = IDS.repeat(2, 1)
    expected = reference.eval()(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(states(Backbone(model).eval(), ids, mask)[mask], expected[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "attention"), [("bert", "causal"), ("gpt2", "bidirectional"), ("llama", "sideways"), ("mt5", "causal")]
)
def test_refused_combinations_name_the_list(tiny_llm, name, attention):
    with pytest.raises(ConfigError) as error:
        Backbone.load(tiny_llm(name), attention=attention)
    assert all(listed in str(error.value) for listed in BIDIRECTIONAL_DECODERS | ENCODERS)
    assert repr(attention) in str(error.value) and repr(name) in str(error.value)


def test_an_unknown_init_is_refused(tiny_llm):
    with pytest.raises(ConfigError, match=r"model\.init: 'pretraned'.*Did you mean 'pretrained'"):
        Backbone.load(tiny_llm("llama"), init="pretraned")


def test_the_output_of_embeddinggemma_2_has_a_width_of_its_own(tiny_llm):
    config = load_config(tiny_llm("embedding_gemma2"))
    config.embedding_dim = 12
    backbone = Backbone(untrained(config)).eval()
    assert (backbone.width, backbone.output_width) == (16, 12)
    assert states(backbone, IDS).shape == (1, 10, 12)
    plain = load(tiny_llm("llama"))
    assert plain.width == plain.output_width == 16


def test_checkpointing_may_be_set_later_and_reaches_a_frozen_llm_in_eval_mode(tiny_llm):
    backbone = load(tiny_llm("llama"))
    backbone.freeze(["*"])
    backbone.gradient_checkpointing = True
    passes = []
    backbone.layers[0].self_attn.register_forward_hook(lambda *_: passes.append(1))
    frames = torch.randn(1, 4, 16, requires_grad=True)
    backbone(frames, torch.ones(1, 4).bool())[0, 0, 0].backward()
    assert len(passes) == 2 and frames.grad.abs().max() > 0
    states(backbone, IDS)
    assert len(passes) == 3  # nothing to check-point for without gradients


def test_no_cache_of_keys_and_values_is_kept(tiny_llm):
    backbone = load(tiny_llm("llama"))
    out = backbone.model(inputs_embeds=backbone.embed(IDS))
    assert out.past_key_values is None


def test_freeze_by_pattern(tiny_llm):
    backbone = Backbone.load(tiny_llm("llama"), audio_tokens=3)
    frozen = backbone.freeze(["model.layers.0.*", "embedding.text.*", "model.layers.0.mlp.*"])
    assert frozen == sorted(set(frozen)) and "embedding.text.weight" in frozen
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (not name.startswith(("model.layers.0.", "embedding.text.")))


@pytest.mark.parametrize("pattern", ["model.layer.*", "embedding.audio"])
def test_freeze_pattern_that_matches_nothing(tiny_llm, pattern):
    backbone = Backbone.load(tiny_llm("llama"), audio_tokens=3)
    with pytest.raises(ConfigError, match=rf"model\.freeze: pattern '{pattern}'"):
        backbone.freeze(["embedding.*", pattern])
