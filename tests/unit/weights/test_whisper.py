"""The CTranslate2 reader, against a model written in that format, and the encoder loader on all folder layouts."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechde.errors import AssetError
from speechde.weights import load_whisper_encoder
from speechde.weights.whisper import convert_whisper, read_variables

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


@pytest.fixture
def config():
    return WhisperConfig(
        vocab_size=60,
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=30,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


@pytest.fixture
def encoder(config):
    torch.manual_seed(0)
    return WhisperEncoder(config).half().float().eval()


def string(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def write_ct2(path, variables, version=6, spec="WhisperSpec"):
    parts = [struct.pack("<I", version), string(spec), struct.pack("<II", 3, len(variables))]
    for name, values in variables.items():
        values = np.asarray(values)
        parts += [string(name), struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)]
        parts += [struct.pack("<BI", CODES[values.dtype.name], values.nbytes), values.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def as_ct2(encoder):
    """The encoder's weights under their CTranslate2 names, written by hand and not from the reader's table."""
    state = {k: v.half().numpy() for k, v in encoder.state_dict().items()}
    out = {"decoder/embeddings/weight": np.ones((3, 4), np.float16), "encoder/num_heads": np.int16(2)}
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            out[f"encoder/{conv}/{part}"] = state[f"{conv}.{part}"]
    out["encoder/position_encodings/encodings"] = state["embed_positions.weight"]
    out["encoder/layer_norm/gamma"] = state["layer_norm.weight"]
    out["encoder/layer_norm/beta"] = state["layer_norm.bias"]
    for i in range(encoder.config.encoder_layers):
        here, there = f"encoder/layer_{i}", f"layers.{i}"
        q, k, v = (state[f"{there}.self_attn.{p}_proj.weight"] for p in "qkv")
        out[f"{here}/self_attention/linear_0/weight"] = np.concatenate([q, k, v])
        q, v = (state[f"{there}.self_attn.{p}_proj.bias"] for p in "qv")
        out[f"{here}/self_attention/linear_0/bias"] = np.concatenate([q, np.zeros_like(q), v])
        for block, norm, pairs in (
            ("self_attention", "self_attn_layer_norm", {"linear_1": "self_attn.out_proj"}),
            ("ffn", "final_layer_norm", {"linear_0": "fc1", "linear_1": "fc2"}),
        ):
            out[f"{here}/{block}/layer_norm/gamma"] = state[f"{there}.{norm}.weight"]
            out[f"{here}/{block}/layer_norm/beta"] = state[f"{there}.{norm}.bias"]
            for old, new in pairs.items():
                for part in ("weight", "bias"):
                    out[f"{here}/{block}/{old}/{part}"] = state[f"{there}.{new}.{part}"]
    return out


def test_conversion_restores_the_same_encoder(tmp_path, encoder):
    folder = tmp_path / "out"
    folder.mkdir()
    convert_whisper(write_ct2(tmp_path / "model.bin", as_ct2(encoder)), folder)
    features = torch.randn(2, 80, 60)
    for loaded in (load_whisper_encoder(folder), WhisperEncoder.from_pretrained(folder).eval()):
        with torch.no_grad():
            torch.testing.assert_close(loaded(features).last_hidden_state, encoder(features).last_hidden_state)
    assert load_whisper_encoder(folder).config.encoder_attention_heads == 2
    assert WhisperFeatureExtractor.from_pretrained(folder).feature_size == 80


@pytest.mark.parametrize("model_class", [WhisperModel, WhisperForConditionalGeneration])
def test_loader_takes_the_encoder_out_of_a_full_model(tmp_path, config, model_class):
    model = model_class(config)
    model.save_pretrained(tmp_path)
    loaded = load_whisper_encoder(tmp_path, torch.float16)
    expected = (model.model if model_class is WhisperForConditionalGeneration else model).encoder.state_dict()
    assert loaded.dtype == torch.float16 and not loaded.training
    for name, values in loaded.state_dict().items():
        torch.testing.assert_close(values, expected[name].half())


def test_loader_reads_shards(tmp_path, config):
    model = WhisperModel(config)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_whisper_encoder(tmp_path)
    torch.testing.assert_close(loaded.layers[1].fc2.weight, model.encoder.layers[1].fc2.weight)


def test_loader_refuses_missing_weights_and_other_models(tmp_path, config):
    model = WhisperModel(config)
    state = {k: v for k, v in model.state_dict().items() if k != "encoder.layers.1.fc1.bias"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(AssetError, match=r"layers\.1\.fc1\.bias"):
        load_whisper_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(AssetError, match="Whisper model is required"):
        load_whisper_encoder(tmp_path)


def test_every_truncation_is_an_asset_error(tmp_path, encoder):
    whole = write_ct2(tmp_path / "model.bin", as_ct2(encoder)).read_bytes()
    for end in [0, 3, 5, 20, 26, 30, len(whole) // 2, len(whole) - 1]:
        (tmp_path / "cut.bin").write_bytes(whole[:end])
        with pytest.raises(AssetError, match=r"cut\.bin is damaged"):
            read_variables(tmp_path / "cut.bin")


def test_wrong_format_version_and_sizes(tmp_path, encoder):
    with pytest.raises(AssetError, match="version 7"):
        read_variables(write_ct2(tmp_path / "a", {}, version=7))
    with pytest.raises(AssetError, match="TransformerSpec"):
        read_variables(write_ct2(tmp_path / "b", {}, spec="TransformerSpec"))
    damaged = bytearray(write_ct2(tmp_path / "c", {"encoder/x": np.ones(4, np.float32)}).read_bytes())
    damaged[damaged.index(b"encoder/x\0") + 11] = 5  # the only dimension, 4
    (tmp_path / "c").write_bytes(damaged)
    with pytest.raises(AssetError, match="do not make 16 bytes"):
        read_variables(tmp_path / "c")


@pytest.mark.parametrize("lost", ["encoder/conv1/weight", "encoder/num_heads", "encoder/layer_1/ffn/linear_1/bias"])
def test_missing_variable_is_named(tmp_path, encoder, lost):
    variables = as_ct2(encoder)
    del variables[lost]
    with pytest.raises(AssetError, match=lost):
        convert_whisper(write_ct2(tmp_path / "model.bin", variables), tmp_path)


def test_unexpected_shape(tmp_path, encoder):
    variables = as_ct2(encoder) | {"encoder/layer_0/self_attention/linear_0/bias": np.zeros(5, np.float16)}
    with pytest.raises(AssetError, match="unexpected shape"):
        convert_whisper(write_ct2(tmp_path / "model.bin", variables), tmp_path)
