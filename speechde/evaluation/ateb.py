"""ATEB's sets as retrieval: an input asks for its answer (``docs/ateb.md``).

    ateb_NAME              among the answers of its own row: a label, one of two answers, a choice
    ateb_NAME_explained    … of labels that are followed by the explanation of the right one, which may give it away
    ateb_NAME_pool         among all answers of the set's test split (choices)

Recall@1 is accuracy. A set of several parts (languages, kinds of adversaries) has a row for each. What is drawn is
queries; the pool is whole. The bootstrap draws families of rows: a claim and its twin are right or wrong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from speechde.config.ateb import AtebConfig
from speechde.corpora.ateb.examples import examples_of
from speechde.corpora.ateb.rows import Row
from speechde.corpora.ateb.sets import ABILITIES, CHOICE, SETS, AtebSet, is_public, licences_of, read_set
from speechde.evaluation.asked import Asked
from speechde.evaluation.files import choice_task, example_task
from speechde.evaluation.retrieval import Labels, Retrieval

PREFIX, EXPLAINED, POOL = "ateb_", "_explained", "_pool"


def _variants(name: str, own: AtebSet) -> list[str]:
    more = [suffix for suffix, has in ((EXPLAINED, own.explained), (POOL, own.kind == CHOICE)) if has]
    return [f"{PREFIX}{name}{suffix}" for suffix in ("", *more)]


SET_OF = {task: name for name, own in SETS.items() for task in _variants(name, own)}  # of each task its set
NAMES = tuple(SET_OF)
ABILITY_OF = {task: SETS[name].ability for task, name in SET_OF.items()}
_PUBLIC = [task for task, name in SET_OF.items() if is_public(name)]  # what anybody can ask for
GROUPS = {
    "ateb": tuple(_PUBLIC),
    **{
        PREFIX + ability.split()[0]: tuple(task for task in _PUBLIC if ABILITY_OF[task] == ability)
        for ability in ABILITIES
    },
}


def ateb_tasks(names: Sequence[str], asked: Asked) -> list[Retrieval]:
    """The tasks of ``names`` (of ``NAMES``), one for each part of their sets; raises as ``sets.read_set``."""
    tasks = []
    config = AtebConfig()
    for name in dict.fromkeys(SET_OF[task] for task in names):
        rows = read_set(name, asked.folder, asked.cache, asked.option).splits["test"]
        for part, own in parts_of(rows).items():
            if own[0].lang is None or asked.of([own[0].lang]):
                made = [task for task in names if SET_OF[task] == name]
                tasks += [_task(task, part, own, asked, config) for task in made]
    return tasks


def parts_of(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by part."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(row)
    return parts


def drawn_rows(rows: Sequence[Row], asked: Asked) -> list[Row]:
    """The rows of one part that are asked, in their order."""
    return [rows[place] for place in asked.drawn([row.family + row.id for row in rows])]


def licences(names: Iterable[str]) -> dict[str, str]:
    """The terms of the sets of some tasks; others are passed over."""
    sets = dict.fromkeys(SET_OF[name] for name in names if name in SET_OF)
    return {PREFIX + name: licences_of(name) or "not stated" for name in sets}


def _task(task: str, part: str, rows: Sequence[Row], asked: Asked, config: AtebConfig) -> Retrieval:
    name = SET_OF[task]
    kept, families = drawn_rows(rows, asked), {}
    for row in rows:  # of all, so that a family has its number in every sample
        families.setdefault(row.family, len(families))
    resample = np.array([families[row.family] for row in kept], np.int64)
    template = config.templates["label+explanation"] if task.endswith(EXPLAINED) else None
    examples = examples_of(name, kept, config, template)
    made = choice_task(task, examples, part)
    if task.endswith(POOL):
        whole = example_task(task, _answers(name, rows, config), part)
        place = {item.meaning: label for item, label in zip(whole.gallery, whole.relevance.gallery, strict=True)}
        asked_for = np.array([place[example.positive.meaning] for example in examples], np.int64)
        made = replace(made, gallery=whole.gallery, relevance=Labels(asked_for, whole.relevance.gallery))
    return replace(made, role=asked.role_of(rows[0].lang or part), resample=resample)


def _answers(name: str, rows: Sequence[Row], config: AtebConfig) -> list:
    """An example for every answer of every row, right or wrong."""
    found = examples_of(name, rows, config)
    return [replace(one, positive=answer, negatives=()) for one in found for answer in (one.positive, *one.negatives)]
