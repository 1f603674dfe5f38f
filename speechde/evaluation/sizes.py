"""Scores of shorter vectors: the same items, embedded once, by the sizes that a model was trained to be cut to.

A vector of size d is the first d components of the whole, brought to unit length where the whole ones are. So it is
what ``TrainedModel.cut_to`` gives, but for a clip in pieces, whose vector there is the mean of shorter ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from speechde.evaluation.retrieval import COMMON, Embed, Results, Retrieval, evaluate
from speechde.types import Item

KEYS = ("recall@1", "chance", *COMMON)


def size_metrics(
    tasks: Sequence[Retrieval], embed: Embed, whole: Results, dims: Sequence[int], *, normalise: bool, seed: int
) -> dict[str, dict]:
    """By size, direction and role: means over languages of ``KEYS``, with their number and interval.

    Args:
        embed: gives the vectors of all items, and remembers them.
        whole: the results of the whole vectors.
        dims: sizes, that of the whole vectors first.
        normalise: whether the whole vectors are of unit length.
    """
    plain = [replace(task, scores=COMMON) for task in tasks]
    found = {dims[0]: whole}
    for dim in dims[1:]:
        found[dim] = evaluate(plain, cut(embed, dim, normalise), seed=seed, label=f"scoring, size {dim}")
    return {str(dim): {name: _by_role(each, name) for name in each.rows} for dim, each in found.items()}


def cut(embed: Embed, dim: int, normalise: bool) -> Embed:
    """``embed`` with vectors of ``dim`` components."""

    def shorter(items: Sequence[Item], role: str) -> np.ndarray:
        vectors = embed(items, role)[:, :dim]
        if not normalise:
            return np.ascontiguousarray(vectors)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)

    return shorter


def _by_role(results: Results, name: str) -> Mapping[str, dict]:
    roles = dict.fromkeys(row["role"] for row in results.rows[name].values())
    return {role: results.mean(name, KEYS, lambda _, row, role=role: row["role"] == role) for role in roles}
