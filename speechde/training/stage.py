"""A stage: a run that starts from a trained model (``init=MODEL``) and not from an LLM alone.

What defines the model (its LLM, speech encoder, units or frame statistics, prefixes) and its weights are read from its
folder, and neither chosen nor fitted again. The rest is the configuration's: data, loss, optimiser, what is trained.
A configuration may leave open what the folder decides (``null``; ``frontend=trained model=trained`` do), or say the
same; one that says otherwise is refused, value by value. A medium that the model does not take is not decided by it: a
model of texts may learn to hear, and one without pictures to see, through a frontend that the run begins.

Languages that the model was trained on before stay seen languages, whatever this run trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

from speechde.checkpoint.encoders import check_encoder
from speechde.checkpoint.folder import (
    TrainedModel,
    assemble,
    find_model,
    languages_heard,
    read_settings,
)
from speechde.checkpoint.settings import TRAINING_ONLY, Settings
from speechde.config import FrontendConfig, ImageConfig, RunConfig
from speechde.corpora.load import check_split
from speechde.errors import ConfigError
from speechde.features.encoders import SpeechEncoder
from speechde.features.vision import ImageEncoder
from speechde.training.build import begin_frontends, choose_trained, embedding_std, model_settings
from speechde.training.features import Features
from speechde.training.tasks import task_prompts
from speechde.types import Corpus

SPEECH = ("layer", "rate", "trim_db", "mean_norm", "deduplicate", "bpe")  # settings that decide the features
PICTURES = ("hidden", "stride", "layers", "heads")  # of the frontend for pictures
SHAPE = ("hidden", "stride", "layers", "heads", "downsample", "positions")  # of a continuous frontend
PARTS = {"speech": ("frontend", "speech"), "image": ("patches", "image")}  # of the settings, of each medium
# what a folder says of a medium that its model does not take
OPEN = {"speech": ("frontend.kind", "model.speech_layer", "model.prefix.speech"), "image": ("model.prefix.image",)}


def inherit(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what the model ``init`` decides filled in.

    Raises:
        AssetError: it is not a model, or a run that is not done.
        ConfigError: it is not named, or the configuration asks for another model; every difference is named.
    """
    values = deepcopy(dict(values))
    source = values["init"]
    if not source:
        raise ConfigError("init is not set; name a trained model, e.g. init=runs/quickstart/default-s0")
    folder = find_model(source)
    settings = read_settings(folder)
    settings.trained(folder)  # or nobody could say which languages it knows
    values["init"] = str(source)
    _see(values, settings)
    kind, has = values["frontend"]["kind"], settings.frontend.kind if settings.frontend else "none"
    hear = has == "none" and kind not in (None, "none")
    if kind not in (None, has) and not hear:  # no other setting of the frontend means anything then
        raise ConfigError(
            f"frontend.kind={kind} (it has {has}): decided by the trained model {source}; take "
            "frontend=trained, or another model"
        )
    fixed, free = _described(folder, settings)
    begun = [medium for medium, new in (("speech", hear), ("image", settings.image is None)) if new]
    free |= {name: fixed.pop(name) for medium in begun for name in OPEN[medium]}
    same = _also_said(folder, settings)
    conflicts = []
    for name, own in (fixed | free).items():
        *groups, key = name.split(".")
        target = values
        for group in groups:
            target = target[group]
        if name in fixed and target[key] not in (None, own, *same.get(name, ())):
            conflicts.append(f"{name}={target[key]} (it has {own})")
        elif name in fixed or target[key] is None:
            target[key] = own
    if conflicts:
        raise ConfigError(
            f"{', '.join(conflicts)}: decided by the trained model {source}; leave it out, or set it to null "
            "(frontend=trained model=trained do so for all that they name)"
        )
    if (own := "cosine" if settings.head.normalise else "dot") != (asked := values["loss"]["similarity"]):
        fix = {"cosine": "loss=modern", "dot": "loss=faithful"}[own]
        raise ConfigError(f"loss.similarity={asked}, and the model {source} compares by {own}; add {fix}")
    values["loss"]["dims"] = values["loss"].get("dims") or list(settings.dims)  # sizes that it has, it keeps
    return values


def _see(values: dict[str, Any], settings: Settings) -> None:
    """A model that sees goes on to; another one may be given a frontend for pictures, which this run trains."""
    group = values.setdefault("image", asdict(ImageConfig()))
    if settings.image is not None:
        group["kind"] = "patches"
        if group["encoder"] == ImageConfig().encoder:
            group["encoder"] = settings.image.encoder


def _described(folder: Path, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by dotted name: those that a trained model decides, and those that may be set otherwise."""
    frontend, head = settings.frontend, settings.head
    dtype = AutoConfig.from_pretrained(folder).dtype
    fixed = {
        "mode": settings.training["mode"],
        "frontend.kind": frontend.kind if frontend else "none",
        "model.source": str(folder),
        "model.init": "pretrained",
        "model.dtype": str(dtype or "float32").removeprefix("torch."),
        "model.num_layers": None,  # the LLM in the folder has been cut
        "model.dropout": None,
        "model.attention": settings.attention,
        "model.attn_implementation": "auto",
        "model.max_tokens": settings.max_tokens,
        **{f"model.{key}": getattr(head, key) for key in ("dim", "projection_init", "projection_gain", "speech_layer")},
        **{f"model.prefix.{key}": value for key, value in asdict(settings.prefix).items()},
    }
    if settings.patches is not None:
        fixed["model.image_layer"] = settings.patches.entry_layer
        fixed |= {f"image.{key}": getattr(settings.patches, key) for key in PICTURES}
    if frontend is None:
        return fixed, {f"frontend.{key}": value for key, value in asdict(FrontendConfig()).items() if key != "kind"}
    speech = settings.speech
    fixed |= {f"frontend.{key}": getattr(speech, key) for key in SPEECH}
    if settings.discrete:
        with safe_open(folder / "kmeans.safetensors", "numpy") as file:
            fixed["frontend.units"] = file.get_slice("centroids").get_shape()[0]
        fixed |= {f"frontend.{key}": getattr(frontend, key) for key in ("hidden", "heads")} if frontend.layers else {}
        fixed["frontend.unit_layers"] = frontend.layers
    else:
        fixed |= {f"frontend.{key}": getattr(frontend, key) for key in SHAPE}
    # the encoder may lie elsewhere: its weights are checked against those of training
    free = asdict(FrontendConfig()) | {key: getattr(frontend, key) for key in TRAINING_ONLY if hasattr(frontend, key)}
    free["encoder"] = speech.encoder
    return fixed, {f"frontend.{key}": value for key, value in free.items() if f"frontend.{key}" not in fixed}


def _also_said(folder: Path, settings: Settings) -> dict[str, tuple]:
    """How the configuration of a model's own training says what its folder decides: the LLM it began with, cut."""
    record = settings.training
    before = record.get("config", {}).get("model", {})
    llm = record.get("llm", {}).get("source", before.get("source"))
    layers = AutoConfig.from_pretrained(folder).num_hidden_layers
    return {
        "model.source": (llm,),
        "model.num_layers": (layers,),
        "model.dropout": (before.get("dropout"),),
        **{f"image.{key}": (getattr(ImageConfig(), key),) for key in PICTURES},  # a default may be meant or not
    }


def initial_model(config: RunConfig, encoder: SpeechEncoder | None, vision: ImageEncoder | None = None) -> TrainedModel:
    """The model ``init`` as it is.

    Raises:
        AssetError: an encoder is not the one that it was trained with.
    """
    trained = TrainedModel.load(config.model.source)
    for own, found in ((trained.settings.speech, encoder), (trained.settings.image, vision)):
        if own is not None and found is not None:
            check_encoder(own, found)
    config.loss.check_width(trained.model.dim)
    return trained


def next_model(
    config: RunConfig,
    trained: TrainedModel,
    encoder: SpeechEncoder | None,
    features: Features,
    vision: ImageEncoder | None = None,
) -> TrainedModel:
    """The model ``init``, ready to be trained: its weights, with the dropouts and the frozen parts of ``config``.

    It gets a frontend for what ``config`` has and it does not take: seeded, with what ``features`` say of it.
    """
    torch.manual_seed(config.seed)
    settings, begun = _settings(config, trained, encoder, features, vision)
    model = assemble(trained.model.backbone.model, settings)
    own, state = model.state_dict(), trained.model.state_dict()
    # what is begun has no weights yet, and a vocabulary of no units is not one of some
    begin = tuple(f"frontends.{medium}." for medium in begun)
    new = {name for name in own if name.startswith(begin) or (name in state and not state[name].numel())}
    model.load_state_dict(state | {name: own[name] for name in new})
    begin_frontends(model, config, features, begun)
    choose_trained(model, config)
    prompt = trained.prompt.restated(settings.prompts, {medium: getattr(settings.prefix, medium) for medium in begun})
    return TrainedModel(model, prompt, features.quantiser if "speech" in begun else trained.quantiser, settings)


def _settings(
    config: RunConfig, trained: TrainedModel, encoder: SpeechEncoder | None, features: Features,
    vision: ImageEncoder | None,
) -> tuple[Settings, list[str]]:  # fmt: skip
    """Settings of the next model, and the media that it takes and ``trained`` does not."""
    own = trained.settings
    tokens = features.quantiser.tokens if features.quantiser else 0
    asked = model_settings(config, encoder, tokens, embedding_std(trained.model.backbone), vision)
    begun = [medium for medium, found, has in (("speech", encoder, own.speech), ("image", vision, own.image))
             if found is not None and has is None]  # fmt: skip
    changed: dict[str, Any] = {name: getattr(asked, name) for medium in begun for name in PARTS[medium]}
    for name in {"frontend", "patches"} - set(changed):
        if (kept := getattr(own, name)) is not None:
            changed[name] = _trained_otherwise(kept, getattr(asked, name))
    changed["prefix"] = replace(own.prefix, **{medium: getattr(asked.prefix, medium) for medium in begun})
    if "speech" in begun:
        changed["head"] = replace(own.head, speech_layer=asked.head.speech_layer)
    named = own.prompts | task_prompts(config)  # those that it had are not forgotten at once
    return replace(own, dims=tuple(config.loss.dims), prompts=named, **changed), begun


def _trained_otherwise(own: Any, asked: Any) -> Any:
    """Settings of a frontend, with those that only training reads as they are ``asked``, if anything is."""
    return replace(own, **{key: getattr(asked, key) for key in TRAINING_ONLY if hasattr(own, key) and asked})


def without_known(config: RunConfig, corpus: Corpus) -> Corpus:
    """A corpus whose zero-shot languages are those that the model ``init`` was not trained on either.

    Raises:
        ConfigError: the model was trained on this corpus, and it is split otherwise now.
    """
    if config.init is None:
        return corpus
    record = read_settings(Path(config.model.source)).training
    check_split(config.data, record)
    known = set(languages_heard(record))
    zero_shot, proxy = (tuple(x for x in langs if x not in known) for langs in (corpus.zero_shot, corpus.proxy))
    return replace(corpus, zero_shot=zero_shot, proxy=proxy)
