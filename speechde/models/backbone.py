"""The shared LLM of the dual encoder, loaded through transformers' ``AutoModel``.

One class carries decoders (Gemma, Llama, Mistral, Qwen) and encoders (BERT, XLM-R): both map input embeddings and a
mask to hidden states. What differs — where the layers stop, how attention becomes bidirectional, whether the input
embedding is scaled — is settled here, so that nothing above needs to know the model type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging

from speechde.errors import AssetError, ConfigError, unknown_value
from speechde.models.attention import BIDIRECTIONAL_DECODERS, attention_direction, bidirectional_mask
from speechde.models.vocabulary import ExtendedEmbedding

INITS = ("pretrained", "random")
POOLED = ("bert", "xlm-roberta")  # types that come with a sentence head, which is no part of the language model


def load_config(folder: str | Path, num_layers: int | None = None) -> PretrainedConfig:
    """The text config of a checkpoint folder, cut to its first ``num_layers`` layers.

    Raises:
        ConfigError: ``num_layers`` is not between 1 and the model's own number.
    """
    config = AutoConfig.from_pretrained(folder).get_text_config()
    if num_layers is None:
        return config
    if not 1 <= num_layers <= config.num_hidden_layers:
        raise ConfigError(
            f"model.num_layers={num_layers} is not possible: {folder} has {config.num_hidden_layers} layers; "
            f"use 1 to {config.num_hidden_layers}, or null for all"
        )
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types[:num_layers])
    config.num_hidden_layers = num_layers
    return config


def _options(config: PretrainedConfig) -> dict:
    options = {"config": config, "dtype": torch.float32, "attn_implementation": attention_kernel()}
    return options | ({"add_pooling_layer": False} if config.model_type in POOLED else {})


def untrained(config: PretrainedConfig) -> nn.Module:
    """A transformers model of this shape with random weights, as ``Backbone`` takes it: float32, no sentence head."""
    return AutoModel.from_config(**_options(config))


def _load_weights(folder: str | Path, options: dict) -> nn.Module:
    # transformers lists every weight of the layers cut off on purpose; what must not be missing is checked here
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, info = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise AssetError(f"{folder} lacks {len(missing)} weights of a {model.config.model_type}: {missing[:3]} …")
    return model


def attention_kernel() -> str:
    """transformers' name of the attention kernel: plain matrix products on a CPU, where the fused kernel takes 1.5
    times as long on the short sequences of this task (measured with a mask, 30 positions); fused on a GPU."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def _pass_on(hidden_states: Tensor, *_, **__) -> Tensor:
    return hidden_states


class Backbone(nn.Module):
    """An LLM without its output head, read through ``embed`` and ``forward``.

    Args:
        model: a transformers model that takes ``inputs_embeds`` and ``attention_mask``.
        audio_tokens: rows added to the input embedding for discrete units.
        attention: ``bidirectional`` or ``causal``; refused for model types that were not validated.
    """

    def __init__(self, model: nn.Module, audio_tokens: int = 0, attention: str = "bidirectional") -> None:
        super().__init__()
        self.config = model.config
        self.attention = attention_direction(self.config.model_type, attention)
        self.embedding = ExtendedEmbedding(model.get_input_embeddings(), audio_tokens)
        self.model = model

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        init: str = "pretrained",
        num_layers: int | None = None,
        audio_tokens: int = 0,
        attention: str = "bidirectional",
        dropout: float | None = None,
    ) -> Backbone:
        """Build from a local checkpoint folder (see ``speechde.weights.resolve``), in float32.

        Args:
            init: ``pretrained``, or ``random`` for the same shape without the weights (the control run).
            num_layers: keep only the first layers.
            dropout: overrides the dropout probabilities of the checkpoint's config (LLMs ship with none).
        """
        if init not in INITS:
            raise unknown_value("model.init", init, INITS)
        config = load_config(folder, num_layers)
        if dropout is not None:
            for key in ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"):
                if hasattr(config, key):
                    setattr(config, key, dropout)
        model = untrained(config) if init == "random" else _load_weights(folder, _options(config))
        return cls(model, audio_tokens, attention)

    @property
    def width(self) -> int:
        """m, the width of the input embeddings and hidden states."""
        return self.config.hidden_size

    def embed(self, ids: Tensor) -> Tensor:
        """``(batch, time)`` ids (text or audio tokens) → ``(batch, time, width)`` input embeddings."""
        return self.embedding(ids)

    def forward(self, inputs: Tensor, mask: Tensor, first_layer: int = 0) -> Tensor:
        """``(batch, time, width)`` input embeddings and a ``(batch, time)`` bool mask → last hidden states.

        Positions are counted from the left, so inputs must be padded on the right. With ``first_layer`` > 0 the layers
        below it are skipped.
        """
        if first_layer:
            with self._skipping(first_layer):
                return self.forward(inputs, mask)
        return self.model(inputs_embeds=inputs, attention_mask=self._attention_mask(mask)).last_hidden_state

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, lowest first."""
        owner = self.model.encoder if hasattr(self.model, "encoder") else self.model
        return owner.layer if hasattr(owner, "layer") else owner.layers

    @contextmanager
    def _skipping(self, first_layer: int) -> Iterator[None]:
        """Within the block the layers below ``first_layer`` hand their input on.

        The model's own loop computes masks and positions and runs unchanged, whatever the architecture.
        """
        skipped = self.layers[:first_layer]
        for layer in skipped:
            layer.forward = _pass_on
        try:
            yield
        finally:
            for layer in skipped:
                del layer.forward

    def _attention_mask(self, mask: Tensor):
        if self.attention == "causal" or self.config.model_type not in BIDIRECTIONAL_DECODERS:
            return mask.long()
        full = self._kernel_mask(bidirectional_mask(mask))
        if not getattr(self.config, "layer_types", None):
            return full
        sliding = bidirectional_mask(mask, getattr(self.config, "sliding_window", None))
        return {"full_attention": full, "sliding_attention": self._kernel_mask(sliding)}

    def _kernel_mask(self, visible: Tensor) -> Tensor:
        """The eager kernel adds its mask to the logits; the fused one takes a bool mask."""
        if self.config._attn_implementation != "eager":
            return visible
        return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, torch.finfo(torch.bfloat16).min)

    def freeze(self, patterns: list[str]) -> list[str]:
        """Stop training the parameters whose names match a glob pattern, and return their names.

        Names are those of ``named_parameters()``; the audio rows, ``embedding.audio``, are never frozen by ``*``.

        Raises:
            ConfigError: a pattern matches nothing.
        """
        frozen: list[str] = []
        parameters = dict(self.named_parameters())
        for pattern in patterns:
            matches = [name for name in parameters if fnmatch(name, pattern) and name != "embedding.audio"]
            if not matches:
                some = ", ".join(list(parameters)[:4])
                raise ConfigError(f"model.freeze: pattern {pattern!r} matches no parameter; names look like {some} …")
            frozen += matches
        for name in frozen:
            parameters[name].requires_grad_(False)
        return sorted(set(frozen))
