"""The untrained model that a configuration asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer

from speechde.checkpoint.folder import TrainedModel, assemble
from speechde.checkpoint.settings import (
    FrameSettings,
    HeadSettings,
    PatchSettings,
    PrefixSettings,
    Settings,
    UnitSettings,
)
from speechde.config import RunConfig
from speechde.errors import ConfigError
from speechde.features.encoders import SpeechEncoder
from speechde.features.settings import ImageSettings, SpeechSettings
from speechde.features.vision import ImageEncoder
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.loading import load_config, untrained
from speechde.models.lora import add_lora
from speechde.models.prompt import Prompt
from speechde.training.features import Features
from speechde.training.tasks import task_prompts
from speechde.weights import resolve

log = logging.getLogger(__name__)

Part = TypeVar("Part")


def build_model(
    config: RunConfig, encoder: SpeechEncoder | None, features: Features, vision: ImageEncoder | None = None
) -> TrainedModel:
    """The untrained dual encoder of a run, seeded."""
    torch.manual_seed(config.seed)
    folder = resolve(config.model.source)
    backbone = Backbone.load(
        folder,
        init=config.model.init,
        num_layers=config.model.num_layers,
        attention=config.model.attention,
        dropout=config.model.dropout,
        dtype=config.model.dtype,
        attn_implementation=config.model.attn_implementation,
    )
    scale = embedding_std(backbone)
    tokens = features.quantiser.tokens if features.quantiser else 0
    settings = model_settings(config, encoder, tokens, scale, vision)
    model = assemble(backbone.model, settings)
    config.loss.check_width(model.dim)
    begin_frontends(model, config, features, model.frontends)
    frozen = choose_trained(model, config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log.info("model: %.1f M parameters, %.1f M trained, %d tensors frozen", total / 1e6, trained / 1e6, len(frozen))
    limits = {"max_tokens": settings.max_tokens, "positions": backbone.positions}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = Prompt(tokenizer, **asdict(settings.prefix), **limits, named=settings.prompts)
    return TrainedModel(model, prompt, features.quantiser, settings)


def embedding_std(backbone: Backbone) -> float:
    """Standard deviation of the text rows of an LLM, as they enter it."""
    return float(backbone.embedding.text.weight.detach().float().std() * backbone.embedding.scale)


def begin_frontends(model: DualEncoder, config: RunConfig, features: Features, media: Iterable[str]) -> None:
    """Give the untrained frontends of some ``media`` (``speech``, ``image``) the statistics, or units, of ``features``.

    Raises:
        ConfigError: one of pictures has no picture to learn from.
    """
    for medium in media:
        if medium == "image" and not features.patch_mean.size:
            raise ConfigError(
                "image.kind=patches, and no example of train has a picture; add some, or set image.kind=none"
            )
        if medium == "speech" and features.quantiser is not None:
            centroids = torch.from_numpy(features.quantiser.centroids)
            model.backbone.embedding.reset_audio(config.model.audio_init, centroids)
            continue
        found = {
            "speech": (features.frame_mean, features.frame_std),
            "image": (features.patch_mean, features.patch_std),
        }
        model.frontends[medium].set_statistics(*(torch.from_numpy(each) for each in found[medium]))


def picture_settings(config: RunConfig, vision: ImageEncoder | None, scale: float) -> dict[str, Any]:
    """``patches`` and ``image`` of the settings; ``scale`` is the ``embedding_std`` of the LLM.

    Pictures enter the LLM where speech does, unless it is said otherwise, so that an item may have both.
    """
    if vision is None:
        return {}
    m = config.model
    entry = (0 if config.without_speech else m.speech_layer) if m.image_layer is None else m.image_layer
    made = {"patch_dim": vision.dim, "embedding_std": scale, "entry_layer": entry}
    return {
        "patches": _filled(PatchSettings, config.image, **made),
        "image": ImageSettings(encoder=config.image.encoder, encoder_key=vision.describe()),
    }


def model_settings(
    config: RunConfig, encoder: SpeechEncoder | None, audio_tokens: int, scale: float,
    vision: ImageEncoder | None = None,
) -> Settings:  # fmt: skip
    """What ``assemble`` builds a model from, and what is stored with it."""
    f, m = config.frontend, config.model
    if f.kind == "discrete":
        frontend = _filled(UnitSettings, f, units=audio_tokens, layers=f.unit_layers, embedding_std=scale)
    elif encoder is not None:
        frontend = _filled(FrameSettings, f, frame_dim=encoder.dim, embedding_std=scale)
    else:
        frontend = None
    return Settings(
        frontend=frontend,
        attention=m.attention,
        head=_filled(HeadSettings, m, normalise=config.loss.similarity == "cosine"),
        prefix=_filled(PrefixSettings, m.prefix),
        speech=_filled(SpeechSettings, f, encoder_key=encoder.describe()) if encoder else None,
        **picture_settings(config, vision, scale),
        max_tokens=m.max_tokens,
        prompts=task_prompts(config),
        dims=tuple(config.loss.dims),
    )


def _filled(schema: type[Part], group: Any, **made: Any) -> Part:
    """A part of the settings: what is ``made``, and the rest as a group of the configuration says by the same names."""
    return schema(**made, **{f.name: getattr(group, f.name) for f in fields(schema) if f.name not in made})


def choose_trained(model: DualEncoder, config: RunConfig) -> list[str]:
    """Set what is trained and how; returns the names of the frozen tensors."""
    model.backbone.gradient_checkpointing = config.model.gradient_checkpointing
    frozen = model.backbone.freeze(config.model.freeze) if config.model.freeze else []
    if config.model.lora.rank:  # after freezing: a pattern such as * must not reach the adapters
        add_lora(model.backbone, **asdict(config.model.lora))
    return frozen


def model_shape(config: RunConfig, encoder: SpeechEncoder, vision: ImageEncoder | None = None) -> DualEncoder:
    """The model of ``build_model`` on the device ``meta``: every shape, no weights read, no memory used.

    A BPE is taken to have as many tokens as ``frontend.bpe`` asks for.
    """
    m, tokens = config.model, config.frontend.bpe or config.frontend.units
    with torch.device("meta"):
        llm = untrained(load_config(resolve(m.source, weights=False), m.num_layers), m.dtype, m.attn_implementation)
        model = assemble(llm, model_settings(config, encoder, tokens, 1.0, vision))
        config.loss.check_width(model.dim)
        choose_trained(model, config)
    return model
