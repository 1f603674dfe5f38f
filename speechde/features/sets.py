"""Lists of clips that become one frame store each, and what encodes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from speechde.conditions import CLEAN, Condition
from speechde.config import FrontendConfig, ImageConfig
from speechde.errors import ConfigError
from speechde.features.encoders import SpeechEncoder, load_speech_encoder
from speechde.features.frames import Encode, View, extract_frames, extract_shard, quantise
from speechde.features.ray_extraction import encode_with_ray
from speechde.features.settings import SpeechSettings
from speechde.features.store import FeatureStore
from speechde.features.units import Quantiser
from speechde.features.vision import ImageEncoder, VisionEncoder
from speechde.types import Utterance
from speechde.weights import resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipSet:
    """Clips that become one frame store; ``role`` is train, synthetic, files, dev or evaluation."""

    role: str
    clips: list[Utterance]
    view: View

    @property
    def label(self) -> str:
        """Of the progress bar."""
        if self.role == "train":
            noise = "" if self.view.snr_db is None else f", noise at {self.view.snr_db:g} dB"
            return f"train ×{self.view.speed:g}{noise}"
        return self.role if self.view.condition == CLEAN else f"{self.role}, {self.view.condition.name}"


def build_encoder(config: FrontendConfig) -> SpeechEncoder | None:
    """The speech encoder that ``frontend.encoder`` names, on the accelerator when there is one; None without speech."""
    if config.kind == "none":
        return None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_speech_encoder(resolve(config.encoder), layer=config.layer, device=device)


def build_vision(config: ImageConfig, device: str | None = None) -> ImageEncoder | None:
    """The vision encoder that ``image.encoder`` names, on the accelerator when there is one; None without pictures.

    ``device="meta"`` builds its shape alone.
    """
    if config.kind == "none":
        return None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return VisionEncoder(resolve(config.encoder, weights=device != "meta"), device=device)


def encoding(config: FrontendConfig, encoder: SpeechEncoder) -> Encode | None:
    """What makes missing pieces: Ray actors, or None for this process."""
    if not config.ray_workers:
        return None
    return partial(encode_with_ray, partial(build_encoder, config), encoder.describe(), config.ray_workers)


def training_sets(
    config: FrontendConfig, train: list[Utterance], dev: list[Utterance], files: list[Utterance] | None = None
) -> list[ClipSet]:
    """The versions of the recorded clips, the synthetic clips, those of files, and dev; none of them empty but dev.

    ``train`` and ``dev`` hold seen languages only; the caller selects them. ``files`` are clips of files of examples,
    which have one version.

    Raises:
        ConfigError: no version of the recorded clips is asked for.
    """
    if not config.speeds:
        raise ConfigError("frontend.speeds=[] leaves no training clip; use [1.0] for clips as recorded")
    plain = View(1.0, config.trim_db, config.mean_norm)
    recorded, made = ([u for u in train if u.synthetic == synthetic] for synthetic in (False, True))
    views = [View(speed, config.trim_db, config.mean_norm, snr) for speed, snr in config.versions]
    sets = [ClipSet("train", recorded, view) for view in views]
    sets += [ClipSet("synthetic", made, plain), ClipSet("files", files or [], plain)]
    return [each for each in sets if each.clips] + [ClipSet("dev", dev, plain)]


def evaluation_set(
    trim_db: float, mean_norm: float, utterances: list[Utterance], condition: Condition = CLEAN
) -> ClipSet:
    """Clips to evaluate, treated as the model's training clips were."""
    return ClipSet("evaluation", utterances, View(1.0, trim_db, mean_norm, condition=condition))


def evaluation_sets(
    trim_db: float, mean_norm: float, utterances: list[Utterance], degraded: Sequence[Condition]
) -> list[ClipSet]:
    """``evaluation_set`` of clean clips, and of the same clips under each condition."""
    return [evaluation_set(trim_db, mean_norm, utterances, condition) for condition in (CLEAN, *degraded)]


def encode_shard(
    sets: list[ClipSet],
    encoder: SpeechEncoder,
    cache: Path,
    *,
    rate: float,
    shard: tuple[int, int],
    encode: Encode | None = None,
) -> None:
    """Encode the share ``(number, count)`` of the pieces of some stores, and say what to run next."""
    pieces = 0
    for each in sets:
        options = {"rate": rate, "view": each.view, "label": each.label, "encode": encode}
        pieces += extract_shard(each.clips, encoder, cache, shard, **options)
    log.info("shard %d/%d is done: %d pieces in %s. When all shards are, run the same command without frontend.shard",
             *shard, pieces, cache / "frames")  # fmt: skip


def evaluation_items(
    speech: SpeechSettings,
    encoder: SpeechEncoder,
    quantiser: Quantiser | None,
    utterances: list[Utterance],
    cache: Path,
    encode: Encode | None = None,
    condition: Condition = CLEAN,
) -> FeatureStore:
    """Stored speech items of clips to evaluate, made as the model's training items were."""
    clips = evaluation_set(speech.trim_db, speech.mean_norm, utterances, condition)
    options = {"rate": speech.rate, "view": clips.view, "label": clips.label, "encode": encode}
    store = extract_frames(clips.clips, encoder, cache, **options)
    return store if quantiser is None else quantise(store, quantiser, cache)
