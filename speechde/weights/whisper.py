"""Whisper's speech encoder: read from a CTranslate2 file, and load from any transformers folder.

CTranslate2 binary (little-endian): u32 version, string model name, u32 revision, u32 count; each variable: string
name, u8 rank, u32 dimensions, u8 type, u32 bytes, data. A string is a u16 length that includes the closing NUL.
Queries, keys and values are stacked on the first dimension of ``self_attention/linear_0``. The stored key bias is
dropped, as in the original model: it adds the same amount to all scores of a query, which the softmax cancels.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechde.errors import AssetError
from speechde.weights.folder import save_model, weight_files
from speechde.weights.reader import Reader

_VERSION = 6
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_OUTER = {
    "conv1/weight": "conv1.weight",
    "conv1/bias": "conv1.bias",
    "conv2/weight": "conv2.weight",
    "conv2/bias": "conv2.bias",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
_LAYER = {
    "self_attention/layer_norm/gamma": "self_attn_layer_norm.weight",
    "self_attention/layer_norm/beta": "self_attn_layer_norm.bias",
    "self_attention/linear_1/weight": "self_attn.out_proj.weight",
    "self_attention/linear_1/bias": "self_attn.out_proj.bias",
    "ffn/layer_norm/gamma": "final_layer_norm.weight",
    "ffn/layer_norm/beta": "final_layer_norm.bias",
    "ffn/linear_0/weight": "fc1.weight",
    "ffn/linear_0/bias": "fc1.bias",
    "ffn/linear_1/weight": "fc2.weight",
    "ffn/linear_1/bias": "fc2.bias",
}


def convert_whisper(payload: Path, folder: Path) -> None:
    """Write the encoder of the CTranslate2 file ``payload`` into ``folder`` as ``WhisperEncoder`` weights."""
    variables = read_variables(payload)
    try:
        tensors = encoder_tensors(variables)
        config = encoder_config(variables)
    except KeyError as error:
        raise AssetError(
            f"{payload.name} holds no variable encoder/{error.args[0]}; it is no Whisper model."
        ) from error
    except ValueError as error:
        raise AssetError(f"{payload.name} holds encoder variables of unexpected shape ({error}).") from error
    save_model(folder, config, tensors)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def load_whisper_encoder(folder: str | Path, dtype: torch.dtype = torch.float32, meta: bool = False) -> WhisperEncoder:
    """The encoder in ``folder``, in evaluation mode: one written here, or any full Whisper model's folder.

    Every encoder weight must be there and fit; the decoder, if any, is not read. ``meta`` builds the shape alone.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "whisper":
        raise AssetError(f"{folder} holds a {config.model_type!r} model; a Whisper model is required here.")
    if meta:
        with torch.device("meta"):
            return WhisperEncoder(config).to(dtype).eval()
    tensors = {}
    try:
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    inner = name.removeprefix("model.").removeprefix("encoder.")
                    if not name.startswith(("decoder.", "model.decoder.", "proj_out.")):
                        tensors[inner] = file.get_tensor(name)
        encoder = WhisperEncoder(config)
        encoder.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise AssetError(f"{folder} does not hold a whole Whisper encoder: {error}") from error
    return encoder.to(dtype).eval()


def read_variables(path: Path, prefix: str = "encoder/") -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 file below ``prefix``, named without it."""
    reader = Reader(path)
    (version,) = reader.unpack("I")
    if version != _VERSION:
        raise reader.error(f"binary version {version}, expected {_VERSION}")
    model = _string(reader)
    if model != "WhisperSpec":
        raise reader.error(f"it holds a {model!r} model, expected 'WhisperSpec'")
    _, count = reader.unpack("II")
    variables = {}
    for _ in range(count):
        name = _string(reader)
        (rank,) = reader.unpack("B")
        shape = reader.unpack(f"{rank}I")
        kind, size = reader.unpack("BI")
        data = reader.take(size)
        if name.startswith(prefix):
            if kind not in _TYPES or prod(shape) * np.dtype(_TYPES[kind]).itemsize != size:
                raise reader.error(f"{name}: type {kind} and shape {shape} do not make {size} bytes")
            variables[name.removeprefix(prefix)] = np.frombuffer(data, _TYPES[kind]).reshape(shape)
    return variables


def encoder_config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    """The sizes of the encoder (``read_variables``); those of the decoder are taken to be the same."""
    width, mels, _ = variables["conv1/weight"].shape
    layers = sum(name.endswith("/ffn/linear_0/weight") for name in variables)
    heads, inner = int(variables["num_heads"]), len(variables["layer_0/ffn/linear_0/weight"])
    return WhisperConfig(
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_source_positions=len(variables["position_encodings/encodings"]),
        architectures=["WhisperEncoder"],
    )


def encoder_tensors(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The encoder's variables (``read_variables``) as ``WhisperEncoder`` names and splits them."""
    tensors = {new: variables[old] for old, new in _OUTER.items()}
    layers = {name.split("/")[0] for name in variables} - {name.split("/")[0] for name in _OUTER}
    for i in range(sum(name.startswith("layer_") for name in layers)):
        layer = f"layer_{i}"
        for old, new in _LAYER.items():
            tensors[f"layers.{i}.{new}"] = variables[f"{layer}/{old}"]
        for part in ("weight", "bias"):
            stacked = variables[f"{layer}/self_attention/linear_0/{part}"]
            for projection, values in zip("qkv", np.split(stacked, 3), strict=True):
                if (projection, part) != ("k", "bias"):
                    tensors[f"layers.{i}.self_attn.{projection}_proj.{part}"] = values
    return {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}


def _string(reader: Reader) -> str:
    (length,) = reader.unpack("H")
    return reader.text(length).rstrip("\0")
