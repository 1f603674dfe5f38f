"""The whole Whisper model out of a CTranslate2 file that is written here by hand."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, WhisperForConditionalGeneration

from speechde.errors import AssetError
from speechde.weights.whisper_asr import convert_whisper_asr

SPEC = spec_from_file_location("whisper_files", Path(__file__).with_name("test_whisper.py"))
files = module_from_spec(SPEC)
SPEC.loader.exec_module(files)


def decoder_variables(decoder):
    """The decoder's weights under their CTranslate2 names."""
    state = {name: values.half().numpy() for name, values in decoder.state_dict().items()}
    out = {"decoder/num_heads": np.int16(2), "decoder/embeddings/weight": state["embed_tokens.weight"],
           "decoder/position_encodings/encodings": state["embed_positions.weight"],
           "decoder/layer_norm/gamma": state["layer_norm.weight"],
           "decoder/layer_norm/beta": state["layer_norm.bias"]}  # fmt: skip
    for i in range(decoder.config.decoder_layers):
        here, there = f"decoder/layer_{i}", f"layers.{i}"
        for block, attention, norm in (("self_attention", "self_attn", "self_attn_layer_norm"),
                                       ("attention", "encoder_attn", "encoder_attn_layer_norm")):  # fmt: skip
            weight = {p: state[f"{there}.{attention}.{p}_proj.weight"] for p in "qkv"}
            bias = {p: state[f"{there}.{attention}.{p}_proj.bias"] for p in "qv"}
            bias["k"] = np.zeros_like(bias["q"])
            groups = ["qkv", None] if block == "self_attention" else ["q", "kv", None]
            for number, group in enumerate(groups):
                for part, parts in (("weight", weight), ("bias", bias)):
                    name = f"{there}.{attention}.out_proj.{part}"
                    values = np.concatenate([parts[p] for p in group]) if group else state[name]
                    out[f"{here}/{block}/linear_{number}/{part}"] = values
            out[f"{here}/{block}/layer_norm/gamma"] = state[f"{there}.{norm}.weight"]
            out[f"{here}/{block}/layer_norm/beta"] = state[f"{there}.{norm}.bias"]
        for number, name in enumerate(("fc1", "fc2")):
            for part in ("weight", "bias"):
                out[f"{here}/ffn/linear_{number}/{part}"] = state[f"{there}.{name}.{part}"]
        out[f"{here}/ffn/layer_norm/gamma"] = state[f"{there}.final_layer_norm.weight"]
        out[f"{here}/ffn/layer_norm/beta"] = state[f"{there}.final_layer_norm.bias"]
    return out


@pytest.fixture
def packaged(tmp_path, tiny_asr):
    """A tiny model, its CTranslate2 file, and the folder with what lies beside it in the wheel."""
    model = WhisperForConditionalGeneration.from_pretrained(tiny_asr)
    model.half().float()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "bias" in name or "norm" in name:  # zeros and ones would hide a swap
                values.copy_((values + 0.1 * torch.randn_like(values)).half())
    variables = files.as_ct2(model.model.encoder)
    del variables["decoder/embeddings/weight"]
    path = files.write_ct2(tmp_path / "model.bin", variables | decoder_variables(model.model.decoder))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((Path(tiny_asr) / "tokenizer.json").read_bytes())
    generation = GenerationConfig.from_pretrained(tiny_asr)
    config = {"lang_ids": list(generation.lang_to_id.values()), "suppress_ids": [5], "suppress_ids_begin": [6]}
    (folder / "config.json").write_text(json.dumps(config))
    return model.eval(), path, folder


def test_conversion_restores_the_same_model(packaged, tiny_asr):
    model, path, folder = packaged
    convert_whisper_asr(path, folder)
    made = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    mels, ids = torch.randn(2, 80, 60), torch.randint(0, 20, (2, 5))
    with torch.no_grad():
        logits = [each(input_features=mels, decoder_input_ids=ids).logits for each in (model, made)]
    torch.testing.assert_close(*logits)
    before = GenerationConfig.from_pretrained(tiny_asr)
    after = made.generation_config
    for name in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "decoder_start_token_id", "eos_token_id"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.suppress_tokens, after.begin_suppress_tokens) == ([5], [6])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("<|endoftext|>ab").input_ids, skip_special_tokens=True) == "ab"


def test_what_is_missing_is_named(packaged):
    _, path, folder = packaged
    (folder / "config.json").write_text('{"lang_ids": []}')
    with pytest.raises(AssetError, match="suppress_ids"):
        convert_whisper_asr(path, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<|transcribe|>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(AssetError, match=r"<\|transcribe\|>"):
        convert_whisper_asr(path, folder)
