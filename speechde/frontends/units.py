"""Discrete frontend: k-means units as tokens of the extended vocabulary (the paper's way).

Frames of a speech encoder are quantised to the nearest of k centroids (Lakhotia et al. 2021; Borsos et al. 2023) and
runs of one unit may be merged to one token. Frequent sequences may become one token too (``unit_bpe``). Token u becomes
id t + u of the LLM.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from speechde.cache import atomic_write, fingerprint
from speechde.errors import AssetError, DataError
from speechde.frontends.base import compact, drop_spans
from speechde.frontends.unit_bpe import UnitBpe
from speechde.models.vocabulary import ExtendedEmbedding
from speechde.types import Sequences


@dataclass(frozen=True)
class KMeans:
    """A fitted quantiser: ``centroids`` is ``(units, dim)`` float32, in the space of standardised frames."""

    centroids: np.ndarray
    mean: np.ndarray  # (dim,) of the training frames
    std: np.ndarray  # (dim,)

    @property
    def hash(self) -> str:
        """Identifies the quantiser; stored beside units made with it."""
        digest = hashlib.sha256(str(self.centroids.shape).encode())
        for array in (self.centroids, self.mean, self.std):
            digest.update(np.ascontiguousarray(array, np.float32))
        return digest.hexdigest()[:16]

    def assign(self, frames: np.ndarray) -> np.ndarray:
        """``(time, dim)`` frames → ``(time,)`` int32 units."""
        index = faiss.IndexFlatL2(self.centroids.shape[1])
        index.add(self.centroids)
        scaled = np.ascontiguousarray((frames.astype(np.float32) - self.mean) / self.std)
        return index.search(scaled, 1)[1][:, 0].astype(np.int32)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        with atomic_write(path) as temporary:
            save_file({"centroids": self.centroids, "mean": self.mean, "std": self.std}, temporary)

    @classmethod
    def load(cls, path: Path) -> KMeans:
        """Read what ``save`` wrote."""
        if not Path(path).is_file():
            raise AssetError(
                f"no k-means centroids at {path}; run training once, or give the folder of a trained model"
            )
        return cls(**load_file(path))


def fit_kmeans(frames: np.ndarray, units: int, iterations: int = 25, seed: int = 0) -> KMeans:
    """Fit k-means (faiss, Lloyd iterations) on ``(count, dim)`` frames.

    Frames are standardised per dimension first: a few dimensions of Whisper's states are tens of times larger than
    the rest and would otherwise decide every distance.

    Raises:
        DataError: fewer frames than units.
    """
    if len(frames) < units:
        raise DataError(f"{len(frames)} frames cannot fit {units} units; use more audio or a smaller frontend.units")
    frames = frames.astype(np.float32)
    mean, std = frames.mean(0), frames.std(0) + 1e-5
    scaled = np.ascontiguousarray((frames - mean) / std)
    kmeans = faiss.Kmeans(
        scaled.shape[1], units, niter=iterations, seed=seed, min_points_per_centroid=1, max_points_per_centroid=2048
    )
    kmeans.train(scaled)
    return KMeans(np.ascontiguousarray(kmeans.centroids), mean, std)


def deduplicate(units: np.ndarray) -> np.ndarray:
    """Run-length deduplication: ``[3 3 5 5 3] → [3 5 3]``."""
    if len(units) == 0:
        return units
    return units[np.append(True, units[1:] != units[:-1])]


@dataclass(frozen=True)
class Quantiser:
    """Frames → audio tokens: k-means, run-length deduplication, and a BPE where there is one."""

    kmeans: KMeans
    deduplicate: bool = True
    bpe: UnitBpe | None = None

    @property
    def hash(self) -> str:
        """Identifies all of it; stored beside the tokens made with it."""
        return fingerprint({"kmeans": self.kmeans.hash, "deduplicate": self.deduplicate,
                            "bpe": self.bpe and self.bpe.hash})  # fmt: skip

    @property
    def tokens(self) -> int:
        """Size of the audio vocabulary."""
        return self.bpe.tokens if self.bpe else len(self.kmeans.centroids)

    @property
    def centroids(self) -> np.ndarray:
        """``(tokens, dim)`` float32: of a merged token, the mean over its units."""
        if self.bpe is None:
            return self.kmeans.centroids
        return np.stack([self.kmeans.centroids[self.bpe.units(token)].mean(0) for token in range(self.tokens)])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """``(time, dim)`` frames → int32 tokens, at most ``time`` of them."""
        units = self.kmeans.assign(frames)
        if self.deduplicate:
            units = deduplicate(units)
        return self.bpe.encode(units) if self.bpe else units

    def save(self, folder: Path) -> None:
        """Write ``kmeans.safetensors`` and, where there is a BPE, ``unit_bpe.model``."""
        self.kmeans.save(folder / "kmeans.safetensors")
        if self.bpe:
            self.bpe.save(folder / "unit_bpe.model")

    @classmethod
    def load(cls, folder: Path, *, deduplicate: bool, bpe: bool) -> Quantiser:
        """Read what ``save`` wrote.

        Raises:
            AssetError: a file is missing.
        """
        kmeans = KMeans.load(folder / "kmeans.safetensors")
        return cls(kmeans, deduplicate, UnitBpe.load(folder / "unit_bpe.model") if bpe else None)


class UnitFrontend(nn.Module):
    """Unit ids ``(batch, time)`` → rows of the extended embedding.

    Args:
        units: number of audio tokens: k-means units, or the size of the BPE over them.
        drop: share of units left out at random in training, in runs of ``drop_span``.
    """

    def __init__(self, units: int, drop: float = 0.0, drop_span: int = 1) -> None:
        super().__init__()
        self.audio_tokens = units
        self.drop = drop
        self.drop_span = drop_span

    def forward(self, speech: Sequences, embedding: ExtendedEmbedding) -> tuple[Tensor, Tensor]:
        """See ``SpeechFrontend``."""
        values, mask = speech.values, speech.mask
        if self.training and self.drop > 0:
            values, mask = compact(values, drop_spans(mask, self.drop, self.drop_span))
        exporting = torch.compiler.is_exporting()  # a graph has no place for what depends on values
        for unit in () if exporting else (int(values.min()), int(values.max())):
            if not 0 <= unit < self.audio_tokens:
                raise DataError(f"unit {unit} is outside 0…{self.audio_tokens - 1}; it came from another quantiser")
        return embedding(torch.where(mask, values + embedding.text_tokens, 0)), mask
