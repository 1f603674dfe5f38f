"""K-means over frames: Lloyd's iterations as matrix products, which run at the machine's matrix rate.

The nearest centroid is the one with the largest ``x·c − |c|²/2``, so that assigning frames is a product with the
centroids and a maximum over each row, in pieces that stay in the cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from speechde.cache import atomic_write
from speechde.errors import AssetError, DataError
from speechde.progress import progress

POINTS = 2048  # frames a centroid is fitted to, at most: more change it by less than another seed does
PIECE = 2048  # frames scored at once
VERSION = 2  # of what ``fit_kmeans`` computes; part of the cache key


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
        scaled = (frames.astype(np.float32) - self.mean) / self.std
        units, _ = nearest(torch.from_numpy(scaled), torch.from_numpy(np.asarray(self.centroids, np.float32)))
        return units.numpy().astype(np.int32)

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


def fit_kmeans(frames: np.ndarray, units: int, iterations: int = 25, seed: int = 0, tolerance: float = 1e-3) -> KMeans:
    """Fit k-means on ``(count, dim)`` frames, from ``units`` of them that the seed draws.

    Frames are standardised per dimension first: a few dimensions of Whisper's states are tens of times larger than
    the rest and would otherwise decide every distance. A centroid that no frame is nearest to moves to one of those
    that are farthest from theirs.

    Args:
        iterations: at most.
        tolerance: stop when an iteration lowers the mean squared distance by less than this share of it.

    Raises:
        DataError: fewer frames than units.
    """
    if len(frames) < units:
        raise DataError(f"{len(frames)} frames cannot fit {units} units; use more audio or a smaller frontend.units")
    frames = frames.astype(np.float32)
    mean, std = frames.mean(0), frames.std(0) + 1e-5
    rows = np.random.default_rng(seed).permutation(len(frames))[: units * POINTS]
    points = torch.from_numpy((frames[rows] - mean) / std)
    squares, centroids, before = points.square().sum(1), points[:units].clone(), float("inf")
    with progress("k-means", iterations, "iterations at most") as advance:
        for _ in range(iterations):
            assigned, scores = nearest(points, centroids)
            distances = squares - 2 * scores
            centroids = _means(points, assigned, distances, units)
            advance(1)
            error = float(distances.double().mean())
            if error > before * (1 - tolerance):
                break
            before = error
    return KMeans(np.ascontiguousarray(centroids.numpy()), mean, std)


def nearest(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """``(count, dim)`` points → the nearest centroid of each, and ``x·c − |c|²/2`` with it, ``(count,)`` both."""
    units = torch.empty(len(points), dtype=torch.long)
    scores = torch.empty(len(points))
    offsets = centroids.square().sum(1).div_(-2)
    for start in range(0, len(points), PIECE):
        piece = slice(start, start + PIECE)
        torch.max(torch.addmm(offsets, points[piece], centroids.T), 1, out=(scores[piece], units[piece]))
    return units, scores


def _means(points: Tensor, assigned: Tensor, distances: Tensor, units: int) -> Tensor:
    """The mean of the points of each unit; units without one take the points farthest from their centroid."""
    counts = torch.bincount(assigned, minlength=units)
    means = torch.zeros(units, points.shape[1]).index_add_(0, assigned, points) / counts.clamp(min=1)[:, None]
    if len(empty := (counts == 0).nonzero()[:, 0]):
        means[empty] = points[distances.topk(len(empty)).indices]
    return means
