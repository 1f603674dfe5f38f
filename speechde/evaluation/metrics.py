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

from collections.abc import Iterator, Sequence
from math import comb

import jiwer
import numpy as np
from sacrebleu.metrics import BLEU

from speechde.errors import DataError
from speechde.text import CHARACTER_LANGS, normalise_text

TIE = 1e-6
BLOCK = 1024  # queries, and items, whose scores are held at once
Seed = int | Sequence[int]
Apart = tuple[np.ndarray, np.ndarray] | None


def rank_and_retrieve(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_group: np.ndarray,
    gallery_group: np.ndarray,
    block: int = BLOCK,
    apart: Apart = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of the best correct item of every query, and the item that is retrieved.

    The score matrix is made a block at a time: first the blocks' parts that hold correct items, for the best correct
    score of each query, then every block, to count what scores as high.

    Args:
        queries: ``(n, dim)`` float32.
        gallery: ``(m, dim)`` float32.
        query_group: ``(n,)`` integer label of each query.
        gallery_group: ``(m,)`` integer label of each item; equal labels are correct.
        block: queries, and items, scored at once; memory beside the input is a few times ``block * block`` scores.
        apart: a second pair of labels, ``(n,)`` and ``(m,)``: items with a query's label are not in its gallery.

    Returns:
        ``ranks (n,)`` int64, 1 is best, and ``retrieved (n,)`` int64 gallery positions. The retrieved item is correct
        exactly when the rank is 1; after a tie it is an incorrect one. NaN counts against the model on either side.

    Raises:
        DataError: shapes do not fit, or a query has no correct item.
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    labels = _Labels(query_group, gallery_group, apart)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise DataError(f"queries {queries.shape} and gallery {gallery.shape} must be (n, dim) and (m, dim)")
    if (len(queries), len(gallery)) != labels.shape:
        raise DataError(
            f"{labels.shape[0]} query and {labels.shape[1]} gallery labels for {len(queries)} queries "
            f"and {len(gallery)} items; give one label each"
        )
    correct, offered = labels.counts()
    ranks = np.empty(len(queries), np.int64)
    retrieved = np.empty(len(queries), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        slack = TIE * np.linalg.norm(gallery, axis=1)
        bounded = np.isfinite(slack).all()
        slack[~np.isfinite(slack)] = 0
        items = [slice(start, start + block) for start in range(0, len(gallery), block)]
        for start in range(0, len(queries), block):
            rows = slice(start, start + block)
            # Ranks do not depend on the length of the query; unit length makes the tie bound one number per item.
            norms = np.linalg.norm(queries[rows], axis=1, keepdims=True)
            part = queries[rows] / np.where(norms == 0, 1, norms)
            finite = bounded and np.isfinite(norms).all()
            right, answer = _Best(len(part)), _Best(len(part))
            for columns in items:
                own, its, equal = labels.correct(rows, columns)
                if len(own):
                    scores = part[own] @ gallery[columns][its].T
                    scores[~equal | np.isnan(scores)] = -np.inf
                    right.update(scores, own, its + columns.start)
            beaten = np.zeros(len(part), np.int64)
            for columns in items:
                scores = part @ gallery[columns].T
                if not finite:  # otherwise the lengths bound every sum
                    scores[np.isnan(scores)] = np.inf
                for own, its, equal in labels.left_out(rows, columns):
                    row, column = np.nonzero(equal)
                    scores[own[row], its[column]] = -np.inf
                # Most blocks of a large gallery have nothing that scores as high, and the maximum is quick to find.
                close = np.flatnonzero(scores.max(axis=1) + slack[columns].max() >= right.score)
                if len(close):
                    scores = scores[close] + slack[columns]
                    answer.update(scores, close, np.arange(columns.start, columns.start + scores.shape[1]))
                    beaten[close] += (scores >= right.score[close, None]).sum(axis=1)
            # Where every correct score is NaN the count has the correct items too.
            beaten = np.where(right.score == -np.inf, offered[rows] - correct[rows], beaten)
            ranks[rows] = 1 + beaten
            retrieved[rows] = np.where(beaten == 0, right.item, answer.item)
    return ranks, retrieved


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_group: np.ndarray,
    gallery_group: np.ndarray,
    block: int = BLOCK,
) -> np.ndarray:
    """``(n,)`` int64 rank of the best correct item of every query; see :func:`rank_and_retrieve`."""
    return rank_and_retrieve(queries, gallery, query_group, gallery_group, block)[0]


def rank_masked(
    queries: np.ndarray, gallery: np.ndarray, correct: np.ndarray, offered: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`rank_and_retrieve`, where ``correct`` and ``offered`` ``(n, m)`` bool say pair by pair which items are
    correct for a query, and which are in its gallery."""
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    ranks, retrieved = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        slack = np.nan_to_num(TIE * np.linalg.norm(gallery, axis=1), nan=0.0, posinf=0.0)
        for start in range(0, len(queries), BLOCK):
            rows = slice(start, start + BLOCK)
            norms = np.linalg.norm(queries[rows], axis=1, keepdims=True)
            scores = (queries[rows] / np.where(norms == 0, 1, norms)) @ gallery.T
            ranks[rows], retrieved[rows] = rank_scores(scores, correct[rows], offered[rows], slack)
    return ranks, retrieved


def rank_scores(
    scores: np.ndarray, correct: np.ndarray, offered: np.ndarray, slack: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and retrieved items from a matrix of scores ``(n, m)``, for systems that are no dot product too.

    As :func:`rank_and_retrieve`: equal scores and NaN count against the query. There is no tolerance unless ``slack``
    ``(m,)`` gives one, because equal strings have equal scores.

    Raises:
        DataError: a query has no correct item in its gallery.
    """
    scores, right = np.array(scores, np.float64), correct & offered
    if (missing := np.flatnonzero(~right.any(axis=1))).size:
        raise DataError(
            f"{len(missing)} queries have no correct item in the gallery (first: query {missing[0]}); add their items "
            "or leave these queries out"
        )
    best = np.where(right & ~np.isnan(scores), scores, -np.inf)
    wrong = np.where(offered & ~correct, np.where(np.isnan(scores), np.inf, scores + slack), -np.inf)
    beaten = ((wrong >= best.max(axis=1, keepdims=True)) & offered & ~correct).sum(axis=1)
    return 1 + beaten, np.where(beaten == 0, best.argmax(axis=1), wrong.argmax(axis=1))


class _Best:
    """Highest score of each query so far and the first item that has it."""

    def __init__(self, count: int) -> None:
        self.score, self.item = np.full(count, -np.inf, np.float32), np.full(count, -1)

    def update(self, scores: np.ndarray, rows: np.ndarray, items: np.ndarray) -> None:
        """Take in ``scores (rows, items)``; earlier items win equal scores, and any item wins none."""
        column = scores.argmax(axis=1)
        top = scores[np.arange(len(scores)), column]
        better = (top > self.score[rows]) | (self.item[rows] < 0)
        self.score[rows] = np.where(better, top, self.score[rows])
        self.item[rows] = np.where(better, items[column], self.item[rows])


class _Labels:
    """Which items are correct for a query, and which are not in its gallery."""

    def __init__(self, query_group: np.ndarray, gallery_group: np.ndarray, apart: Apart) -> None:
        self.group = np.asarray(query_group), np.asarray(gallery_group)
        self.apart = None if apart is None else (np.asarray(apart[0]), np.asarray(apart[1]))
        self.shape = len(self.group[0]), len(self.group[1])
        if 0 in self.shape:
            raise DataError(f"{self.shape[0]} queries and {self.shape[1]} gallery items; need at least 1 of each")

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """``(n,)`` correct items of each query, and ``(n,)`` items in its gallery; no correct item is a DataError."""
        correct, offered = _times(*self.group), np.full(self.shape[0], self.shape[1])
        if self.apart is not None:
            pairs = [np.stack(side, axis=1) for side in zip(self.group, self.apart, strict=True)]
            _, both = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
            correct -= _times(*np.split(both.ravel(), [self.shape[0]]))
            offered -= _times(*self.apart)
        missing = np.flatnonzero(correct == 0)
        if len(missing):
            raise DataError(
                f"{len(missing)} queries have no correct item in the gallery (first: query {missing[0]}, "
                f"group {self.group[0][missing[0]]}); add their items or leave these queries out"
            )
        return correct, offered

    def correct(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows and columns of a block that hold correct items, and which of their pairs are correct."""
        own, its, equal = _equal(self.group, rows, columns)
        if self.apart is not None:
            equal &= self.apart[0][rows][own][:, None] != self.apart[1][columns][its]
        return own, its, equal

    def left_out(self, rows: slice, columns: slice) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What cannot push a rank down, as :meth:`correct` gives it: items of the query's group, or of its apart."""
        for labels in filter(None, (self.group, self.apart)):
            yield _equal(labels, rows, columns)


def _equal(labels: tuple[np.ndarray, np.ndarray], rows: slice, columns: slice) -> tuple:
    own, its = labels[0][rows], labels[1][columns]
    row, column = np.flatnonzero(np.isin(own, its)), np.flatnonzero(np.isin(its, own))
    return row, column, own[row][:, None] == its[column]


def _times(labels: np.ndarray, items: np.ndarray) -> np.ndarray:
    """``(n,)`` how often each label is among the items' labels."""
    names, sizes = np.unique(items, return_counts=True)
    index = np.minimum(np.searchsorted(names, labels), len(names) - 1)
    return np.where(names[index] == labels, sizes[index], 0)


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Share of queries whose best correct item is among the first ``k``."""
    return float(np.mean(np.asarray(ranks) <= k))


def mean_reciprocal_rank(ranks: np.ndarray) -> float:
    """Mean of 1 / rank."""
    return float(np.mean(1.0 / np.asarray(ranks)))


def chance_recall(query_group: np.ndarray, gallery_group: np.ndarray, k: int = 1, apart: Apart = None) -> float:
    """Exact expected recall at ``k`` of a uniformly random order; labels as in :func:`rank_and_retrieve`."""
    return chance_of_counts(*_Labels(query_group, gallery_group, apart).counts(), k)


def chance_of_counts(correct: np.ndarray, offered: np.ndarray, k: int = 1) -> float:
    """As :func:`chance_recall`, of ``(n,)`` correct items and items in the gallery of each query.

    A query with ``c`` correct items among ``m`` succeeds with probability ``1 - C(m - c, k) / C(m, k)``.
    """
    values, times = np.unique(np.stack([correct, offered], axis=1), axis=0, return_counts=True)
    hits = [1 - comb(size - c, min(k, size)) / comb(size, min(k, size)) for c, size in values.tolist()]
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
    query_group, gallery_group = np.asarray(query_group), np.asarray(gallery_group)
    names = np.unique(gallery_group)
    if not 1 <= size <= len(names):
        raise DataError(f"fixed gallery of {size} groups; allowed: 1 to {len(names)}, the groups there are")
    query_index, item_index = np.searchsorted(names, query_group), np.searchsorted(names, gallery_group)
    _Labels(query_group, gallery_group, None).counts()
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


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str], lang: str = "") -> float:
    """Edits over reference length, summed over all pairs, after :func:`normalise_text`.

    Units are words, and characters without whitespace for ``CHARACTER_LANGS`` (a character error rate). It is a
    fraction, and may exceed 1.
    """
    _check_pairs(references, hypotheses)
    pairs = [[normalise_text(text) for text in texts] for texts in (references, hypotheses)]
    if lang in CHARACTER_LANGS:
        return float(jiwer.cer(*([text.replace(" ", "") for text in texts] for texts in pairs)))
    return float(jiwer.wer(*pairs))


def bleu(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002), as sacrebleu computes it by default (Post 2018)."""
    return float(_bleu(references, hypotheses)[0])


def bleu_signature() -> str:
    """What :func:`bleu` depends on, in sacrebleu's words: case, tokeniser, smoothing, version."""
    return _bleu(["a"], ["a"])[1]


def _bleu(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[float, str]:
    _check_pairs(references, hypotheses)
    scorer = BLEU()
    score = scorer.corpus_score(list(hypotheses), [list(references)]).score
    return score, str(scorer.get_signature())


def _check_pairs(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses) or not len(references):
        raise DataError(f"{len(references)} references, {len(hypotheses)} hypotheses; give as many of each, at least 1")
