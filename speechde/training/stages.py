"""The stages between corpus and training, each cached: frames, units, model."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from speechde.cache import atomic_write, fingerprint
from speechde.checkpoint.folder import TrainedModel, assemble
from speechde.config import FrontendConfig, RunConfig
from speechde.errors import ConfigError
from speechde.features.encoders import SpeechEncoder, load_speech_encoder
from speechde.features.frames import Encode, View, extract_frames, extract_shard, quantise
from speechde.features.kmeans import VERSION as KMEANS_VERSION
from speechde.features.kmeans import KMeans, fit_kmeans
from speechde.features.ray_extraction import encode_with_ray
from speechde.features.store import FeatureStore
from speechde.features.unit_bpe import MAX_SEQUENCES, UnitBpe, train_bpe
from speechde.features.unit_bpe import VERSION as BPE_VERSION
from speechde.features.units import Quantiser
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import STATES_VERSION, pieces_needed, text_states
from speechde.models.loading import load_config, untrained
from speechde.models.lora import add_lora
from speechde.models.prompt import Prompt
from speechde.training.sharding import whole_tensor
from speechde.types import Utterance
from speechde.weights import resolve

KMEANS_FRAMES = 500_000  # frames sampled for k-means: about 500 per unit, where the centroids no longer move
log = logging.getLogger(__name__)


@dataclass
class Frames:
    """Frame stores of the training and dev clips."""

    views: list[FeatureStore]  # one per version of the recorded clips
    synthetic: list[FeatureStore]  # one or none
    dev: FeatureStore
    sample: np.ndarray  # (n, dim) float32 of the training frames

    @property
    def training(self) -> list[FeatureStore]:
        """Every store of training clips."""
        return [*self.views, *self.synthetic]


@dataclass
class Features:
    """Stored speech items: one store per split and view, and the quantiser of a discrete frontend."""

    train: list[FeatureStore]  # one per view of the recorded clips; synthetic clips are in the first
    dev: FeatureStore
    quantiser: Quantiser | None
    frame_mean: np.ndarray  # (dim,) of the training frames
    frame_std: np.ndarray
    dropped: dict[str, int]
    times_real_time: list[float]
    seconds: dict[str, float]  # of the training clips, by id


@dataclass(frozen=True)
class ClipSet:
    """Clips that become one frame store; ``role`` is train, synthetic, dev or evaluation."""

    role: str
    clips: list[Utterance]
    view: View

    @property
    def label(self) -> str:
        """Of the progress bar."""
        noise = "" if self.view.snr_db is None else f", noise at {self.view.snr_db:g} dB"
        return f"train ×{self.view.speed:g}{noise}" if self.role == "train" else self.role


def build_encoder(config: FrontendConfig) -> SpeechEncoder:
    """The speech encoder that ``frontend.encoder`` names, on the accelerator when there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_speech_encoder(resolve(config.encoder), layer=config.layer, device=device)


def encoding(config: FrontendConfig, encoder: SpeechEncoder) -> Encode | None:
    """What makes missing pieces: Ray actors, or None for this process."""
    if not config.ray_workers:
        return None
    return partial(encode_with_ray, partial(build_encoder, config), encoder.describe(), config.ray_workers)


def training_sets(config: FrontendConfig, train: list[Utterance], dev: list[Utterance]) -> list[ClipSet]:
    """The versions of the recorded clips, the synthetic clips, and the dev clips; none of them empty but dev.

    ``train`` and ``dev`` hold seen languages only; the caller selects them.

    Raises:
        ConfigError: no version of the recorded clips is asked for.
    """
    if not config.speeds:
        raise ConfigError("frontend.speeds=[] leaves no training clip; use [1.0] for clips as recorded")
    plain = View(1.0, config.trim_db, config.mean_norm)
    recorded, made = ([u for u in train if u.synthetic == synthetic] for synthetic in (False, True))
    views = [View(speed, config.trim_db, config.mean_norm, snr) for speed, snr in config.versions]
    sets = [ClipSet("train", recorded, view) for view in views]
    sets.append(ClipSet("synthetic", made, plain))
    return [each for each in sets if each.clips] + [ClipSet("dev", dev, plain)]


def evaluation_set(trim_db: float, mean_norm: float, utterances: list[Utterance]) -> ClipSet:
    """Clips to evaluate, treated as the model's training clips were."""
    return ClipSet("evaluation", utterances, View(1.0, trim_db, mean_norm))


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


def training_frames(
    sets: list[ClipSet],
    encoder: SpeechEncoder,
    cache: Path,
    *,
    rate: float,
    seed: int,
    encode: Encode | None = None,
) -> Frames:
    """Frames of ``training_sets``, encoded or read from the cache."""
    stores: dict[str, list[FeatureStore]] = {"train": [], "synthetic": [], "dev": []}
    for each in sets:
        options = {"rate": rate, "view": each.view, "label": each.label, "encode": encode}
        stores[each.role].append(extract_frames(each.clips, encoder, cache, **options))
    views, synthetic, (dev,) = stores.values()
    return Frames(views, synthetic, dev, FeatureStore.merge([*views, *synthetic]).sample(KMEANS_FRAMES, seed))


def training_features(
    config: FrontendConfig, frames: Frames, cache: Path, seed: int, quantiser: Quantiser | None = None
) -> Features:
    """What training reads: frames, or units.

    ``quantiser`` is that of a model that is adapted; without one, one is fitted on the training clips alone.
    """
    dropped: Counter[str] = Counter()
    for store in [*frames.views[:1], *frames.synthetic, frames.dev]:
        dropped.update(item.reason for item in store.dropped)
    views, synthetic, dev = frames.views, frames.synthetic, frames.dev
    if config.kind == "discrete":
        quantiser = quantiser or _quantiser(config, frames, cache, seed)
        views, synthetic = ([quantise(s, quantiser, cache) for s in stores] for stores in (views, synthetic))
        dev = quantise(dev, quantiser, cache)
    first = [*frames.views[:1], *frames.synthetic]
    return Features(
        train=[FeatureStore.merge([*views[:1], *synthetic]), *views[1:]],
        dev=dev,
        quantiser=quantiser,
        frame_mean=frames.sample.mean(0),
        frame_std=frames.sample.std(0) + 1e-5,
        dropped=dict(dropped),
        times_real_time=[store.speed for store in frames.training if store.speed is not None],
        seconds={id_: seconds for store in first for id_, seconds in store.seconds.items()},
    )


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


def frozen_text_states(model: DualEncoder, ids: list[np.ndarray], cache: Path) -> np.ndarray:
    """``text_states`` of a frozen LLM, from the cache when the same weights have read the same texts before."""
    digest = hashlib.sha256(f"{STATES_VERSION} {model.backbone.config.to_json_string()}".encode())
    digest.update(model.backbone.attention.encode())
    for name, values in model.backbone.state_dict().items():
        if name != "embedding.audio":
            digest.update(name.encode())
            digest.update(whole_tensor(values.detach()).cpu().reshape(-1).view(torch.uint8).numpy())
    for text in ids:
        digest.update(np.asarray(text, np.int64).tobytes() + b"|")
    path = cache / "text_states" / f"{digest.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        with atomic_write(path) as temporary:
            save_file({"states": text_states(model, ids)}, temporary)
    return load_file(path)["states"]


def evaluation_items(
    settings: dict,
    encoder: SpeechEncoder,
    quantiser: Quantiser | None,
    utterances: list[Utterance],
    cache: Path,
    encode: Encode | None = None,
) -> FeatureStore:
    """Stored speech items of clips to evaluate, made as the model's training items were (``settings["speech"]``)."""
    speech = settings["speech"]
    clips = evaluation_set(speech["trim_db"], speech.get("mean_norm", 0.0), utterances)
    options = {"rate": speech["rate"], "view": clips.view, "label": clips.label, "encode": encode}
    store = extract_frames(clips.clips, encoder, cache, **options)
    return store if quantiser is None else quantise(store, quantiser, cache)


def build_model(config: RunConfig, encoder: SpeechEncoder, features: Features) -> TrainedModel:
    """The untrained dual encoder of a run, seeded."""
    torch.manual_seed(config.seed)
    folder = resolve(config.model.source)
    discrete = config.frontend.kind == "discrete"
    backbone = Backbone.load(
        folder,
        init=config.model.init,
        num_layers=config.model.num_layers,
        attention=config.model.attention,
        dropout=config.model.dropout,
        dtype=config.model.dtype,
        attn_implementation=config.model.attn_implementation,
    )
    scale = float(backbone.embedding.text.weight.detach().float().std() * backbone.embedding.scale)
    tokens = features.quantiser.tokens if discrete else 0
    settings = model_settings(config, encoder, tokens, scale)
    model = assemble(backbone.model, settings)
    if discrete:
        centroids = torch.from_numpy(features.quantiser.centroids)
        model.backbone.embedding.reset_audio(config.model.audio_init, centroids)
    else:
        model.frontends["speech"].set_statistics(
            torch.from_numpy(features.frame_mean), torch.from_numpy(features.frame_std)
        )
    frozen = choose_trained(model, config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log.info("model: %.1f M parameters, %.1f M trained, %d tensors frozen", total / 1e6, trained / 1e6, len(frozen))
    limits = {"max_tokens": settings["max_tokens"], "positions": backbone.positions}
    prompt = Prompt(AutoTokenizer.from_pretrained(folder), **settings["prefix"], **limits)
    return TrainedModel(model, prompt, features.quantiser, settings)


def model_settings(config: RunConfig, encoder: SpeechEncoder, audio_tokens: int, embedding_std: float) -> dict:
    """What ``assemble`` builds a model from, and what is stored with it."""
    f = config.frontend
    if f.kind == "discrete":
        frontend = {"kind": "discrete", "units": audio_tokens, "drop": f.drop, "drop_span": f.drop_span}
    else:
        frontend = {"kind": "continuous", "frame_dim": encoder.dim, "embedding_std": embedding_std, "hidden": f.hidden,
                    "stride": f.stride, "layers": f.layers, "heads": f.heads, "dropout": f.dropout, "drop": f.drop,
                    "drop_span": f.drop_span, "noise": f.noise, "downsample": f.downsample,
                    "mask_features": f.mask_features}  # fmt: skip
    prefix = {"mode": config.model.prefix.mode, "speech": config.model.prefix.speech, "text": config.model.prefix.text}
    return {
        "frontend": frontend,
        "attention": config.model.attention,
        "head": {"dim": config.model.dim, "projection_init": config.model.projection_init,
                 "projection_gain": config.model.projection_gain, "speech_layer": config.model.speech_layer,
                 "normalise": config.loss.similarity == "cosine"},
        "prefix": prefix,
        "max_tokens": config.model.max_tokens,
        "speech": {"encoder": f.encoder, "layer": f.layer, "rate": f.rate, "trim_db": f.trim_db,
                   "mean_norm": f.mean_norm, "deduplicate": f.deduplicate, "bpe": f.bpe,
                   "encoder_key": encoder.describe()},
    }  # fmt: skip


def choose_trained(model: DualEncoder, config: RunConfig) -> list[str]:
    """Set what is trained and how; returns the names of the frozen tensors."""
    model.backbone.gradient_checkpointing = config.model.gradient_checkpointing
    frozen = model.backbone.freeze(config.model.freeze) if config.model.freeze else []
    if config.model.lora.rank:  # after freezing: a pattern such as * must not reach the adapters
        add_lora(model.backbone, **asdict(config.model.lora))
    return frozen


def model_shape(config: RunConfig, encoder: SpeechEncoder) -> DualEncoder:
    """The model of ``build_model`` on the device ``meta``: every shape, no weights read, no memory used.

    A BPE is taken to have as many tokens as ``frontend.bpe`` asks for.
    """
    m, tokens = config.model, config.frontend.bpe or config.frontend.units
    with torch.device("meta"):
        llm = untrained(load_config(resolve(m.source, weights=False), m.num_layers), m.dtype, m.attn_implementation)
        model = assemble(llm, model_settings(config, encoder, tokens, 1.0))
        choose_trained(model, config)
    return model


def _kmeans(config: FrontendConfig, stores: list[FeatureStore], sample: np.ndarray, cache: Path, seed: int) -> KMeans:
    key = fingerprint({"frames": [s.key for s in stores], "units": config.units, "seed": seed, "rows": len(sample),
                       "kmeans": KMEANS_VERSION})  # fmt: skip
    path = cache / "kmeans" / f"{key}.safetensors"
    if not path.is_file():
        fit_kmeans(sample, config.units, seed=seed).save(path)
    return KMeans.load(path)


def _quantiser(config: FrontendConfig, frames: Frames, cache: Path, seed: int) -> Quantiser:
    """K-means over all training frames; BPE over the units of the first view and the synthetic clips."""
    plain = Quantiser(_kmeans(config, frames.training, frames.sample, cache, seed), config.deduplicate)
    if config.bpe is None:
        return plain
    units = FeatureStore.merge(quantise(store, plain, cache) for store in [*frames.views[:1], *frames.synthetic])
    key = fingerprint({"units": units.key, "size": config.bpe, "version": BPE_VERSION})
    path = cache / "unit_bpe" / f"{key}.model"
    if not path.is_file():
        step = -(-len(units) // MAX_SEQUENCES)  # evenly spaced: languages follow each other
        train_bpe((units[id_] for id_ in units.ids[::step]), config.units, config.bpe).save(path)
    bpe = UnitBpe.load(path)
    if bpe.tokens < config.bpe:
        log.info("unit BPE: %d tokens and not frontend.bpe=%d: no pair is left to merge", bpe.tokens, config.bpe)
    return replace(plain, bpe=bpe)
