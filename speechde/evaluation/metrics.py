"""Retrieval metrics as pure functions of embeddings and integer labels.

A gallery item is correct for a query when their group labels are equal, which covers many recordings of one sentence
(many-to-one) and one sentence with many recordings (one-to-many). Two choices keep a bad model from looking good:

- Ties count against the model: the rank of a query is one plus the number of incorrect items that score at least as
  high as its best correct item. A constant encoder therefore gets the worst rank, not recall 1.
- Equal vectors may score unequally by rounding (BLAS blocks the sums differently by position), so an incorrect item
  also ties when it is within ``TIE * |query| * |item|`` of the best correct score. For unit vectors that is 1e-6, some
  ten units of float32 rounding. The bound follows the vectors and not the scores, because the rounding error of a dot
  product does too: two near-orthogonal vectors have a tiny score and the same error.

Intervals are percentile cluster bootstraps (Efron 1979; Field and Welsh 2007): sentences are resampled, not
recordings, because recordings of one sentence succeed and fail together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from math import comb

import jiwer
import numpy as np

from speechde.errors import DataError

TIE = 1e-6
# FLEURS languages written without spaces between words: words cannot be counted, so characters are.
CHARACTER_LANGS = frozenset({"cmn_hans_cn", "ja_jp", "km_kh", "lo_la", "my_mm", "th_th", "yue_hant_hk"})
Seed = int | Sequence[int]


def rank_and_retrieve(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_group: np.ndarray,
    gallery_group: np.ndarray,
    chunk: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the best correct item of every query, and the item that is retrieved (one ``chunk`` of queries a time).

    Args:
        queries: ``(n, dim)`` float32.
        gallery: ``(m, dim)`` float32.
        query_group: ``(n,)`` integer label of each query.
        gallery_group: ``(m,)`` integer label of each item; equal labels are correct.
        chunk: queries scored at once; memory is ``chunk * m`` scores.

    Returns:
        ``ranks (n,)`` int64, 1 is best, and ``retrieved (n,)`` int64 gallery positions. The retrieved item is correct
        exactly when the rank is 1; after a tie it is an incorrect one. NaN counts against the model on either side.

    Raises:
        DataError: shapes do not fit, or a query has no correct item.
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    query_group, gallery_group = _groups(query_group, gallery_group)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(f"queries {queries.shape} and gallery {gallery.shape} must be (n, dim) and (m, dim)")
    if (len(queries), len(gallery)) != (len(query_group), len(gallery_group)):
        raise DataError(
            f"{len(query_group)} query and {len(gallery_group)} gallery labels for {len(queries)} queries "
            f"and {len(gallery)} items; give one label each"
        )
    _correct_counts(query_group, gallery_group)
    ranks = np.empty(len(queries), np.int64)
    retrieved = np.empty(len(queries), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        slack = TIE * np.linalg.norm(gallery, axis=1)
        # Ranks do not depend on the length of the query; unit length makes the tie bound one number per item.
        norms = np.linalg.norm(queries, axis=1, keepdims=True)
        queries = queries / np.where(norms == 0, 1, norms)
        for start in range(0, len(queries), chunk):
            part = slice(start, start + chunk)
            scores = queries[part] @ gallery.T
            correct = query_group[part, None] == gallery_group[None, :]
            nan = np.isnan(scores)
            right = np.where(correct & ~nan, scores, -np.inf)
            wrong = np.where(correct, -np.inf, np.where(nan, np.inf, scores + slack))
            beaten = ((wrong >= right.max(axis=1, keepdims=True)) & ~correct).sum(axis=1)
            ranks[part] = 1 + beaten
            retrieved[part] = np.where(beaten == 0, right.argmax(axis=1), wrong.argmax(axis=1))
    return ranks, retrieved


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_group: np.ndarray,
    gallery_group: np.ndarray,
    chunk: int = 1024,
) -> np.ndarray:
    """``(n,)`` int64 rank of the best correct item of every query; see :func:`rank_and_retrieve`."""
    return rank_and_retrieve(queries, gallery, query_group, gallery_group, chunk)[0]


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose best correct item is among the first ``k``."""
    return float(np.mean(np.asarray(ranks) <= k))


def mean_reciprocal_rank(ranks: np.ndarray) -> float:
    """Mean of 1 / rank."""
    return float(np.mean(1.0 / np.asarray(ranks)))


def chance_recall(query_group: np.ndarray, gallery_group: np.ndarray, k: int = 1) -> float:
    """Exact expected recall at ``k`` of a uniformly random order of the gallery.

    A query with ``c`` correct items among ``m`` succeeds with probability ``1 - C(m - c, k) / C(m, k)``.
    """
    counts = _correct_counts(*_groups(query_group, gallery_group))
    size = len(np.asarray(gallery_group))
    k = min(k, size)
    values, times = np.unique(counts, return_counts=True)
    hits = [1 - comb(size - int(c), k) / comb(size, k) for c in values]
    return float(np.average(hits, weights=times))


def bootstrap_means(values: np.ndarray, groups: np.ndarray, n: int = 1000, seed: Seed = 0) -> np.ndarray:
    """``(n,)`` means of ``values (q,)`` under resampling of whole ``groups (q,)`` with replacement."""
    values = np.asarray(values, np.float64)
    if not len(values):
        raise DataError("bootstrap of 0 values; give at least one")
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    totals, sizes = np.bincount(index, weights=values), np.bincount(index)
    draws = np.random.default_rng(seed).integers(0, len(sizes), size=(n, len(sizes)))
    return totals[draws].sum(axis=1) / sizes[draws].sum(axis=1)


def interval(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Central percentile interval of bootstrap means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, n: int = 1000, seed: Seed = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile cluster-bootstrap interval of the mean of ``values (q,)``; with one group it is that one point."""
    return interval(bootstrap_means(values, groups, n, seed), level)


def fixed_gallery_recall(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_group: np.ndarray,
    gallery_group: np.ndarray,
    size: int,
    draws: int,
    seed: Seed = 0,
) -> float:
    """Recall at 1 in galleries of ``size`` random groups, averaged over ``draws``, so that languages compare.

    Each draw keeps the items of ``size`` groups and the queries of these groups; chance is ``1 / size`` on average.
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    query_group, gallery_group = _groups(query_group, gallery_group)
    names = np.unique(gallery_group)
    if not 1 <= size <= len(names):
        raise DataError(f"fixed gallery of {size} groups; allowed: 1 to {len(names)}, the groups there are")
    query_index, item_index = np.searchsorted(names, query_group), np.searchsorted(names, gallery_group)
    _correct_counts(query_group, gallery_group)
    rng = np.random.default_rng(seed)
    hits = []
    while len(hits) < draws:
        kept = np.zeros(len(names), bool)
        kept[rng.choice(len(names), size, replace=False)] = True
        asked, offered = kept[query_index], kept[item_index]
        if asked.any():  # a drawn group may be a distractor that no query asks for
            found = ranks(queries[asked], gallery[offered], query_group[asked], gallery_group[offered])
            hits.append(recall_at(found, 1))
    return float(np.mean(hits))


def normalise_text(text: str) -> str:
    """NFKC, case folded, Unicode punctuation (categories P*) removed, whitespace collapsed to single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if not unicodedata.category(c).startswith("P"))
    return " ".join(kept.split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], lang: str = "") -> float:
    """Edits over reference length, summed over all pairs, after :func:`normalise_text`.

    Units are words, and characters without whitespace for ``CHARACTER_LANGS`` (a character error rate). It is a
    fraction, and may exceed 1.
    """
    if len(references) != len(hypotheses) or not len(references):
        raise DataError(f"{len(references)} references, {len(hypotheses)} hypotheses; give as many of each, at least 1")
    pairs = [[normalise_text(text) for text in texts] for texts in (references, hypotheses)]
    if lang in CHARACTER_LANGS:
        return float(jiwer.cer(*([text.replace(" ", "") for text in texts] for texts in pairs)))
    return float(jiwer.wer(*pairs))


def _groups(query_group: np.ndarray, gallery_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(query_group), np.asarray(gallery_group)


def _correct_counts(query_group: np.ndarray, gallery_group: np.ndarray) -> np.ndarray:
    """``(n,)`` number of correct items of each query; a query without one is a DataError."""
    if not len(query_group) or not len(gallery_group):
        raise DataError(f"{len(query_group)} queries and {len(gallery_group)} gallery items; need at least 1 of each")
    names, sizes = np.unique(gallery_group, return_counts=True)
    index = np.minimum(np.searchsorted(names, query_group), len(names) - 1)
    missing = np.flatnonzero(names[index] != query_group)
    if len(missing):
        raise DataError(
            f"{len(missing)} queries have no correct item in the gallery (first: query {missing[0]}, "
            f"group {query_group[missing[0]]}); add their items or leave these queries out"
        )
    return sizes[index]
