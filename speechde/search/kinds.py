"""Kinds of FAISS index: which to take, how one is made, written, and opened.

``flat`` compares all vectors and is exact. ``hnsw`` (Malkov and Yashunin 2018) walks a graph and may miss some. The
others put vectors into lists around centroids, and a query looks into the nearest lists: ``ivfsq`` keeps each number of
a vector in 8 bits, and ``ivfpq`` (Jégou et al. 2011) a code of ``dim / 4`` bytes for each vector, so that its scores
are approximate: of 60,000 synthetic vectors of 384 the ten best were three quarters of the true ones. Lists stay on
disk when they are opened, and need not fit in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import faiss
import numpy as np

from speechde.errors import DataError
from speechde.progress import progress
from speechde.search.vectors import read_rows

KINDS = ("flat", "hnsw", "ivfsq", "ivfpq")
MAPPED = ("ivfsq", "ivfpq")  # kinds that are opened without being read
FLAT_UP_TO = 50_000  # vectors that are compared in about 10 ms a query
HNSW_UP_TO = 1_000_000  # its graph adds 256 bytes to each vector, and is in memory
MIN_FITTED = {"ivfsq": 1, "ivfpq": 1024}  # an ivfpq needs 256 vectors for each table of codes, and some for each list
PER_LIST = 40  # vectors that the centroid of a list is fitted to
ITERATIONS = 10  # of fitting the lists of an ivfsq
# Lists of an ivfsq that a query looks into. Of a million synthetic vectors with no structure but clusters of twenty, 24
# of 1,000 lists gave 79 % of the ten best and 128 gave 95 %, for which 4 % of 4,000 lists are enough (200 give 97 %).
PROBES = 200
ADDED = 16_384  # vectors added at once
LINKS = 32  # of a vector in the graph
WIDTH = 128  # candidates kept while walking it


def kind_for(count: int) -> str:
    """The kind of index that ``auto`` takes for so many vectors."""
    return "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivfsq"


def lists_for(kind: str, count: int) -> int:
    """How many lists so many vectors are put into; 0 for a kind without lists."""
    if kind not in MAPPED:
        return 0
    return max(1, min(round(4 * math.sqrt(count)), count // 39))


def sample_for(kind: str, files: Sequence[Path], count: int, dim: int) -> np.ndarray:
    """Vectors ``(n, dim)`` float32 of ``count`` in files, evenly spaced, that an index of a kind is fitted to."""
    wanted = min(count, max(MIN_FITTED.get(kind, 0), 256 * 256 if kind == "ivfpq" else 0,
                            PER_LIST * lists_for(kind, count)))  # fmt: skip
    if not lists_for(kind, count):
        return np.empty((0, dim), np.float32)
    return read_rows(files, np.linspace(0, count - 1, wanted).astype(np.int64), dim)


def new_index(vectors: np.ndarray, kind: str, count: int | None = None) -> faiss.Index:
    """An empty FAISS index for dot products, fitted to float32 ``vectors (n, dim)`` where its kind is fitted.

    ``count``: how many will be in it; None for as many as these.
    """
    dim = vectors.shape[1]
    count = len(vectors) if count is None else count
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = index.hnsw.efSearch = WIDTH
        return index
    if count < MIN_FITTED[kind]:
        raise DataError(f"an {kind} index is fitted to at least {MIN_FITTED[kind]} vectors, not {count}; use flat or "
                        "hnsw")  # fmt: skip
    lists, quantiser = lists_for(kind, count), faiss.IndexFlatIP(dim)
    if kind == "ivfsq":
        bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantiser, dim, lists, bits, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.nprobe = ITERATIONS, min(PROBES, lists)
    else:
        codes = max(m for m in range(1, max(1, dim // 4) + 1) if dim % m == 0)
        index = faiss.IndexIVFPQ(quantiser, dim, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.min_points_per_centroid = 1
        index.nprobe = max(16, lists // 16)
    index.cp.min_points_per_centroid = 1  # no warnings on small sets: MIN_FITTED is the bound
    with progress("fitting the index", None, "lists"):
        index.train(vectors)
    return index


def add_vectors(index: faiss.Index, vectors: np.ndarray) -> None:
    """Add float32 ``vectors (n, dim)``, some at a time, and show how far it is."""
    with progress("index", len(vectors), "vectors") as advance:
        for start in range(0, len(vectors), ADDED):
            block = vectors[start : start + ADDED]
            index.add(block)
            advance(len(block))


def write_faiss(index: faiss.Index, path: Path) -> None:
    """Write an index.

    Raises:
        OSError: it cannot be written.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS says neither which file nor, reliably, why
        raise OSError(f"{path.parent}: the index could not be written; is the disk full? ({error})") from error


def read_faiss(path: Path, mapped: bool) -> faiss.Index:
    """Read an index; ``mapped`` leaves its lists on disk."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0)
