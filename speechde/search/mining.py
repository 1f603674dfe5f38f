"""Mining: which rows of two sets of vectors belong together, when nobody says how many do.

A cosine alone does not tell: some vectors are near to everything. The margin compares the cosine of a pair with the
mean cosine of each side to its ``k`` nearest neighbours on the other (Artetxe and Schwenk 2019, arXiv 1811.01136):

    ratio       cos(a, b) / ((mean of a's neighbours + mean of b's neighbours) / 2)
    distance    cos(a, b) - ((mean of a's neighbours + mean of b's neighbours) / 2)

A pair is kept when each is the other's best by margin among its neighbours ("intersection" in the paper). Memory is the
vectors and ``k`` neighbours of each: FAISS never makes the matrix of all scores.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from speechde.errors import ConfigError, DataError, unknown_value
from speechde.progress import progress
from speechde.search.kinds import add_vectors, kind_for, new_index

MARGINS = ("ratio", "distance")
NEIGHBOURS = ("flat", "hnsw", "auto")
BLOCK = 4096  # queries searched at once
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """Rows ``a`` and ``b`` of the two sets, and the margin of their vectors."""

    score: float
    a: int
    b: int


def mine(
    a: np.ndarray,
    b: np.ndarray,
    *,
    margin: str = "ratio",
    k: int = 4,
    threshold: float | None = None,
    neighbours: str = "flat",
) -> list[Pair]:
    """Mutually best pairs of ``a (n, dim)`` and ``b (m, dim)``, best first; a row is in one pair at most.

    Args:
        margin: one of ``MARGINS``.
        k: neighbours on each side, at most the rows there are.
        threshold: least margin of a pair; None keeps all.
        neighbours: how they are found: exactly (``flat``), by a graph (``hnsw``), or by size (``auto``).

    Raises:
        ConfigError: an unknown margin or way to find neighbours; a threshold that is not a number.
        DataError: sets of different width, an empty one, ``k`` below 1.
    """
    if margin not in MARGINS:
        raise unknown_value("margin", margin, MARGINS)
    if neighbours not in NEIGHBOURS:
        raise unknown_value("neighbours", neighbours, NEIGHBOURS)
    if k < 1:
        raise DataError(f"k={k} is no number of neighbours; give 1 or more")
    if threshold is not None and np.isnan(threshold):
        raise ConfigError(f"threshold={threshold} is no margin; give a number such as 1.05, or None for all pairs")
    a, b = (_normalised(vectors, name) for vectors, name in ((a, "first"), (b, "second")))
    if a.shape[1] != b.shape[1]:
        raise DataError(f"vectors of {a.shape[1]} and of {b.shape[1]} numbers do not compare; use one model for both")
    cosines_ab, found_ab = nearest(a, b, k, neighbours)
    cosines_ba, found_ba = nearest(b, a, k, neighbours)
    mean_a, mean_b = _mean(cosines_ab, found_ab), _mean(cosines_ba, found_ba)
    best_ab, scores = _best(cosines_ab, found_ab, mean_a, mean_b, margin)
    best_ba, _ = _best(cosines_ba, found_ba, mean_b, mean_a, margin)
    rows = np.flatnonzero(best_ab >= 0)
    rows = rows[best_ba[best_ab[rows]] == rows]
    undefined = int(np.isneginf(scores[rows]).sum())
    if undefined:
        log.warning("%d pairs have neighbours of no positive cosine and no ratio; margin distance has them", undefined)
    least = -np.inf if threshold is None else threshold
    rows = rows[(scores[rows] >= least) & np.isfinite(scores[rows])]
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    return [Pair(float(scores[row]), int(row), int(best_ab[row])) for row in rows]


def nearest(queries: np.ndarray, items: np.ndarray, k: int, neighbours: str = "flat") -> tuple[np.ndarray, np.ndarray]:
    """Cosines and rows of the ``k`` nearest ``items (m, dim)`` of ``queries (n, dim)``: ``(n, min(k, m))`` each.

    Both are float32 of unit length. A row is -1 where an approximate search found none.
    """
    if neighbours == "auto":
        neighbours = "flat" if kind_for(len(items)) == "flat" else "hnsw"
    index = new_index(items, neighbours)
    add_vectors(index, items)
    parts = []
    with progress("neighbours", len(queries), "rows") as advance:
        for start in range(0, len(queries), BLOCK):
            block = queries[start : start + BLOCK]
            parts.append(index.search(block, min(k, len(items))))
            advance(len(block))
    cosines, found = (np.concatenate(each) for each in zip(*parts, strict=True))
    return cosines, found


def _best(
    cosines: np.ndarray, found: np.ndarray, own_mean: np.ndarray, their_mean: np.ndarray, margin: str
) -> tuple[np.ndarray, np.ndarray]:
    """The neighbour of highest margin of each row (-1: none), and that margin."""
    middle = (own_mean[:, None] + their_mean[found]) / 2
    if margin == "distance":
        scores = cosines - middle
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.where(middle > 0, cosines / middle, -np.inf)
    scores = np.where(found >= 0, scores, -np.inf)
    column = scores.argmax(axis=1)
    rows = np.arange(len(scores))
    return found[rows, column], scores[rows, column]


def _mean(cosines: np.ndarray, found: np.ndarray) -> np.ndarray:
    kept = found >= 0
    return np.where(kept, cosines, 0).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)


def _normalised(vectors: np.ndarray, name: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise DataError(f"the {name} set has shape {vectors.shape}; give (n, dim), at least one row")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if bad := int((~(norms > 0) | ~np.isfinite(norms)).sum()):
        raise DataError(f"{bad} vectors of the {name} set are zero or not finite; leave them out")
    return vectors / norms
