"""The steps from data to what training reads: features of its clips, and which of them can be trained on."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from speechde.checkpoint.folder import TrainedModel
from speechde.config import RunConfig
from speechde.corpora.examples_file import FileExamples
from speechde.errors import DataError
from speechde.features.encoders import SpeechEncoder
from speechde.features.sets import encode_shard, encoding, evaluation_sets, training_sets
from speechde.features.units import Quantiser
from speechde.features.vision import ImageEncoder
from speechde.models.embed import pieces_needed, positions_needed
from speechde.training.data import TrainingData
from speechde.training.features import Features, training_features, training_frames, with_pictures
from speechde.training.session import Session
from speechde.types import Audio, Item, Part, Text, Utterance

log = logging.getLogger(__name__)


def encode_share(config: RunConfig, data: TrainingData, encoder: SpeechEncoder, cache: Path) -> dict:
    """Encode a share of the clips of a run, and no more; the dict is what such a run returns."""
    f = config.frontend
    sets = [
        *training_sets(f, data.training, data.dev, data.file_clips),
        *evaluation_sets(f.trim_db, f.mean_norm, data.test, config.eval.degraded),
    ]
    encode_shard(sets, encoder, cache, rate=f.rate, shard=f.share, encode=encoding(f, encoder))
    return {}


def read_features(
    session: Session,
    data: TrainingData,
    encoder: SpeechEncoder | None,
    quantiser: Quantiser | None,
    vision: ImageEncoder | None = None,
) -> Features:
    """Frames, or units, of the training and dev clips, ``quantiser`` as in ``training_features``; and patches."""
    features = _speech_features(session, data, encoder, quantiser) if encoder is not None else Features.none()
    if vision is None or not (data.pictures or data.held_out_pictures):
        return features
    with session.stage("frames"):
        pictures = data.pictures, data.held_out_pictures
        return with_pictures(features, *pictures, vision, session.cache, session.config.seed)


def _speech_features(
    session: Session, data: TrainingData, encoder: SpeechEncoder, quantiser: Quantiser | None
) -> Features:
    f, seed, cache = session.config.frontend, session.config.seed, session.cache
    with session.stage("frames"):
        sets = training_sets(f, data.training, data.dev, data.file_clips)
        frames = training_frames(sets, encoder, cache, rate=f.rate, seed=seed, encode=encoding(f, encoder))
    with session.stage("kmeans"):
        return training_features(f, frames, cache, seed, quantiser)


def usable_data(data: TrainingData, features: Features, max_seconds: float, built: TrainedModel) -> TrainingData:
    """The data with what can be trained on, and in ``left_out`` what cannot, by the reason.

    Raises:
        DataError: there are training clips, and none can be used.
    """
    kept, left_out = usable(data.training, features, max_seconds, built) if data.training else ([], {})
    if data.training and not kept:
        reasons = Counter(features.dropped) + Counter(left_out)
        raise DataError(
            f"not one of {len(data.training)} training clips can be used: "
            + "; ".join(f"{count} {reason}" for reason, count in reasons.items())
            + f"; trainer.max_seconds is {max_seconds:g}, set trainer.max_seconds=30 for clips of sentences, say"
        )
    files, held_out = {}, {split: {} for split in data.held_out}
    for task, file in data.files.items():
        files[task], reasons = usable_examples(file, features, max_seconds, built)
        for split, some in data.held_out.items():
            if task in some:
                held_out[split][task], others = usable_examples(some[task], features, math.inf, built)
                reasons += Counter({f"{split}, {reason}": count for reason, count in others.items()})
        reasons += Counter(dropped.reason for dropped in file.dropped)
        left_out |= {f"{task}: {reason}": count for reason, count in reasons.items()}
    if data.training:
        log.info("training on %d clips, %d of them synthetic", len(kept), sum(u.synthetic for u in kept))
    log.info("left out: %s; %s", features.dropped or "none", ", ".join(f"{n} {why}" for why, n in left_out.items()))
    held_out = {split: {task: file for task, file in some.items() if len(file)} for split, some in held_out.items()}
    return replace(data, training=kept, files=files, held_out=held_out, left_out=left_out)


def usable(
    training: list[Utterance], features: Features, max_seconds: float, built: TrainedModel
) -> tuple[list[Utterance], dict[str, int]]:
    """Clips that have features and are not too long, and how many were, by the limit that they exceed.

    A batch costs as much as its longest clip times its size; a handful of clips of 20 s would decide the speed. A clip
    beyond the LLM's positions has a vector only as the mean of parts, which training does not make.
    """
    stores = {u.id: features.train[:1] if u.synthetic else features.train for u in training}
    present = [u for u in training if all(u.id in store for store in stores[u.id])]
    short = [u for u in present if features.seconds[u.id] <= max_seconds]
    lengths = [max(len(store[u.id]) for store in stores[u.id]) for u in short]
    rooms = {lang: built.model.room("speech", len(built.prompt.speech_ids(lang))) for lang in {u.lang for u in short}}
    kept = [u for u, n in zip(short, lengths, strict=True) if pieces_needed(n, rooms[u.lang]) == 1]
    beyond = {"longer than the LLM's positions": len(short) - len(kept)} if len(kept) < len(short) else {}
    return kept, {"longer than trainer.max_seconds": len(present) - len(short), **beyond}


def longest_clip(config: RunConfig, built: TrainedModel, training: list[Utterance]) -> float:
    """Seconds of what a training example may hear at once, at every speed: ``trainer.max_seconds``, or what the LLM has
    positions for beside the longest prefix."""
    prefixes = (len(built.prompt.speech_ids(lang)) for lang in {u.lang for u in training})
    room = built.model.room("speech", max(prefixes)) if training else None
    if room is None:
        return config.trainer.max_seconds
    slowest = min(speed for speed, _ in config.frontend.versions)
    return min(config.trainer.max_seconds, room / config.frontend.rate * min(1.0, slowest))


def usable_examples(
    file: FileExamples, features: Features, max_seconds: float, built: TrainedModel
) -> tuple[FileExamples, Counter[str]]:
    """Examples whose clips and pictures may be trained on, as in ``usable``, and how many may not, by the reason."""
    left_out: Counter[str] = Counter()
    kept = np.ones(len(file), bool)
    for row in np.flatnonzero(np.logical_or(file.spoken, file.pictured)):
        reasons = {_unusable(item, features, max_seconds, built) for item in file[row].items} - {""}
        left_out.update(sorted(reasons)[:1])
        kept[row] = not reasons
    return file.subset(np.flatnonzero(kept)), left_out


def _unusable(item: Item, features: Features, max_seconds: float, built: TrainedModel) -> str:
    """Why an item of a file cannot be trained on; empty where it can."""
    media = [part for part in item.parts if not isinstance(part, Text)]
    if not media:
        return ""
    if missing := [part for part in media if part.content not in features.train[0]]:
        return f"example whose {'clip' if isinstance(missing[0], Audio) else 'picture'} has no features"
    if any(features.seconds[part.content] > max_seconds for part in media if isinstance(part, Audio)):
        return "example with a clip longer than trainer.max_seconds"
    row = [
        (modality, features.train[0][values.content] if isinstance(values, Part) else values)
        for modality, values in built.prompt.segments(item)
    ]
    fits = positions_needed(built.model, row) <= (built.model.backbone.positions or math.inf)
    return "" if fits else "example longer than the LLM's positions"
