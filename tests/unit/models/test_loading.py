"""From a folder to a model: what is cut, what is missing, which kernel and number format."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, Gemma2Model, LlamaModel, T5EncoderModel

from speechde.errors import AssetError, ConfigError
from speechde.models.backbone import Backbone
from speechde.models.loading import attention_kernel, load_config, pretrained, untrained


@pytest.mark.parametrize("layers", [0, 3, -1])
@pytest.mark.parametrize("name", ["gemma3_text", "mt5", "t5gemma2"])
def test_number_of_layers_out_of_range(tiny_llm, name, layers):
    with pytest.raises(ConfigError, match=f"num_layers={layers}.*has 2 layers; use 1 to 2"):
        load_config(tiny_llm(name), layers)


def test_missing_weights_are_refused(tiny_llm, tmp_path):
    for path in tiny_llm("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=r"lacks 1 weights of a llama: \['layers\.1\.mlp\.up_proj\.weight'\]"):
        Backbone.load(tmp_path)
    assert len(Backbone.load(tmp_path, num_layers=1).layers) == 1


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "gemma3_text", "gemma3", "mt5"])
def test_loading_says_nothing_about_poolers_and_parts_left_out(tiny_llm, name):
    folder = tiny_llm(name)
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
    names = [parameter for parameter, _ in backbone.named_parameters()]
    assert not any(part in parameter for parameter in names for part in ("pooler", "vision", "decoder"))


def test_the_part_of_a_multimodal_model_is_saved_as_a_model_of_its_own(tiny_llm, tmp_path):
    model = pretrained(tiny_llm("gemma3"), load_config(tiny_llm("gemma3")), "float32")
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.model_type == "gemma3_text"
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_number_formats(tiny_llm):
    config = load_config(tiny_llm("llama"))
    assert untrained(config, "bfloat16").dtype == torch.bfloat16
    assert pretrained(tiny_llm("llama"), load_config(tiny_llm("llama")), "bfloat16").dtype == torch.bfloat16
    assert untrained(AutoConfig.from_pretrained(tiny_llm("llama"))).dtype == torch.float32
    with pytest.raises(ConfigError, match=r"model\.dtype: 'float16' is not known; allowed: bfloat16, float32"):
        untrained(config, "float16")


def test_kernels(tiny_llm, monkeypatch):
    with pytest.raises(ConfigError, match=r"model\.attn_implementation: 'flash' is not known"):
        attention_kernel("flash", LlamaModel)
    with pytest.raises(ConfigError, match="flash_attention_2: T5EncoderModel has auto, eager, sdpa"):
        attention_kernel("flash_attention_2", T5EncoderModel)
    for gpu, kernels in ((False, ["eager", "eager"]), (True, ["sdpa", "eager"])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert [attention_kernel("auto", model) for model in (LlamaModel, Gemma2Model)] == kernels


def test_flash_attention_where_it_cannot_run_is_refused(tiny_llm, monkeypatch):
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda: False)
    for init in ("pretrained", "random"):
        with pytest.raises(ConfigError, match="attn_implementation=flash_attention_2 is not possible here; use auto"):
            Backbone.load(tiny_llm("llama"), init=init, dtype="bfloat16", attn_implementation="flash_attention_2")


def test_what_automodel_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="model type 'unheard-of' is no language model"):
        untrained(SimpleNamespace(model_type="unheard-of"))


def test_a_type_that_was_not_validated_is_refused_before_its_weights_are_read(tiny_llm, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_llm("gpt2") / "config.json").read_bytes())
    with pytest.raises(ConfigError, match="'bidirectional' is not validated for model type 'gpt2'"):
        Backbone.load(tmp_path)
