"""Every listed architecture is built from its transformers config and shown to do what the lists claim."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Gemma3TextConfig

from speechde.errors import AssetError, ConfigError
from speechde.models.attention import BIDIRECTIONAL_DECODERS, ENCODERS
from speechde.models.backbone import Backbone, attention_kernel, load_config

# one row per validated architecture; a type enters the lists of attention.py together with its row
DECODERS = ["gemma3_text", "llama", "mistral", "qwen3"]
READERS = ["bert", "xlm-roberta", "modernbert"]
EVERY = [(t, "bidirectional") for t in DECODERS + READERS] + [(t, "causal") for t in DECODERS]

IDS = torch.tensor([[1, 40, 77, 120, 9, 200, 31, 64, 150, 12]])


def states(backbone, ids, mask=None):
    with torch.no_grad():
        return backbone(backbone.embed(ids), torch.ones_like(ids).bool() if mask is None else mask)


def load(folder, **options):
    return Backbone.load(folder, **options).eval()


def test_every_listed_type_has_a_row():
    assert (set(DECODERS), set(READERS)) == (BIDIRECTIONAL_DECODERS, ENCODERS)


@pytest.mark.parametrize(("model_type", "attention"), EVERY)
def test_a_later_token_changes_earlier_states_only_when_bidirectional(tiny_llm, model_type, attention):
    backbone = load(tiny_llm(model_type), attention=attention)
    changed = IDS.clone()
    changed[0, -1] = 99
    difference = (states(backbone, IDS) - states(backbone, changed)).abs().amax(-1)[0]
    assert difference[-1] > 1e-2
    if attention == "bidirectional":
        assert (difference[:-1] > 1e-4).all()
    else:
        assert (difference[:-1] == 0).all()


@pytest.mark.parametrize(("model_type", "attention"), EVERY)
def test_padding_does_not_change_real_states(tiny_llm, model_type, attention):
    backbone = load(tiny_llm(model_type), attention=attention)
    ids = torch.full((2, 21), 55)
    ids[0, :10] = IDS[0]
    mask = torch.ones(2, 21, dtype=torch.bool)
    mask[0, 10:] = False
    together = states(backbone, ids, mask)
    torch.testing.assert_close(together[:1, :10], states(backbone, IDS), atol=1e-5, rtol=0)
    assert together.isfinite().all()


def test_sliding_layers_see_their_window_on_both_sides(tiny_llm):
    backbone = load(tiny_llm("gemma3_text"), num_layers=1)  # the first layer slides over 4 positions
    changed = IDS.clone()
    changed[0, 5] = 99
    difference = (states(backbone, IDS) - states(backbone, changed)).abs().amax(-1)[0]
    assert [i for i, d in enumerate(difference) if d > 1e-4] == [2, 3, 4, 5, 6, 7, 8]


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


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_equals_the_plain_model_on_token_ids(tiny_llm, model_type):
    folder = tiny_llm(model_type)
    backbone = load(folder, audio_tokens=5, attention="causal" if model_type == "llama" else "bidirectional")
    same_kernel = AutoModel.from_pretrained(folder, attn_implementation=attention_kernel()).eval()
    torch.testing.assert_close(states(backbone, IDS), same_kernel(IDS).last_hidden_state, atol=1e-6, rtol=0)
    fused = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()  # another order of summation
    torch.testing.assert_close(states(backbone, IDS), fused(IDS).last_hidden_state, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "attention"), [("bert", "causal"), ("gpt2", "bidirectional"), ("llama", "sideways")]
)
def test_refused_combinations_name_the_list(tiny_llm, model_type, attention):
    with pytest.raises(ConfigError) as error:
        Backbone.load(tiny_llm(model_type), attention=attention)
    assert all(name in str(error.value) for name in BIDIRECTIONAL_DECODERS | ENCODERS)
    assert repr(attention) in str(error.value) and repr(model_type) in str(error.value)


@pytest.mark.parametrize("model_type", DECODERS + READERS)
def test_first_layer_alone(tiny_llm, model_type):
    folder = tiny_llm(model_type)
    whole, cut = load(folder), load(folder, num_layers=1)
    assert cut.config.num_hidden_layers == 1
    assert states(cut, IDS).shape == (1, 10, 16)
    assert (states(cut, IDS) - states(whole, IDS)).abs().max() > 1e-2
    kept, parameters = dict(cut.named_parameters()), dict(whole.named_parameters())
    assert len(kept) < len(parameters)
    for name in kept.keys() - {"embedding.audio"}:
        assert torch.equal(kept[name], parameters[name])


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_number_of_layers_out_of_range(tiny_llm, layers):
    with pytest.raises(ConfigError, match=f"num_layers={layers}.*has 2 layers; use 1 to 2"):
        load_config(tiny_llm("gemma3_text"), layers)


def test_random_init_has_the_shapes_and_not_the_values(tiny_llm):
    folder = tiny_llm("gemma3_text")
    pretrained, random = (Backbone.load(folder, init=init).state_dict() for init in ("pretrained", "random"))
    assert {k: v.shape for k, v in pretrained.items()} == {k: v.shape for k, v in random.items()}
    for name in ("embedding.text.weight", "model.layers.1.mlp.down_proj.weight"):
        assert not torch.equal(pretrained[name], random[name])
    with pytest.raises(ConfigError, match=r"model\.init: 'pretraned'.*Did you mean 'pretrained'"):
        Backbone.load(folder, init="pretraned")


def test_missing_weights_are_refused(tiny_llm, tmp_path):
    for path in tiny_llm("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=r"lacks 1 weights of a llama: \['layers\.1\.mlp\.up_proj\.weight'\]"):
        Backbone.load(tmp_path)
    assert states(load(tmp_path, num_layers=1), IDS).isfinite().all()


@pytest.mark.parametrize("model_type", ["bert", "xlm-roberta", "gemma3_text"])
def test_loading_says_nothing_about_poolers_and_cut_layers(tiny_llm, model_type):
    folder = tiny_llm(model_type)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    level = logger.level
    try:
        backbone = Backbone.load(folder, num_layers=1)
    finally:
        logger.removeHandler(handler)
    assert lines == [] and logger.level == level
    assert not any("pooler" in name for name, _ in backbone.named_parameters())


def test_dropout_override_reaches_the_attention(tiny_llm):
    backbone = Backbone.load(tiny_llm("llama"), dropout=0.5).train()
    first, second = (backbone(backbone.embed(IDS), torch.ones_like(IDS).bool()) for _ in range(2))
    assert not torch.equal(first, second)
    backbone.eval()
    assert torch.equal(states(backbone, IDS), states(backbone, IDS))


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


def test_frozen_llm_still_trains_the_audio_rows(tiny_llm):
    backbone = Backbone.load(tiny_llm("gemma3_text"), audio_tokens=3)
    backbone.freeze(["*"])
    assert [name for name, p in backbone.named_parameters() if p.requires_grad] == ["embedding.audio"]
    first = backbone.embedding.text_tokens
    ids = torch.tensor([[1, first, first + 2]])
    backbone(backbone.embed(ids), torch.ones_like(ids).bool()).sum().backward()
    used = backbone.embedding.audio.grad.abs().sum(-1) > 0
    assert used.tolist() == [True, False, True]
    assert backbone.embedding.text.weight.grad is None
