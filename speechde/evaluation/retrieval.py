"""One evaluator for every kind of retrieval: queries, a gallery, and which items are correct.

A :class:`Retrieval` is one gallery and its queries (one language in one direction, one task of a benchmark). Whatever
can rank, be it a model's vectors, edit distances or another system, is a function from a retrieval to a
:class:`Ranking`, and all of them are scored here: recall@1 with its chance and interval beside it, ties and NaN against
the system (``metrics``), sentences resampled and not queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np

from speechde.errors import DataError
from speechde.evaluation import metrics as m
from speechde.progress import progress
from speechde.types import Item

QUERY, DOCUMENT = "query", "document"
# items and their role, one of these or the name of a prompt, → (n, dim) float32
Embed = Callable[[Sequence[Item], str], np.ndarray]


@dataclass(frozen=True)
class Labels:
    """An item is correct for a query of its label: ``query (n,)`` and ``gallery (m,)`` integers.

    ``apart`` is a second pair of such labels: items with a query's label are not in its gallery (own recordings, where
    other speakers are looked for).
    """

    query: np.ndarray
    gallery: np.ndarray
    apart: m.Apart = None


@dataclass(frozen=True)
class Qrels:
    """Correct items one by one: ``(pairs, 2)`` positions of a query and an item, as relevance judgements list them.

    ``candidates``: positions of the items that each query is ranked among, where it has a gallery of its own (multiple
    choice, reranking); None for all.
    """

    pairs: np.ndarray
    candidates: Sequence[np.ndarray] | None = None

    def masks(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """``(n, m)`` bool: which items are correct, and which are in the gallery of a query.

        Raises:
            DataError: a position does not exist, or a correct item is not among the candidates.
        """
        correct, offered = np.zeros(shape, bool), np.full(shape, self.candidates is None)
        pairs = np.asarray(self.pairs, np.int64).reshape(-1, 2)
        if pairs.size and (pairs.min() < 0 or (pairs >= shape).any()):
            raise DataError(f"relevance names a query or an item that is not there; there are {shape}")
        correct[pairs[:, 0], pairs[:, 1]] = True
        for row, own in enumerate(self.candidates or ()):
            offered[row, own] = True
        if (outside := np.flatnonzero((correct & ~offered).any(axis=1))).size:
            raise DataError(f"query {outside[0]}: its correct item is not among its candidates; add it")
        return correct, offered


@dataclass(frozen=True)
class Ranking:
    """How a system ordered a gallery: ``ranks (n,)`` of the best correct item, and ``retrieved (n,)`` positions.

    ``vectors`` of queries and gallery, where there are any.
    """

    ranks: np.ndarray
    retrieved: np.ndarray | None = None
    vectors: tuple[np.ndarray, np.ndarray] | None = None


Score = Callable[["Retrieval", Ranking], float]


def recall(k: int) -> Score:
    """The share of queries with a correct item among the first ``k``."""
    return lambda task, ranking: m.recall_at(ranking.ranks, k)


def mrr(task: Retrieval, ranking: Ranking) -> float:
    """Mean reciprocal rank."""
    return m.mean_reciprocal_rank(ranking.ranks)


COMMON: Mapping[str, Score] = {"recall@5": recall(5), "mrr": mrr}


@dataclass(frozen=True)
class Retrieval:
    """One gallery and its queries.

    Args:
        name: what is measured, ``audio_to_text``.
        subset: the part of it that has a gallery of its own: a language.
        role: which mean the row goes into: ``seen``, ``zero_shot``.
        queries, gallery: ``meaning`` of a query is the sentence that reports name it by.
        relevance: labels, or pairs one by one.
        resample: ``(n,)`` label of what the bootstrap draws: the sentence of each query.
        scores: further columns of the row beside recall@1, its chance and its interval.
        sides: what queries and gallery are embedded as: these, or names of prompts of the model.
        top: k of a further ``recall@k`` with its interval, ``recall@k_ci95``; None: there is none.
    """

    name: str
    subset: str
    role: str
    queries: Sequence[Item]
    gallery: Sequence[Item]
    relevance: Labels | Qrels
    resample: np.ndarray
    scores: Mapping[str, Score] = field(default_factory=lambda: COMMON)
    sides: tuple[str, str] = (QUERY, DOCUMENT)
    top: int | None = None

    def asked_by(self, rows: np.ndarray, queries: Sequence[Item]) -> Retrieval:
        """The same task of some of its queries, other items asking in their place (the same words, read aloud).

        Args:
            rows: ``(k,)`` places of the queries that are kept.
            queries: ``k`` items.
        """
        if isinstance(self.relevance, Labels):
            own = self.relevance
            apart = own.apart and (own.apart[0][rows], own.apart[1])
            relevance: Labels | Qrels = Labels(own.query[rows], own.gallery, apart)
        else:
            pairs, candidates = np.asarray(self.relevance.pairs).reshape(-1, 2), self.relevance.candidates
            place = {row: new for new, row in enumerate(rows.tolist())}
            kept = [(place[query], item) for query, item in pairs.tolist() if query in place]
            relevance = Qrels(np.array(kept, np.int64), candidates and [candidates[row] for row in rows])
        return replace(self, queries=queries, relevance=relevance, resample=self.resample[rows])

    @property
    def chance(self) -> float:
        """Expected recall@1 of a random order."""
        if isinstance(self.relevance, Labels):
            return m.chance_recall(self.relevance.query, self.relevance.gallery, apart=self.relevance.apart)
        correct, offered = self.relevance.masks((len(self.queries), len(self.gallery)))
        return m.chance_of_counts(correct.sum(axis=1), offered.sum(axis=1))

    def rank(self, queries: np.ndarray, gallery: np.ndarray) -> Ranking:
        """The order by dot product of ``(n, dim)`` and ``(m, dim)`` vectors."""
        if isinstance(self.relevance, Labels):
            labels = self.relevance
            ranks, retrieved = m.rank_and_retrieve(queries, gallery, labels.query, labels.gallery, apart=labels.apart)
        else:
            masks = self.relevance.masks((len(queries), len(gallery)))
            ranks, retrieved = m.rank_masked(queries, gallery, *masks)
        return Ranking(ranks, retrieved, (queries, gallery))

    def rank_scores(self, scores: Callable[[slice], np.ndarray]) -> Ranking:
        """The order by any scores: some queries → ``(rows, m)``, a block of queries at a time."""
        ranks, retrieved = zip(
            *(m.rank_scores(scores(rows), *self._masks(rows)) for rows in self._blocks()), strict=True
        )
        return Ranking(np.concatenate(ranks), np.concatenate(retrieved))

    def _blocks(self) -> list[slice]:
        return [slice(start, start + m.BLOCK) for start in range(0, len(self.queries), m.BLOCK)]

    def _masks(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(self.relevance, Qrels):
            return tuple(mask[rows] for mask in self.relevance.masks((len(self.queries), len(self.gallery))))
        labels = self.relevance
        correct = labels.query[rows, None] == labels.gallery
        if labels.apart is None:
            return correct, np.ones_like(correct)
        offered = labels.apart[0][rows, None] != labels.apart[1]
        return correct & offered, offered


@dataclass
class Results:
    """By task and subset: rows, ranks, and the bootstrap means of the intervals, of recall@1 and of recall@top; and one
    record a query."""

    rows: dict[str, dict[str, dict]] = field(default_factory=dict)
    ranks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    means: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    top_means: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)

    def mean(
        self, name: str, keys: Sequence[str] = ("recall@1",), keep: Callable[[str, dict], bool] | None = None
    ) -> dict:
        """Means of ``keys`` over the subsets of a task (those that ``keep`` wants), each counted alike.

        They are None where there is no subset. Subsets are fixed and sentences random: the interval ``ci95`` speaks of
        other sentences, not of other languages.
        """
        rows = {s: row for s, row in self.rows.get(name, {}).items() if keep is None or keep(s, row)}
        if not rows:
            return {"languages": 0, "ci95": None, **dict.fromkeys(keys), "recall@1_micro": None}
        low_high = m.interval(np.mean([self.means[name][subset] for subset in rows], axis=0))
        averages = {key: float(np.mean([row[key] for row in rows.values()])) for key in keys}
        queries = [row["queries"] for row in rows.values()]
        averages["recall@1_micro"] = float(np.average([row["recall@1"] for row in rows.values()], weights=queries))
        return {"languages": len(rows), "ci95": list(low_high), **averages}


class Remembered:
    """An ``Embed`` that computes the vector of an item once in a role.

    Args:
        symmetric: queries and documents have the same prompts, so that an item that is both has one vector.
    """

    def __init__(self, embed: Embed, symmetric: bool = False) -> None:
        self._embed, self._symmetric = embed, symmetric
        self._known: dict[tuple[str, int], tuple[Item, np.ndarray]] = {}  # the item is kept, so its id stays its own

    def __call__(self, items: Sequence[Item], role: str) -> np.ndarray:
        """See ``Embed``."""
        role = QUERY if self._symmetric else role
        missing = {id(item): item for item in items if (role, id(item)) not in self._known}
        if missing:
            vectors = self._embed(list(missing.values()), role)
            if vectors.ndim != 2 or len(vectors) != len(missing):
                raise DataError(f"{len(missing)} items became vectors of shape {vectors.shape}; expected one row each")
            self._known |= {
                (role, key): pair
                for key, pair in zip(missing, zip(missing.values(), vectors, strict=True), strict=True)
            }
        return np.stack([self._known[role, id(item)][1] for item in items])

    def knowing(self, embed: Embed) -> Remembered:
        """Another ``Embed`` that remembers what this one does."""
        other = Remembered(embed, self._symmetric)
        other._known = dict(self._known)
        return other

    def rank(self, task: Retrieval) -> Ranking:
        """The order by dot product of embeddings."""
        query, document = task.sides
        return task.rank(self(task.queries, query), self(task.gallery, document))


def evaluate(tasks: Sequence[Retrieval], embed: Embed, *, seed: int = 0, label: str | None = "scoring") -> Results:
    """Embed the items of all tasks, each once in a role, and score every task; options as in :func:`score`."""
    embed = embed if isinstance(embed, Remembered) else Remembered(embed)
    together: dict[str, list[Item]] = {}  # so that they are sorted by length
    for task in tasks:
        for role, items in zip(task.sides, (task.queries, task.gallery), strict=True):
            together.setdefault(role, []).extend(items)
    for role, items in together.items():
        if items:
            embed(items, role)
    return score(tasks, embed.rank, seed=seed, label=label)


def score(
    tasks: Sequence[Retrieval],
    rank: Callable[[Retrieval], Ranking],
    *,
    seed: int = 0,
    label: str | None = None,
) -> Results:
    """Rows, means and records of what ``rank`` makes of every task.

    Args:
        seed: of the bootstrap. Random draws are seeded by subset too, so a language keeps its interval whatever else is
            evaluated.
        label: of the progress that is shown; None shows none.
    """
    results = Results()
    with progress(label or "", len(tasks), "rankings", enabled=label is not None) as advance:
        for task in tasks:
            _score(results, task, rank(task), seed)
            advance(1)
    return results


def _score(results: Results, task: Retrieval, ranking: Ranking, seed: int) -> None:
    means = _drawn_means(task, ranking, 1, seed)
    results.means.setdefault(task.name, {})[task.subset] = means
    results.ranks.setdefault(task.name, {})[task.subset] = ranking.ranks
    results.rows.setdefault(task.name, {})[task.subset] = {
        "role": task.role,
        "queries": len(task.queries),
        "gallery": len(task.gallery),
        "chance": task.chance,
        "recall@1": m.recall_at(ranking.ranks, 1),
        "ci95": list(m.interval(means)),
        **{name: column(task, ranking) for name, column in task.scores.items()},
    }
    if (top := task.top) is not None:
        tops = _drawn_means(task, ranking, top, seed)
        results.top_means.setdefault(task.name, {})[task.subset] = tops
        row = results.rows[task.name][task.subset]
        row |= {f"recall@{top}": m.recall_at(ranking.ranks, top), f"recall@{top}_ci95": list(m.interval(tops))}
    if ranking.retrieved is not None:
        results.records += _records(task, ranking)


def _drawn_means(task: Retrieval, ranking: Ranking, k: int, seed: int) -> np.ndarray:
    """Recall@k of each draw of the bootstrap."""
    return m.bootstrap_means(ranking.ranks <= k, task.resample, seed=subset_seed(seed, task.subset))


def outcomes(tasks: Sequence[Retrieval], results: Results) -> list[dict]:
    """Which queries were answered, without a word of theirs: ``direction`` (the task), ``lang`` (its subset), ``id``,
    ``sentence`` (the number of what the bootstrap draws) and ``rank`` of each."""
    return [
        {"direction": task.name, "lang": task.subset, "id": query.id, "sentence": str(unit), "rank": int(rank)}
        for task in tasks
        for query, unit, rank in zip(
            task.queries, task.resample.tolist(), results.ranks[task.name][task.subset], strict=True
        )
    ]


def subset_seed(seed: int, subset: str) -> tuple[int, int]:
    """Seed of the random draws of one subset."""
    return seed, crc32(subset.encode())


def _records(task: Retrieval, ranking: Ranking) -> list[dict]:
    return [
        {
            "direction": task.name,
            "lang": task.subset,
            "id": query.id,
            "sentence": query.meaning,
            "rank": int(rank),
            "retrieved": task.gallery[found].id,
        }
        for query, rank, found in zip(task.queries, ranking.ranks, ranking.retrieved, strict=True)
    ]
