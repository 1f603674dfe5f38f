"""Files of examples as retrieval: each query of a split asks for its positive among all positives of the split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechde.evaluation.retrieval import DOCUMENT, QUERY, Labels, Results, Retrieval
from speechde.types import Example, Item

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


def example_metrics(results: Results) -> dict[str, dict]:
    """By task: recall@1 with its chance and interval, and the other columns, of its one split."""
    return {
        name: {"split": split, **{score: row[score] for score in SCORES}}
        for name, rows in results.rows.items()
        for split, row in rows.items()
    }
