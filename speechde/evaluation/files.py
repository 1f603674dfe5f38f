"""Files of examples as retrieval: each query of a split asks for its positive among all positives of the split.

Or among those of its language (its stratum), where a picture has an answer in each: then the subset is named by both,
and the number is the mean over languages, those that training had apart from those that it had not. Or among its own
positive and hard negatives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from speechde.corpora.examples_file import FileExamples
from speechde.errors import DataError
from speechde.evaluation.metrics import interval
from speechde.evaluation.retrieval import COMMON, DOCUMENT, QUERY, Labels, Qrels, Results, Retrieval
from speechde.types import Example, Item

ROLE = "trained_on"  # of the row: the file has a split that was trained on
NO_LANGUAGE = "-"
NEVER = "zero_shot"  # nothing of the language was trained on
_NAMES = {ROLE: "languages of training", NEVER: "other languages"}
TOP = 10  # of tasks by language: a page of pictures is looked at as a whole
TOP_TEN = (f"recall@{TOP}", f"recall@{TOP}_ci95")
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
        found.append(replace(example_task(name, alike, f"{split} {lang or NO_LANGUAGE}", sides, role), top=TOP))
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
    rows of its ``languages``; these have recall@10 with its interval too.
    """
    found = {}
    for name, rows in results.rows.items():
        for role, title in _NAMES.items():
            own = {subset.partition(" ")[::2]: row for subset, row in rows.items() if row["role"] == role}
            langs = {lang: _scores(row, *TOP_TEN) for (_, lang), row in own.items() if lang}
            splits = [split for split, _ in own]
            if langs:
                mean = _mean(results, name, role, sum(row["queries"] for row in own.values()))
                found[f"{name}, {title}"] = {"split": splits[0], **mean, "languages": langs}
            elif own:
                found[name] = {"split": splits[0], **_scores(*own.values())}
    return found


def subset_rows(metrics: Mapping[str, Mapping]) -> dict[str, dict[str, dict]]:
    """By task and subset, as the evaluator has them: ``role`` and ``gallery`` of what ``example_metrics`` gave."""
    found: dict[str, dict[str, dict]] = {}
    for title, row in metrics.items():
        task, role = task_and_role(title)
        subsets = (
            {f"{row['split']} {lang}": own for lang, own in row["languages"].items()}
            if "languages" in row
            else {row["split"]: row}
        )
        found.setdefault(task, {}).update(
            {subset: {"role": role, "gallery": own["gallery"]} for subset, own in subsets.items()}
        )
    return found


def task_and_role(title: str) -> tuple[str, str]:
    """Of a row of ``example_metrics``.

    >>> task_and_role("pictures, other languages")
    ('pictures', 'zero_shot')
    """
    for role, words in _NAMES.items():
        if title.endswith(f", {words}"):
            return title.removesuffix(f", {words}"), role
    return title, ROLE


def _scores(row: Mapping[str, Any], *further: str) -> dict[str, Any]:
    return {score: row[score] for score in (*SCORES, *further)}


def _mean(results: Results, name: str, role: str, queries: int) -> dict[str, Any]:
    recall, bounds = TOP_TEN
    averaged = ("recall@1", "chance", *COMMON, recall, "gallery")
    mean = results.mean(name, averaged, lambda _, row: row["role"] == role)
    tops = [results.top_means[name][subset] for subset, row in results.rows[name].items() if row["role"] == role]
    mean[bounds] = list(interval(np.mean(tops, axis=0)))
    return _scores(mean | {"queries": queries, "gallery": round(mean["gallery"])}, *TOP_TEN)
