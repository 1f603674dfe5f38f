"""What a set gives away, and what frozen vectors hold: the controls of ATEB's tasks, on the same queries.

    majority    the most frequent label of train
    overlap     of the answers that which shares most words with its input (rapidfuzz's token_set_ratio)
    probe       a linear map, fitted on vectors of train: of the input to labels, or, of choices, of each answer and of
                its product with the input to a score
    alone       … of one field of the input alone, which should not say the label (a claim without its evidence)
    answer      … of the answers alone, which should not say which of them is right

Maps are ridge regressions of features of unit variance, of which dev chooses the strength; train and dev are sampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from rapidfuzz import fuzz, process

from speechde.config.ateb import AtebConfig
from speechde.corpora.ateb.examples import drawn, examples_of, input_text
from speechde.corpora.ateb.rows import Row
from speechde.corpora.ateb.sets import LABEL, read_set, set_of
from speechde.evaluation.asked import Asked
from speechde.evaluation.ateb import PREFIX, SET_OF
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Embed, Ranking, Retrieval, score
from speechde.text import normalise_text
from speechde.types import Example, Item, Text

TRAIN_ROWS, DEV_ROWS = 500, 200  # that a probe is fitted on, and that choose its strength
STRENGTHS = (1.0, 10.0, 100.0, 1000.0, 10000.0)
CONFIG = AtebConfig()
Scores = Callable[[Retrieval], np.ndarray]  # (queries, gallery), higher is better


def ateb_controls(tasks: Sequence[Retrieval], asked: Asked, embed: Embed) -> dict[str, dict[str, dict[str, dict]]]:
    """By task, control and part: ``recall@1`` and its interval ``ci95``.

    Args:
        tasks: of ``evaluation.ateb``; the pool, labels with explanations and other tasks are passed over.
        embed: text items and their role → ``(n, dim)``.
    """
    found = {}
    for name in dict.fromkeys(SET_OF[task.name] for task in tasks if task.name in SET_OF):
        own = [task for task in tasks if task.name == PREFIX + name]
        if own:
            made = _controls(name, asked, embed)
            found[PREFIX + name] = {control: _rows(own, scores, asked.seed) for control, scores in made.items()}
    return found


def _rows(tasks: Sequence[Retrieval], scores: Scores, seed: int) -> dict[str, dict]:
    def ranked(task: Retrieval) -> Ranking:
        whole = scores(task)
        return task.rank_scores(lambda rows: whole[rows])

    (parts,) = score(tasks, ranked, seed=seed).rows.values()
    return {part: {key: row[key] for key in ("recall@1", "ci95")} for part, row in parts.items()}


def _controls(name: str, asked: Asked, embed: Embed) -> dict[str, Scores]:
    splits = read_set(name, asked.folder, asked.cache, asked.option).splits
    train = drawn(splits["train"], TRAIN_ROWS, 0)
    dev = drawn(splits["dev"], DEV_ROWS, 0)
    if set_of(name).kind != LABEL:
        fitted, chooses = (examples_of(name, rows, CONFIG) for rows in (train, dev))
        return {
            "overlap": overlap,
            "probe": answer_probe(fitted, chooses, embed, with_input=True),
            "answer": answer_probe(fitted, chooses, embed, with_input=False),
        }
    made = {"majority": majority(name, splits["train"])}
    made["probe"] = label_probe(name, train, dev, embed)
    if field := set_of(name).alone:
        tested = {f"{name} {row.id}": row for row in splits["test"]}
        made["alone"] = label_probe(name, train, dev, embed, field, tested)
    return made


def overlap(task: Retrieval) -> np.ndarray:
    """Words of the input that an answer shares; ``(queries, gallery)``."""
    asked, answers = (
        [normalise_text(" ".join(part.content for part in item.parts)) for item in items]
        for items in (task.queries, task.gallery)
    )
    return process.cdist(asked, answers, scorer=fuzz.token_set_ratio, dtype=np.float32)


def majority(name: str, train: Sequence[Row]) -> Scores:
    """The most frequent label of train, whatever is asked."""
    most, _ = Counter(row.answers[row.right] for row in train).most_common(1)[0]
    return lambda task: np.tile([float(item.meaning == f"{name}: {most}") for item in task.gallery],
                                (len(task.queries), 1))  # fmt: skip


def label_probe(
    name: str, train: Sequence[Row], dev: Sequence[Row], embed: Embed, field: str = "",
    tested: dict[str, Row] | None = None,
) -> Scores:  # fmt: skip
    """Labels by a linear map of the input's vector.

    Args:
        field: is read alone, of the rows ``tested`` by the id of their query too; empty for all fields.
    """

    def read(rows: Sequence[Row]) -> np.ndarray:
        return embed([_input(row, field) for row in rows], QUERY)

    labels = [f"{name}: {label}" for label in train[0].answers]
    vectors, right = read(train), np.array([row.right for row in train])
    mean, scale = vectors.mean(0), vectors.std(0) + 1e-6

    def features(own: np.ndarray) -> np.ndarray:
        return np.hstack([(own - mean) / scale, np.ones((len(own), 1))])

    held_out, held_right = features(read(dev)), np.array([row.right for row in dev])
    targets = 2.0 * np.eye(len(labels))[right] - 1
    weights = _chosen(
        features(vectors), targets, lambda found: float(((held_out @ found).argmax(1) == held_right).mean())
    )

    def scores(task: Retrieval) -> np.ndarray:
        asked = task.queries
        own = embed(asked, QUERY) if not tested else read([tested[query.id] for query in asked])
        return (features(own) @ weights)[:, [labels.index(item.meaning) for item in task.gallery]]

    return scores


def answer_probe(train: Sequence[Example], dev: Sequence[Example], embed: Embed, *, with_input: bool) -> Scores:
    """Answers by a linear map of their vectors and, ``with_input``, of these times the input's.

    It is fitted on the differences of right answers from wrong ones.
    """
    fitted, held_out = (_answers(examples, embed, with_input) for examples in (train, dev))
    scale = np.concatenate(fitted).std(0) + 1e-6
    apart = np.concatenate([own[0] - own[1:] for own in fitted]) / scale

    def accuracy(weights: np.ndarray) -> float:
        return float(np.mean([(own[0] @ (weights / scale) > own[1:] @ (weights / scale)).all() for own in held_out]))

    weights = _chosen(apart, np.ones(len(apart)), accuracy) / scale

    def scores(task: Retrieval) -> np.ndarray:
        answers = embed(task.gallery, DOCUMENT)
        dim = answers.shape[1]
        alone = np.tile(answers @ weights[:dim], (len(task.queries), 1))
        if not with_input:
            return alone
        return alone + (embed(task.queries, QUERY) * weights[dim:]) @ answers.T

    return scores


def _answers(examples: Sequence[Example], embed: Embed, with_input: bool) -> list[np.ndarray]:
    """Features ``(answers, f)`` of each example, those of the right answer first."""
    queries = embed([one.query for one in examples], QUERY)
    counts = [1 + len(one.negatives) for one in examples]
    vectors = embed([answer for one in examples for answer in (one.positive, *one.negatives)], DOCUMENT)
    if with_input:
        vectors = np.hstack([vectors, vectors * np.repeat(queries, counts, axis=0)])
    return np.split(vectors, np.cumsum(counts)[:-1])


def _input(row: Row, field: str) -> Item:
    """The input of a row, or one field of it."""
    fields = [(name, text) for name, text in row.fields if not field or name == field]
    return Item(Text(input_text(fields, CONFIG.field)), lang=row.lang)


def _chosen(x: np.ndarray, y: np.ndarray, accuracy: Callable[[np.ndarray], float]) -> np.ndarray:
    """Ridge regression of the strength that is the most accurate on dev; of equals the strongest."""
    gram, moments = x.T @ x, x.T @ y
    found = [np.linalg.solve(gram + strength * np.eye(len(gram)), moments) for strength in reversed(STRENGTHS)]
    return max(found, key=accuracy)
