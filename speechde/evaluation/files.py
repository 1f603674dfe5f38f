"""Files of examples as retrieval: a query of a split asks for its positive among all, or among its own negatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechde.errors import DataError
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Labels, Qrels, Results, Retrieval
from speechde.types import Example, Item, Text

ROLE = "trained_on"  # of the row: the file has a split that was trained on
SCORES = ("recall@1", "ci95", "chance", "recall@5", "mrr", "queries", "gallery")


def example_task(
    name: str, examples: Sequence[Example], subset: str, sides: tuple[str, str] = (QUERY, DOCUMENT)
) -> Retrieval:
    """One gallery of the positives, each meaning once in a language; a query is right with any item of its positive's.

    Args:
        name: of the training task.
        examples: of one split; not empty.
        subset: the split.
        sides: as in ``Retrieval``: names of the prompts of the task.
    """
    places: dict[tuple[str | None, str], int] = {}
    gallery: list[Item] = []
    labels, queries = [], []
    for query, positive in ((one.query, one.positive) for one in examples):
        if (meaning := (positive.lang, positive.meaning)) not in places:
            places[meaning] = len(gallery)
            gallery.append(positive)
        queries.append(query)
        labels.append(places[meaning])
    asked = np.array(labels, np.int64)
    return Retrieval(name, subset, ROLE, queries, gallery, Labels(asked, np.arange(len(gallery))), asked, sides=sides)


def choice_task(
    name: str, examples: Sequence[Example], subset: str, sides: tuple[str, str] = (QUERY, DOCUMENT)
) -> Retrieval:
    """Each query among its own positive and hard negatives; answers that are equal are one item. As ``example_task``.

    Raises:
        DataError: an example has no hard negative, so that its query would be right whatever the model does.
    """
    places: dict[tuple, int] = {}
    gallery: list[Item] = []
    pairs, candidates = [], []
    for number, one in enumerate(examples):
        if not one.negatives:
            raise DataError(
                f"{name}: example {number} of {subset} has no hard negative to be told from; add some (speechde "
                f"negatives), or set tasks.{name}.gallery=all"
            )
        own = []
        for answer in (one.positive, *one.negatives):
            content = tuple(part.content if isinstance(part, Text) else id(part) for part in answer.parts)
            key = (answer.lang, answer.meaning, content)
            if key not in places:
                places[key] = len(gallery)
                gallery.append(answer)
            own.append(places[key])
        pairs.append((number, own[0]))
        candidates.append(np.array(own, np.int64))
    relevance = Qrels(np.array(pairs, np.int64), candidates)
    queries = [one.query for one in examples]
    return Retrieval(name, subset, ROLE, queries, gallery, relevance, np.arange(len(queries)), sides=sides)


def example_metrics(results: Results) -> dict[str, dict]:
    """By task: recall@1 with its chance and interval, and the other columns, of its one split."""
    return {
        name: {"split": split, **{score: row[score] for score in SCORES}}
        for name, rows in results.rows.items()
        for split, row in rows.items()
    }
