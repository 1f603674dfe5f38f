"""The shared LLM of the dual encoder.

One class carries decoders (Gemma, Llama, Mistral, Qwen) and encoders (BERT, XLM-R, the encoder of mT5): all map input
embeddings and a mask to hidden states. What differs — where the layers are, how attention becomes bidirectional,
whether the input embedding is scaled — is settled here and in ``loading``, so that nothing above needs to know the
model type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechde.errors import ConfigError, unknown_value
from speechde.models.attention import BIDIRECTIONAL_DECODERS, attention_direction, decoder_arguments, is_flash
from speechde.models.loading import load_config, positions, pretrained, untrained
from speechde.models.vocabulary import ExtendedEmbedding

INITS = ("pretrained", "random")


def _skipped(layer: nn.Module) -> Callable:
    """What a layer that is left out does instead: hand its input on."""

    def hand_on(hidden_states: Tensor, *_, **__) -> Tensor:
        return hidden_states

    def hand_on_t5(hidden_states: Tensor, mask=None, position_bias: Tensor | None = None, *_, **__) -> tuple:
        if position_bias is None:  # the first block also computes the position bias of all others
            time = hidden_states.shape[1]
            position_bias = layer.layer[0].SelfAttention.compute_bias(time, time, device=hidden_states.device)
        return hidden_states, position_bias, None

    return hand_on_t5 if hasattr(layer, "layer") else hand_on


def _joining(forward: Callable, states: Tensor, where: Tensor) -> Callable:
    """What a layer does whose input has other ``states`` at some positions."""

    def joined(hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        return forward(torch.where(where.unsqueeze(-1), states.to(hidden_states.dtype), hidden_states), *args, **named)

    return joined


def _keeping(hand_on: Callable, kept: list[Tensor]) -> Callable:
    """What a layer does that only tells its input."""

    def told(hidden_states: Tensor, *args: Any, **named: Any) -> Any:
        kept.append(hidden_states)
        return hand_on(hidden_states, *args, **named)

    return told


def twin(module: nn.Module, children: Mapping[str, nn.Module] | None = None, **attributes: Any) -> nn.Module:
    """A module with the parameters, buffers, hooks and children of another, but for those children and attributes.

    It takes microseconds. The class is not called: those of FSDP construct another module.
    """
    made = object.__new__(type(module))
    vars(made).update(vars(module), _modules={**module._modules, **(children or {})}, **attributes)
    return made


class Backbone(nn.Module):
    """An LLM without its output head, read through ``embed`` and ``forward``.

    Args:
        model: a transformers model that takes ``inputs_embeds`` and ``attention_mask``.
        audio_tokens: rows added to the input embedding for discrete units; float32, whatever the LLM is in.
        attention: ``bidirectional`` or ``causal``; refused for model types that were not validated.
        gradient_checkpointing: keep only the inputs of the layers for the backward pass and run each layer again
            there: memory of one layer in place of all, for a third more computation. Unlike transformers' own switch
            it also works in eval mode, in which a frozen LLM is trained through. May be set later.
    """

    def __init__(
        self,
        model: nn.Module,
        audio_tokens: int = 0,
        attention: str = "bidirectional",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.config = model.config
        self.config.use_cache = False  # keys and values of one pass are of no use to another
        self.attention = attention_direction(self.config, attention)
        self.gradient_checkpointing = gradient_checkpointing
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
        dtype: str = "float32",
        attn_implementation: str = "auto",
        gradient_checkpointing: bool = False,
    ) -> Backbone:
        """Build from a local checkpoint folder (see ``speechde.weights.resolve``).

        Args:
            init: ``pretrained``, or ``random`` for the same shape without the weights (the control run).
            num_layers: keep only the first layers.
            dropout: overrides the dropout probabilities of the checkpoint's config (most LLMs ship with none).
            dtype: ``float32``, or ``bfloat16`` to halve the memory of weights that are frozen or adapted by LoRA; in
                bfloat16 AdamW's small steps round to nothing, so do not train the weights themselves in it.
            attn_implementation: see ``loading.attention_kernel``.
        """
        if init not in INITS:
            raise unknown_value("model.init", init, INITS)
        config = load_config(folder, num_layers, dropout)
        attention_direction(config, attention)  # refused before gigabytes are read
        if init == "random":
            model = untrained(config, dtype, attn_implementation)
        else:
            model = pretrained(folder, config, dtype, attn_implementation)
        return cls(model, audio_tokens, attention, gradient_checkpointing)

    @property
    def width(self) -> int:
        """m, the width of the input embeddings."""
        return self.config.hidden_size

    @property
    def output_width(self) -> int:
        """Width of the hidden states that ``forward`` returns: m, except where the LLM ends in a projection."""
        return getattr(self.config, "embedding_dim", self.width)

    @property
    def positions(self) -> int | None:
        """The longest input, in positions; None where the LLM sets no limit."""
        return positions(self.config)

    def embed(self, ids: Tensor) -> Tensor:
        """``(batch, time)`` ids (text or audio tokens) → ``(batch, time, width)`` input embeddings."""
        return self.embedding(ids)

    def forward(
        self, inputs: Tensor, mask: Tensor, first_layer: int = 0, joining: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """``(batch, time, width)`` input embeddings and a ``(batch, time)`` bool mask → last hidden states.

        Positions are counted from the left, so inputs must be padded on the right. With ``first_layer`` > 0 the layers
        below it are skipped, and ``joining`` are states ``(batch, time, width)`` that have come through them elsewhere
        (``up_to``), with the positions ``(batch, time)`` at which they enter in place of the inputs. Inputs are cast to
        the number format of the LLM's weights.
        """
        forwards = {i: _skipped(layer) for i, layer in enumerate(self.layers[:first_layer])}
        if joining is not None:
            forwards[first_layer] = _joining(self._forward_of(first_layer), *joining)
        return self._run(inputs, mask, forwards).last_hidden_state

    def up_to(self, inputs: Tensor, mask: Tensor, layer: int) -> Tensor:
        """As ``forward``, but the states that reach the input of a layer; those from it on are not run."""
        kept: list[Tensor] = []
        forwards = {i: _skipped(one) for i, one in enumerate(self.layers) if i >= layer}
        forwards[layer] = _keeping(forwards[layer], kept)
        self._run(inputs, mask, forwards)
        return kept[0]

    def _run(self, inputs: Tensor, mask: Tensor, forwards: dict[int, Callable]) -> Any:
        """The output of the model with layers that do something else, by their number."""
        inputs = inputs.to(self.embedding.text.weight.dtype)
        full_precision = inputs.dtype == torch.float32 and not torch.is_autocast_enabled(inputs.device.type)
        if full_precision and is_flash(self.config):
            raise ConfigError(
                "model.attn_implementation=flash_attention_2 computes in bfloat16; set trainer.precision=bf16-mixed or "
                "model.dtype=bfloat16"
            )
        arguments = {"attention_mask": mask.long()}
        if self.attention == "bidirectional" and self.config.model_type in BIDIRECTIONAL_DECODERS:
            arguments = decoder_arguments(self.config, mask)
        return self._model_with(forwards)(inputs_embeds=inputs, **arguments)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, lowest first."""
        return getattr(*self._layer_list())

    def entered_at(self, first_layer: int) -> Backbone:
        """A backbone over the same weights whose every pass skips those layers; for exporters, which trace modules."""
        forwards = {i: _skipped(layer) for i, layer in enumerate(self.layers[:first_layer])}
        return twin(self, {"model": self._model_with(forwards)})

    def _layer_list(self) -> tuple[nn.Module, str]:
        """The part of the model that runs the layers, and what it calls them."""
        owner = getattr(self.model, "encoder", self.model)
        return owner, next(name for name in ("layers", "layer", "block") if hasattr(owner, name))

    def _forward_of(self, number: int) -> Callable:
        """What a layer does, checkpointed where it is asked for."""
        forward = self.layers[number].forward
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return partial(checkpoint, forward, use_reentrant=False)
        return forward

    def _model_with(self, forwards: Mapping[int, Callable]) -> nn.Module:
        """The model, with layers that do something else, by their number, and others that are checkpointed.

        The model's own loop computes masks and positions and runs unchanged, whatever the architecture. Nothing that
        another thread could see is changed: what differs is done by twins of the layers in a twin of the model. They
        are made for this pass, and so can neither grow old nor be saved.
        """
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        if not forwards and not again:
            return self.model
        changed = {
            str(i): twin(layer, forward=forwards.get(i) or self._forward_of(i))
            for i, layer in enumerate(self.layers)
            if i in forwards or again
        }
        owner, name = self._layer_list()
        part = twin(owner, {name: twin(self.layers, changed)})
        return part if owner is self.model else twin(self.model, {"encoder": part})

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
