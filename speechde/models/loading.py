"""From a checkpoint folder to a transformers model that turns input embeddings into hidden states.

``AutoModel`` does most of it. Three kinds of checkpoint need more: an encoder–decoder, of which only the encoder is
built (mT5, T5, T5Gemma); a multimodal model, of which only the text tower is built (Gemma 3, EmbeddingGemma 2,
T5Gemma 2); and models that come with a sentence head, which is left out (BERT, XLM-R).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, PretrainedConfig
from transformers.utils import logging

from speechde.errors import AssetError, ConfigError, unknown_value

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KERNELS = ("auto", "eager", "sdpa", "flash_attention_2")
POOLED = ("bert", "xlm-roberta")
ENCODERS_ALONE = {  # model type of the text config → module of transformers.models, class
    "mt5": ("mt5", "MT5EncoderModel"),
    "t5": ("t5", "T5EncoderModel"),
    "t5_gemma_module": ("t5gemma", "T5GemmaEncoder"),
    "t5gemma2_text": ("t5gemma2", "T5Gemma2TextEncoder"),
}
# where a part is found among the weights of the whole, by the ends of names that are removed
ENCODER_PART = {r"^model\.encoder\.text_model\.": "", r"^encoder\.text_model\.": "", r"^model\.encoder\.": "",
                r"^encoder\.": ""}  # fmt: skip
TEXT_PART = {r"^model\.language_model\.": "", r"^language_model\.model\.": "", r"^language_model\.": ""}
# their table of positions starts behind the padding token, so it has that many rows that no position reads
OFFSET_POSITIONS = ("camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
DROPOUTS = ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "dropout_rate", "mlp_dropout",
            "embedding_dropout")  # fmt: skip


def _text_part(folder: str | Path) -> tuple[PretrainedConfig, dict[str, str]]:
    """The config of the part that reads text, and how to rename the weights of the whole to those of the part."""
    whole = AutoConfig.from_pretrained(folder)
    if isinstance(getattr(whole, "encoder", None), PretrainedConfig):
        return whole.encoder.get_text_config(), ENCODER_PART
    part = whole.get_text_config()
    return part, {} if part is whole else TEXT_PART


def load_config(folder: str | Path, num_layers: int | None = None, dropout: float | None = None) -> PretrainedConfig:
    """The text config of a checkpoint folder, cut to its first ``num_layers`` layers.

    Args:
        dropout: overrides the dropout probabilities of the checkpoint's config (most LLMs ship with none).

    Raises:
        ConfigError: ``num_layers`` is not between 1 and the model's own number, or the model cannot be cut.
    """
    config, _ = _text_part(folder)
    if dropout is not None:
        for key in DROPOUTS:
            if hasattr(config, key):
                setattr(config, key, dropout)
    if num_layers is None:
        return config
    if not 1 <= num_layers <= config.num_hidden_layers:
        raise ConfigError(
            f"model.num_layers={num_layers} is not possible: {folder} has {config.num_hidden_layers} layers; "
            f"use 1 to {config.num_hidden_layers}, or null for all"
        )
    if config.model_type == "embedding_gemma2_text" and num_layers < config.num_hidden_layers:
        raise ConfigError(
            f"model.num_layers={num_layers}: {config.model_type} computes the inputs of all layers in one projection "
            "and cannot be cut; use null"
        )
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types[:num_layers])
    config.num_hidden_layers = num_layers
    return config


def positions(config: PretrainedConfig) -> int | None:
    """How many positions an input may have; None where they are relative and without end (T5, mT5)."""
    rows = getattr(config, "max_position_embeddings", None)
    return rows - config.pad_token_id - 1 if rows and config.model_type in OFFSET_POSITIONS else rows


def _model_class(config: PretrainedConfig) -> type:
    if config.model_type in ENCODERS_ALONE:
        module, name = ENCODERS_ALONE[config.model_type]
        return getattr(import_module(f"transformers.models.{module}.modeling_{module}"), name)
    if type(config) not in MODEL_MAPPING:
        raise ConfigError(f"model type {config.model_type!r} is no language model that transformers' AutoModel knows")
    return MODEL_MAPPING[type(config)]


def attention_kernel(requested: str, model_class: type) -> str:
    """transformers' name of the attention kernel.

    ``auto`` takes plain matrix products on a CPU, where the fused kernel takes 1.5 times as long on the short
    sequences of this task (measured with a mask, 30 positions), and the fused one on a GPU where the model has it
    (Gemma 2 and T5Gemma cap their logits and have not). ``flash_attention_2`` has to be asked for: it needs its
    package and bfloat16.
    """
    if requested not in KERNELS:
        raise unknown_value("model.attn_implementation", requested, KERNELS)
    has = {"eager": True, "sdpa": model_class._supports_sdpa, "flash_attention_2": model_class._supports_flash_attn}
    if requested == "auto":
        return "sdpa" if torch.cuda.is_available() and has["sdpa"] else "eager"
    if not has[requested]:
        allowed = ", ".join(["auto", *(kernel for kernel, supported in has.items() if supported)])
        raise ConfigError(f"model.attn_implementation={requested}: {model_class.__name__} has {allowed}")
    return requested


def _options(config: PretrainedConfig, dtype: torch.dtype, kernel: str) -> dict:
    options = {"config": config, "dtype": dtype, "attn_implementation": kernel}
    return options | ({"add_pooling_layer": False} if config.model_type in POOLED else {})


def untrained(config: PretrainedConfig, dtype: str | None = None, kernel: str = "auto") -> nn.Module:
    """A transformers model of this shape with random weights, in ``dtype`` (by default the config's own)."""
    model_class = _model_class(config)
    number_format = config.dtype or torch.float32 if dtype is None else _dtype(dtype)
    options = _options(config, number_format, attention_kernel(kernel, model_class))
    return _with_kernel(lambda: model_class._from_config(**options), options["attn_implementation"])


def pretrained(folder: str | Path, config: PretrainedConfig, dtype: str, kernel: str = "auto") -> nn.Module:
    """The weights in ``folder`` that a model of this config needs, in ``dtype``; all must be there.

    Raises:
        AssetError: weights are missing.
        ConfigError: the kernel is not to be had here.
    """
    model_class = _model_class(config)
    options = _options(config, _dtype(dtype), attention_kernel(kernel, model_class))
    if renames := _text_part(folder)[1]:
        options["key_mapping"] = renames
    # transformers lists every weight of the layers cut off on purpose; what must not be missing is checked here
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, info = _with_kernel(
            lambda: model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options),
            options["attn_implementation"],
        )
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise AssetError(f"{folder} lacks {len(missing)} weights of a {config.model_type}: {missing[:3]} …")
    if renames:
        model._weight_conversions = None  # save_pretrained would give the part its names in the whole
    return model


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise unknown_value("model.dtype", name, DTYPES)
    return DTYPES[name]


def _with_kernel(build, kernel: str):
    try:
        return build()
    except (ImportError, ValueError) as error:
        if kernel != "flash_attention_2":
            raise
        raise ConfigError(f"model.attn_implementation={kernel} is not possible here; use auto. {error}") from error
