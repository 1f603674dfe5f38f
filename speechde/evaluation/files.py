"""Files of examples as retrieval: each query of a split asks for its positive among all positives of the split.

Or among those of its language (its stratum), where a picture has an answer in each: then the subset is named by both,
and the number is the mean over languages, those that training had apart from those that it had not. Or among its own
positive and hard negatives.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from speechde.corpora.examples_file import FileExamples
from speechde.errors import DataError
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Labels, Qrels, Results, Retrieval
from speechde.types import Example, Item

ROLE = "trained_on"  # of the row: the file has a split that was trained on
NEVER = "zero_shot"  # nothing of the language was trained on
_NAMES = {ROLE: "languages of training", NEVER: "other languages"}
SCORES = ("recall@1", "ci95", "chance", "recall@5", "mrr", "queries", "gallery")


def example_task(
    name: str, examples: Sequence[Example], subset: str, sides: tuple[str, str] = (QUERY, DOCUMENT), role: str = ROLE
) -> Retrieval:
    """One gallery of the positives, each meaning once in a language; a query is right with any item of its positive's.

    Args:
        name: of the training task.
        examples: of one split; not empty.
        subset: the split.
        sides, role: as in ``Retrieval``: names of the prompts of the task, and which mean its row goes into.
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
    return Retrieval(name, subset, role, queries, gallery, Labels(asked, np.arange(len(gallery))), asked, sides=sides)


def language_tasks(
    name: str,
    examples: FileExamples,
    split: str,
    sides: tuple[str, str] = (QUERY, DOCUMENT),
    trained: Collection[str] | None = None,
    known: dict[tuple, Item] | None = None,
) -> list[Retrieval]:
    """``example_task`` of each language of a split alone.

    Args:
        trained: the languages of training, None for all.
        known: the items of other tasks, which these are added to. Equal items are one object, and have their vector
            computed once: a picture asks in ten languages, and answers in several tasks.
    """
    found, known = [], {} if known is None else known
    for lang in sorted(set(examples.strata)):
        own = examples.subset(np.flatnonzero(np.array(examples.strata, dtype=str) == lang))
        alike = [replace(one, query=_same(one.query, known), positive=_same(one.positive, known)) for one in own]
        role = ROLE if trained is None or lang in trained else NEVER
        found.append(example_task(name, alike, f"{split} {lang}", sides, role))
    return found


def _same(item: Item, known: dict[tuple, Item]) -> Item:
    parts = tuple((part.modality, part.content) for part in item.parts)
    return known.setdefault((parts, item.id, item.lang, item.meaning, item.title), item)


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
            key = (answer.lang, answer.meaning, tuple((part.modality, part.content) for part in answer.parts))
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
    """By task: recall@1 with its chance and interval, and the other columns, of its one split.

    Of ``language_tasks`` there is a mean for each role, with all queries and the mean size of the galleries, and the
    rows of its ``languages``.
    """
    found = {}
    for name, rows in results.rows.items():
        for subset, row in rows.items():
            split, _, lang = subset.partition(" ")
            scores = {score: row[score] for score in SCORES}
            if lang:
                mean = _mean(results, name, split, row["role"])
                found.setdefault(f"{name}, {_NAMES[row['role']]}", mean)["languages"][lang] = scores
            else:
                found[name] = {"split": split, **scores}
    return found


def _mean(results: Results, name: str, split: str, role: str) -> dict:
    mean = results.mean(name, ("recall@1", "chance", "recall@5", "mrr", "gallery"), lambda _, row: row["role"] == role)
    queries = sum(row["queries"] for row in results.rows[name].values() if row["role"] == role)
    own = mean | {"queries": queries, "gallery": round(mean["gallery"])}
    return {"split": split, **{score: own[score] for score in SCORES}, "languages": {}}
