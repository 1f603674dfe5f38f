"""Gemma 3 from a GGUF file, to a ``Gemma3TextModel`` folder with its tokenizer.

The tensors are dequantised with the ``gguf`` package and renamed here, because loading a GGUF model through
transformers needs one more dependency and gives a model that refuses to be saved; configuration and tokenizer are
read by transformers. GGUF stores each RMSNorm weight plus one, the model adds the one itself. The output layer is
the embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoConfig, AutoTokenizer

from speechde.errors import AssetError
from speechde.weights.folder import save_model

_OUTER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_gguf(payload: Path, folder: Path) -> None:
    """Write the text decoder and tokenizer of the GGUF file ``payload`` into ``folder``."""
    tensors = read_tensors(payload)
    config = AutoConfig.from_pretrained(payload.parent, gguf_file=payload.name)
    config.architectures = ["Gemma3TextModel"]
    save_model(folder, config, tensors)
    AutoTokenizer.from_pretrained(payload.parent, gguf_file=payload.name).save_pretrained(folder)


def read_tensors(payload: Path) -> dict[str, torch.Tensor]:
    """All tensors of a Gemma 3 GGUF file, float32, under their ``Gemma3TextModel`` names."""
    # gguf checks no length, so what a damaged file raises depends on where it is damaged.
    try:
        reader = GGUFReader(payload)
        architecture = reader.fields["general.architecture"].contents()
        stored = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    except (ValueError, KeyError, IndexError, OverflowError, OSError) as error:
        raise AssetError(f"{payload.name} is damaged or no GGUF file: {error}. Fetch it again.") from error
    if architecture != "gemma3":
        raise AssetError(f"{payload.name} holds a {architecture!r} model; 'gemma3' is the one validated here.")
    tensors = {}
    for name, values in stored.items():
        target = _target(name)
        values = values - 1 if "norm" in target else values
        # Tensors stored as float32 come as a read-only view of the file.
        tensors[target] = torch.from_numpy(np.require(values, requirements="W"))
    return tensors


def _target(name: str) -> str:
    part, _, rest = name.removesuffix(".weight").partition(".")
    number, _, inner = rest.partition(".")
    if part == "blk" and inner in _LAYER:
        return f"layers.{number}.{_LAYER[inner]}.weight"
    if part in _OUTER and not rest:
        return f"{_OUTER[part]}.weight"
    raise AssetError(f"GGUF tensor {name!r} is no part of Gemma 3; the file is of another format version.")
