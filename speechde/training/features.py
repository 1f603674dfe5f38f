"""What training reads: frames or units of the training and dev clips, each stage cached."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from speechde.cache import atomic_write, fingerprint
from speechde.config import FrontendConfig
from speechde.features.encoders import SpeechEncoder
from speechde.features.frames import Encode, extract_frames, quantise
from speechde.features.kmeans import VERSION as KMEANS_VERSION
from speechde.features.kmeans import KMeans, fit_kmeans
from speechde.features.pictures import extract_patches
from speechde.features.sets import ClipSet
from speechde.features.store import FeatureStore
from speechde.features.unit_bpe import MAX_SEQUENCES, UnitBpe, train_bpe
from speechde.features.unit_bpe import VERSION as BPE_VERSION
from speechde.features.units import Quantiser
from speechde.features.vision import ImageEncoder
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import STATES_VERSION, text_states
from speechde.training.sharding import whole_tensor

log = logging.getLogger(__name__)
PATCHES = 100_000  # sampled for the statistics of pictures
KMEANS_FRAMES = 500_000  # frames sampled for k-means: about 500 per unit, where the centroids no longer move


@dataclass
class Frames:
    """Frame stores of the training and dev clips."""

    views: list[FeatureStore]  # one per version of the recorded clips
    plain: list[FeatureStore]  # of synthetic clips and of those of files of examples, which have one version
    dev: FeatureStore
    sample: np.ndarray  # (n, dim) float32 of the training frames

    @property
    def training(self) -> list[FeatureStore]:
        """Every store of training clips."""
        return [*self.views, *self.plain]


@dataclass
class Features:
    """Stored speech items: one store per split and view, and the quantiser of a discrete frontend."""

    train: list[FeatureStore]  # one per view of the recorded clips; all others are in the first
    dev: FeatureStore
    quantiser: Quantiser | None
    frame_mean: np.ndarray  # (dim,) of the training frames
    frame_std: np.ndarray
    dropped: dict[str, int]
    times_real_time: list[float]
    seconds: dict[str, float]  # of the training clips, by id
    patch_mean: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # (dim,) of the training pictures
    patch_std: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @classmethod
    def none(cls) -> Features:
        """Those of a run without speech."""
        nothing = np.empty(0, np.float32)
        return cls([FeatureStore([])], FeatureStore([]), None, nothing, nothing, {}, [], {})


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
    stores: dict[str, list[FeatureStore]] = {"train": [], "synthetic": [], "files": [], "dev": []}
    for each in sets:
        options = {"rate": rate, "view": each.view, "label": each.label, "encode": encode}
        stores[each.role].append(extract_frames(each.clips, encoder, cache, **options))
    views, synthetic, files, (dev,) = stores.values()
    plain = [*synthetic, *files]
    return Frames(views, plain, dev, FeatureStore.merge([*views, *plain]).sample(KMEANS_FRAMES, seed))


def training_features(
    config: FrontendConfig, frames: Frames, cache: Path, seed: int, quantiser: Quantiser | None = None
) -> Features:
    """What training reads: frames, or units.

    ``quantiser`` is that of the model that the run starts from; without one, one is fitted on the training clips alone.
    """
    dropped: Counter[str] = Counter()
    for store in [*frames.views[:1], *frames.plain, frames.dev]:
        dropped.update(item.reason for item in store.dropped)
    views, plain, dev = frames.views, frames.plain, frames.dev
    if config.kind == "discrete":
        quantiser = quantiser or _quantiser(config, frames, cache, seed)
        views, plain = ([quantise(s, quantiser, cache) for s in stores] for stores in (views, plain))
        dev = quantise(dev, quantiser, cache)
    first = [*frames.views[:1], *frames.plain]
    return Features(
        train=[FeatureStore.merge([*views[:1], *plain]), *views[1:]],
        dev=dev,
        quantiser=quantiser,
        frame_mean=frames.sample.mean(0),
        frame_std=frames.sample.std(0) + 1e-5,
        dropped=dict(dropped),
        times_real_time=[store.speed for store in frames.training if store.speed is not None],
        seconds={id_: seconds for store in first for id_, seconds in store.seconds.items()},
    )


def with_pictures(
    features: Features, training: list[str], held_out: list[str], encoder: ImageEncoder, cache: Path, seed: int
) -> Features:
    """The same with the patches of pictures, by their locators, beside what files of examples have of clips.

    Statistics are those of the pictures that are trained on.

    Args:
        training: locators of the pictures of examples of train.
        held_out: those of dev and test.
    """
    sets = {"pictures": training, "pictures held out": held_out}
    stores = [extract_patches(pictures, encoder, cache, label) for label, pictures in sets.items() if pictures]
    dropped = {one.id: one for store in stores for one in store.dropped}
    for one in dropped.values():
        log.info("left out: the picture %s: %s %s", one.id, one.reason, one.detail)
    sample = stores[0].sample(PATCHES, seed) if training else np.empty((1, 0), np.float32)
    return replace(
        features,
        train=[FeatureStore.merge([features.train[0], *stores]), *features.train[1:]],
        patch_mean=sample.mean(0),
        patch_std=sample.std(0) + 1e-5,
        dropped=dict(Counter(features.dropped) + Counter(f"picture {one.reason}" for one in dropped.values())),
    )


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
    units = FeatureStore.merge(quantise(store, plain, cache) for store in [*frames.views[:1], *frames.plain])
    key = fingerprint({"units": units.key, "size": config.bpe, "version": BPE_VERSION})
    path = cache / "unit_bpe" / f"{key}.model"
    if not path.is_file():
        step = -(-len(units) // MAX_SEQUENCES)  # evenly spaced: languages follow each other
        train_bpe((units[id_] for id_ in units.ids[::step]), config.units, config.bpe).save(path)
    bpe = UnitBpe.load(path)
    if bpe.tokens < config.bpe:
        log.info("unit BPE: %d tokens and not frontend.bpe=%d: no pair is left to merge", bpe.tokens, config.bpe)
    return replace(plain, bpe=bpe)
