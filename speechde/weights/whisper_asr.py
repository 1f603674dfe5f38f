"""The whole of Whisper, encoder, decoder and tokenizer, from a CTranslate2 file: for transcribing, as a baseline.

The layout of the file is that of :mod:`speechde.weights.whisper`. In the decoder, ``attention`` is the attention to the
encoder: ``linear_0`` makes its queries, ``linear_1`` keys and values stacked, ``linear_2`` is the output projection.
CTranslate2's ``config.json`` and ``tokenizer.json`` must lie in the target folder, the former to be replaced.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor

from speechde.errors import AssetError
from speechde.weights.folder import save_model
from speechde.weights.whisper import encoder_config, encoder_tensors, read_variables

_OUTER = {
    "embeddings/weight": "embed_tokens.weight",
    "position_encodings/encodings": "embed_positions.weight",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
_BLOCKS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_STACKED = {  # name → projections, in order
    "self_attention/linear_0": ("self_attn", "qkv"),
    "attention/linear_1": ("encoder_attn", "kv"),
}
_NORM_PARTS = {"weight": "gamma", "bias": "beta"}
# CTranslate2's name → transformers'
_SUPPRESSED = {"suppress_ids": "suppress_tokens", "suppress_ids_begin": "begin_suppress_tokens"}


def convert_whisper_asr(payload: Path, folder: Path) -> None:
    """Write ``payload`` into ``folder`` as ``WhisperForConditionalGeneration`` weights with its tokenizer."""
    encoder, decoder = (read_variables(payload, part) for part in ("encoder/", "decoder/"))
    try:
        tensors = {f"model.encoder.{name}": values for name, values in encoder_tensors(encoder).items()}
        tensors |= {f"model.decoder.{name}": values for name, values in _decoder_tensors(decoder).items()}
        config = encoder_config(encoder)
        tokenizer, generation = _vocabulary(folder)
        config.update({
            "architectures": ["WhisperForConditionalGeneration"],
            "vocab_size": len(tensors["model.decoder.embed_tokens.weight"]),
            "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]),
            "decoder_layers": sum(name.endswith("/ffn/linear_0/weight") for name in decoder),
            "decoder_attention_heads": int(decoder["num_heads"]),
            "decoder_ffn_dim": len(tensors["model.decoder.layers.0.fc1.weight"]),
            **{name: getattr(generation, name) for name in
               ("decoder_start_token_id", "eos_token_id", "bos_token_id", "pad_token_id")},
        })  # fmt: skip
    except KeyError as error:
        raise AssetError(f"{payload.name} or its config.json lacks {error.args[0]}; it is no Whisper model.") from error
    save_model(folder, config, tensors)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def _decoder_tensors(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    tensors = {new: variables[old] for old, new in _OUTER.items()}
    for i in range(sum(name.endswith("/ffn/linear_0/weight") for name in variables)):
        for old, new in _BLOCKS.items():
            for part, gamma in _NORM_PARTS.items():
                stored = gamma if old.endswith("norm") else part
                tensors[f"layers.{i}.{new}.{part}"] = variables[f"layer_{i}/{old}/{stored}"]
        for old, (new, projections) in _STACKED.items():
            for part in _NORM_PARTS:
                stacked = np.split(variables[f"layer_{i}/{old}/{part}"], len(projections))
                for projection, values in zip(projections, stacked, strict=True):
                    if (projection, part) != ("k", "bias"):  # as in the encoder
                        tensors[f"layers.{i}.{new}.{projection}_proj.{part}"] = values
    return {name: torch.from_numpy(values.copy()) for name, values in tensors.items()}


def _vocabulary(folder: Path) -> tuple[PreTrainedTokenizerFast, GenerationConfig]:
    """The tokenizer, and what ``generate`` needs to know of its special tokens."""
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {name: inner.token_to_id(f"<|{name}|>") for name in
               ("endoftext", "startoftranscript", "notimestamps", "transcribe", "translate")}  # fmt: skip
    if missing := [name for name, id_ in special.items() if id_ is None]:
        raise AssetError(f"tokenizer.json has no <|{missing[0]}|>; it is not that of a multilingual Whisper model.")
    end = special["endoftext"]
    generation = GenerationConfig(
        decoder_start_token_id=special["startoftranscript"],
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=end,
        max_length=448,
        return_timestamps=False,
        is_multilingual=True,
        no_timestamps_token_id=special["notimestamps"],
        lang_to_id={inner.id_to_token(id_): id_ for id_ in stored["lang_ids"]},
        task_to_id={name: special[name] for name in ("transcribe", "translate")},
        **{new: stored[old] for old, new in _SUPPRESSED.items()},
    )
    names = dict.fromkeys(("eos_token", "bos_token", "pad_token", "unk_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names), generation
