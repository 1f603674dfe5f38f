"""The evaluator on hand-written tasks: labels, pairs with candidates, roles of items, remembered vectors."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.errors import DataError
from speechde.evaluation.retrieval import (
    DOCUMENT,
    QUERY,
    Labels,
    Qrels,
    Ranking,
    Remembered,
    Retrieval,
    evaluate,
    recall,
    score,
)
from speechde.types import Item, Text

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def items(*names):
    return [Item(Text(name), id=name, meaning=name) for name in names]


def task(relevance, queries=("a", "b"), gallery=("x", "y", "z"), subset="ca_es", role="seen", **options):
    return Retrieval(
        "find", subset, role, items(*queries), items(*gallery), relevance, np.arange(len(queries)), **options
    )


def embed_by(**vectors):
    """Vectors by the text of an item, and a list of what was asked for."""
    asked = []

    def embed(some, role):
        asked.append((role, [item.id for item in some]))
        return np.array([vectors[item.id] for item in some], np.float32)

    return embed, asked


VECTORS = {"a": EAST, "b": NORTH, "x": EAST, "y": [0.6, 0.8], "z": WEST}
OWN = Labels(np.array([0, 1]), np.array([0, 2, 1]))  # b is looked for among y and x too, and is z: opposite to it


def test_a_row_by_hand():
    results = evaluate([task(OWN)], embed_by(**VECTORS)[0])
    row = results.rows["find"]["ca_es"]
    assert (row["role"], row["queries"], row["gallery"]) == ("seen", 2, 3)
    assert row["chance"] == pytest.approx(1 / 3)
    # b · x = b · z = 0: a tie, which counts against the model, and y is nearer
    assert results.ranks["find"]["ca_es"].tolist() == [1, 3]
    assert (row["recall@1"], row["recall@5"], row["mrr"]) == (0.5, 1.0, pytest.approx((1 + 1 / 3) / 2))
    assert row["ci95"][0] <= 0.5 <= row["ci95"][1]
    assert results.records[1] == {
        "direction": "find", "lang": "ca_es", "id": "b", "sentence": "b", "rank": 3, "retrieved": "y",
    }  # fmt: skip


def test_pairs_say_what_labels_say():
    pairs = Qrels(np.array([[0, 0], [1, 2]]))
    by_labels, by_pairs = (evaluate([task(r)], embed_by(**VECTORS)[0]) for r in (OWN, pairs))
    assert by_pairs.rows == by_labels.rows and by_pairs.records == by_labels.records


def test_each_query_is_ranked_among_its_candidates():
    few = Qrels(np.array([[0, 0], [1, 2]]), [np.array([0, 1]), np.array([0, 2])])
    results = evaluate([task(few)], embed_by(**VECTORS)[0])
    assert results.ranks["find"]["ca_es"].tolist() == [1, 2]  # without y, and still tied with x
    assert results.rows["find"]["ca_es"]["chance"] == 0.5


def test_several_items_may_be_correct():
    results = evaluate([task(Qrels(np.array([[0, 1], [0, 2], [1, 1]])))], embed_by(**VECTORS)[0])
    assert results.ranks["find"]["ca_es"].tolist() == [2, 1]
    assert results.rows["find"]["ca_es"]["chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (Qrels(np.array([[0, 3]])), "not there"),
        (Qrels(np.array([[-1, 0]])), "not there"),
        (Qrels(np.array([[0, 0]])), "1 queries have no correct item"),
        (Qrels(np.array([[0, 0], [1, 1]]), [np.array([1]), np.array([1])]), "query 0: its correct item"),
        (Labels(np.array([0, 5]), np.arange(3)), "1 queries have no correct item"),
    ],
)
def test_relevance_that_cannot_be_scored_is_refused(relevance, message):
    with pytest.raises(DataError, match=message):
        evaluate([task(relevance)], embed_by(**VECTORS)[0])


def test_an_item_is_embedded_once_in_a_role():
    gallery = items("x", "y", "z")
    both = [
        Retrieval("find", lang, "seen", items("a", "b"), gallery, OWN, np.arange(2)) for lang in ("ca_es", "es_419")
    ]
    embed, asked = embed_by(**VECTORS)
    evaluate(both, embed)
    assert asked == [(QUERY, ["a", "b", "a", "b"]), (DOCUMENT, ["x", "y", "z"])]
    back = Retrieval(
        "back", "ca_es", "seen", gallery, both[0].queries, Labels(np.array([0, 2, 1]), np.array([0, 1])), np.arange(3)
    )
    embed, asked = embed_by(**VECTORS)
    with pytest.raises(DataError):  # nobody asks for y
        evaluate([both[0], back], Remembered(embed, symmetric=True))
    assert asked == [(QUERY, ["a", "b", "x", "y", "z"])]


def test_vectors_that_are_not_one_a_row_are_refused():
    with pytest.raises(DataError, match="2 items became vectors of shape"):
        Remembered(lambda some, role: np.zeros((1, 2)))(items("a", "b"), QUERY)


def test_a_subset_scores_alike_whatever_else_is_evaluated():
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(40)]
    vectors = {name: rng.normal(size=3) for name in names}
    labels = Labels(np.arange(20), np.arange(20))
    tasks = [task(labels, names[:20], names[20:], subset) for subset in ("ca_es", "sw_ke")]
    alone, together = (evaluate(some, embed_by(**vectors)[0]) for some in (tasks[1:], tasks))
    assert alone.rows["find"]["sw_ke"] == together.rows["find"]["sw_ke"]
    assert not np.array_equal(together.means["find"]["ca_es"], together.means["find"]["sw_ke"])


def test_means_are_over_the_subsets_that_are_kept():
    found = {"ca_es": [1, 2], "sw_ke": [1, 1], "be_by": [2, 2]}
    tasks = [task(OWN, subset=s, role="seen" if s != "sw_ke" else "zero_shot", scores={"r2": recall(2)}) for s in found]
    results = score(tasks, lambda one: Ranking(np.array(found[one.subset])))
    assert results.records == []  # nothing was retrieved
    mean = results.mean("find", ["recall@1", "r2"], lambda subset, row: row["role"] == "seen")
    assert (mean["languages"], mean["recall@1"], mean["r2"]) == (2, 0.25, 1.0)
    assert results.mean("find")["recall@1"] == pytest.approx(0.5)
    nothing = results.mean("find", ["recall@1"], lambda subset, row: False)
    assert nothing == {"languages": 0, "ci95": None, "recall@1": None, "recall@1_micro": None}


def test_an_item_is_made_of_parts():
    with pytest.raises(DataError, match="a str; give Text"):
        Item("a path or a text?")
    with pytest.raises(DataError, match="no part"):
        Item()
