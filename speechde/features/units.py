"""Discrete frontend: k-means units as tokens of the extended vocabulary (the paper's way).

Frames of a speech encoder are quantised to the nearest of k centroids (Lakhotia et al. 2021; Borsos et al. 2023) and
runs of one unit may be merged to one token. Frequent sequences may become one token too (``unit_bpe``). Token u becomes
id t + u of the LLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechde.cache import fingerprint
from speechde.features.kmeans import KMeans
from speechde.features.unit_bpe import UnitBpe


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
