"""Exact retrieval ranks of queries among 100,000 items of 384 dimensions, against faiss's flat index.

Ours are the ranks of the protocol, ties counted against the model, however low they are. faiss finds the ten best
items, which gives those ranks that are at most 10; they must agree. Each round has half of the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faiss
import numpy as np
import torch

from benchmarks.harness import Different, Result, matrix_rate, paired, timed
from benchmarks.inputs import Inputs
from speechde.evaluation.metrics import ranks

BEST = 10
COUNT, DIM = 100_000, 384
QUERIES = 20_000  # the time is per query; ``python -m benchmarks ranks --full`` asks all of 100,000
NOISE = 3.0  # of a query, per unit length of its item: one query in forty does not find its item first


def run(inputs: Inputs) -> Iterator[Result]:
    """The one row."""
    count = 300 if inputs.tiny else COUNT
    asked = count if inputs.tiny or inputs.full else QUERIES
    queries, gallery = vectors(count)
    labels = np.arange(count)
    halves = {side: np.array_split(labels[:asked], 2) for side in ("ours", "peer")}  # one for each of the two rounds
    found: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}

    def measured(side: str, rank: Callable[[np.ndarray], np.ndarray]) -> float:
        rows = halves[side].pop(0)
        seconds, ranked = timed(lambda: rank(rows))
        found[side].append(ranked)
        return len(rows) / seconds

    runs = paired(
        lambda: measured("ours", lambda rows: ranks(queries[rows], gallery, rows, labels)),
        lambda: measured("peer", lambda rows: _faiss(queries[rows], gallery, rows)),
        warm_up=False,
    )
    all_ranks = {side: np.concatenate(parts) for side, parts in found.items()}
    if differ := int((np.minimum(all_ranks["ours"], BEST + 1) != all_ranks["peer"]).sum()):
        raise Different(f"ranks: {differ} of {asked} differ from faiss")
    result = Result("ranks", f"exact ranks, {asked} × {count} × {DIM}", f"faiss IndexFlatIP, {BEST} best", "queries/s",
                    runs, 0.8)  # fmt: skip
    rate = matrix_rate(torch.float32)
    shares = {side: getattr(result, side) * 2 * count * DIM / rate for side in ("ours", "peer")}
    result.facts = {
        "recall@1": float((all_ranks["ours"] == 1).mean()), "ranks that differ": 0,
        "float32 matrix rate, GFLOP/s": rate / 1e9, "share of float32 matrix rate": shares,
    }  # fmt: skip
    yield result


def vectors(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of items, and of queries that are items with noise."""
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((count, DIM), np.float32) / np.float32(DIM**0.5)
    queries = gallery + NOISE * rng.standard_normal((count, DIM), np.float32) / np.float32(DIM**0.5)
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, gallery))


def _faiss(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray) -> np.ndarray:
    index = faiss.IndexFlatIP(DIM)
    index.add(gallery)
    items = index.search(queries, BEST)[1]
    right = items == labels[:, None]
    return np.where(right.any(1), right.argmax(1) + 1, BEST + 1)
