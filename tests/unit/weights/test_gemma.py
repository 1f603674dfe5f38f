"""The GGUF converter, against a miniature Gemma 3 written with the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, Gemma3TextConfig, Gemma3TextModel

from speechde.errors import AssetError
from speechde.weights.gemma import convert_gguf, read_tensors

TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "ab"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=64,
        sliding_window=16,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    model = Gemma3TextModel(config).eval()
    for name, values in model.named_parameters():
        if "norm" in name:
            values.data.normal_(std=0.2)
    return model


def write_gguf(path, model, architecture="gemma3", extra=()):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(256)
    writer.add_value_length(256)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(i) for i in range(len(TOKENS))])
    writer.add_token_types([3, 3, 3, 2, 4, *[6] * 256, 1, 1, 1, 1])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    for name, values in model.state_dict().items():
        if name.startswith("layers."):
            _, number, inner = name.removesuffix(".weight").split(".", 2)
            stored = f"blk.{number}.{NAMES[inner]}.weight"
        else:
            stored = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
        values = values.numpy() + 1 if "norm" in name else values.numpy()
        if name == "embed_tokens.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            quantised = gguf.quantize(values, kind)
            model.state_dict()[name].copy_(torch.from_numpy(gguf.dequantize(quantised, kind)))
            writer.add_tensor(stored, quantised, raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(values))
    for name in extra:
        writer.add_tensor(name, np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_conversion_restores_model_and_tokenizer(tmp_path, model):
    folder = tmp_path / "out"
    folder.mkdir()
    convert_gguf(write_gguf(tmp_path / "mini.gguf", model), folder)
    loaded, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert isinstance(loaded, Gemma3TextModel) and loaded.dtype == torch.float32
    ids = torch.tensor([[2, 262, 263, 264]])
    with torch.no_grad():
        expected, got = model(ids).last_hidden_state, loaded.eval()(ids).last_hidden_state
    torch.testing.assert_close(got, expected, atol=2e-2, rtol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)
    assert tokenizer("ab").input_ids == [2, TOKENS.index("ab")]


def test_tensors_are_exact_and_named(tmp_path, model):
    read = read_tensors(write_gguf(tmp_path / "mini.gguf", model))
    assert set(read) == set(model.state_dict())
    for name, values in model.state_dict().items():
        torch.testing.assert_close(read[name], values, atol=1e-6, rtol=0)


def test_other_architecture_and_unknown_tensor(tmp_path, model):
    with pytest.raises(AssetError, match=r"'llama' model; 'gemma3'"):
        read_tensors(write_gguf(tmp_path / "a.gguf", model, architecture="llama"))
    with pytest.raises(AssetError, match=r"blk\.0\.rope"):
        read_tensors(write_gguf(tmp_path / "b.gguf", model, extra=["blk.0.rope"]))


def test_damaged_files(tmp_path, model):
    whole = write_gguf(tmp_path / "mini.gguf", model).read_bytes()
    for end in [0, 3, 10, 100, 3000, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut.gguf").write_bytes(whole[:end])
        with pytest.raises(AssetError, match=r"cut\.gguf is damaged"):
            read_tensors(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(b"PK\x03\x04" + whole[4:])
    with pytest.raises(AssetError, match=r"cut\.gguf is damaged"):
        read_tensors(tmp_path / "cut.gguf")
