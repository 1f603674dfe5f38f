"""Hand-computed geometry, hubs, lengths and error lists."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.evaluation import diagnostics as d
from speechde.evaluation.retrieval import Remembered, Results
from speechde.evaluation.speech import speech_tasks
from speechde.types import Utterance

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def test_modality_gap_by_hand():
    assert d.modality_gap([EAST, NORTH], [NORTH, EAST]) == 0
    assert d.modality_gap([EAST], [WEST]) == 2
    # means (1/2, 1/2) and (0, 1); lengths do not count
    assert d.modality_gap([[3.0, 0], [0, 0.1]], [NORTH]) == pytest.approx(0.5**0.5)


def test_alignment_by_hand():
    assert d.alignment([EAST, EAST], [[5.0, 0.0], NORTH]) == pytest.approx((0 + 2) / 2)


def test_uniformity_by_hand(monkeypatch):
    expected = np.log((np.exp(-4) + np.exp(-8) + np.exp(-4)) / 3)  # squared distances 2, 4, 2
    assert d.uniformity([EAST, NORTH, WEST]) == pytest.approx(expected)
    monkeypatch.setattr(d, "BLOCK", 1)
    assert d.uniformity([EAST, NORTH, WEST]) == pytest.approx(expected)
    assert d.uniformity([EAST, EAST]) == pytest.approx(0)
    assert d.uniformity([EAST]) is None


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_hubness_by_hand(monkeypatch, block):
    monkeypatch.setattr(d, "BLOCK", block)
    # Five queries of six have the first of four items nearest, one the second: counts 5, 1, 0, 0.
    queries = np.eye(4)[[0, 0, 0, 0, 0, 1]]
    counts = np.array([5, 1, 0, 0])
    expected = ((counts - 1.5) ** 3).mean() / counts.std() ** 3
    assert d.hubness(queries, np.eye(4), k=1) == pytest.approx(expected)
    assert d.hubness(np.eye(4), np.eye(4), k=1) is None  # all alike
    assert d.hubness(queries, np.eye(4), k=4) is None


def angle(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_xsim_by_hand():
    """The item at 45° is the nearest of both queries; the margin sees that it is near to everything."""
    queries, gallery = angle(0, 40), angle(-60, 45)
    # cosines .5 .71 / -.17 .996; means of the nearest: .71, .996 and .5, .996
    # margins .5/.604 = .83 and .71/.852 = .83: to four digits .8284 and .8301, so the hub still wins
    assert d.xsim(queries, gallery, np.array([0, 1]), k=1) == 0.5
    # at -50 the own item has .643/.675 = .952 and the hub .707/.852 = .830, though its cosine is higher
    gallery = angle(-50, 45)
    assert (queries @ gallery.T)[0].argmax() == 1 and d.xsim(queries, gallery, np.array([0, 1]), k=1) == 0


def test_xsim_counts_ties_and_rubbish_as_errors():
    assert d.xsim(np.ones((4, 3)), np.ones((2, 3)), np.array([0, 0, 1, 1])) == 1
    assert d.xsim(np.full((2, 3), np.nan), np.ones((2, 3)), np.array([0, 1])) == 1
    assert d.xsim(np.eye(3)[[0, 0, 2]], np.eye(3), np.array([0, 0, 2])) == 0


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_xsim_in_blocks_is_that_of_the_whole(monkeypatch, block):
    rng = np.random.default_rng(0)
    texts = d.unit(rng.normal(size=(9, 4)))
    own = np.arange(20) % 9
    queries = d.unit(texts[own] + 0.5 * rng.normal(size=(20, 4)))
    cosine = queries @ texts.T
    near, far = (np.sort(scores, axis=1)[:, -4:].mean(axis=1) for scores in (cosine, cosine.T))
    expected = float(np.mean((2 * cosine / (near[:, None] + far)).argmax(axis=1) != own))
    monkeypatch.setattr(d, "BLOCK", block)
    assert 0 < expected < 1 and d.xsim(queries, texts, own) == expected


def test_recall_by_length_by_hand():
    seconds = np.array([8.0, 1, 2, 3, 4, 5, 6, 7])
    hits = np.array([0, 1, 1, 1, 0, 1, 0, 0])
    quarters = d.recall_by_length(seconds, hits)
    assert [part["recall@1"] for part in quarters] == [1.0, 0.5, 0.5, 0.0]
    assert [part["seconds"] for part in quarters] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert len(d.recall_by_length(seconds[:3], hits[:3])) == 3


def record(lang, number, rank, direction="audio_to_text", **text):
    values = {"sentence": f"said {number}", "retrieved": f"found {number}"} | text
    return {"direction": direction, "lang": lang, "id": f"{lang}-{number}", "rank": rank, **values}


def test_worst_queries_are_ten_wrong_ones_worst_first():
    records = [record("ca_es", number, number) for number in range(1, 15)]
    records += [record("sw_ke", 0, 1), record("sw_ke", 1, 99, "text_to_audio")]
    worst = d.worst_queries(records)
    assert [r["rank"] for r in worst["ca_es"]] == list(range(14, 4, -1))
    assert worst["sw_ke"] == []


def test_errors_page_shows_what_was_said_and_retrieved():
    text = d.errors_markdown(
        [record("ca_es", 3, 7, sentence="un | gat", retrieved="dos\ngossos"), record("sw_ke", 0, 1)]
    )
    assert "| ca_es-3 | 7 | un \\| gat | dos gossos |" in text
    assert "## sw_ke\n\nEvery query is right." in text


@pytest.fixture
def case():
    """Two recordings of each of two texts in three languages, and their vectors by language and id."""
    langs = ("ca_es", "es_419", "sw_ke")
    utterances = [Utterance(f"{lang}-{i}", lang, f"t{i % 2}", "", "", "test") for lang in langs for i in range(4)]
    spoken = np.array([EAST, NORTH, EAST, NORTH] + [NORTH, EAST, NORTH, EAST] + [EAST] * 4)
    table = dict(zip([u.id for u in utterances], spoken, strict=True)) | {"t0": np.array(EAST), "t1": np.array(NORTH)}
    tasks = speech_tasks(utterances, {"seen": langs[:2], "zero_shot": langs[2:]})
    embed = Remembered(lambda items, role: np.stack([table[item.id] for item in items]))
    results = Results(ranks={"audio_to_text": dict.fromkeys(langs, np.array([1, 1, 2, 2]))})
    return table, tasks, embed, results


def test_diagnose_by_hand(case):
    _, *case = case
    seconds = {query.id: float(query.id[-1]) for task in case[0] for query in task.queries}
    result = d.diagnose(*case, seconds)
    rows = result["per_language"]
    assert [rows[lang]["alignment"] for lang in rows] == pytest.approx([0, 2, 1])
    assert rows["sw_ke"]["modality_gap"] == pytest.approx(0.5**0.5)
    assert rows["ca_es"]["uniformity_text"] == pytest.approx(-4)
    assert rows["ca_es"]["hubness"] is None  # two texts
    assert [rows[lang]["xsim"] for lang in rows] == [0, 1, 0.5]
    assert result["seen"]["languages"] == 2 and result["seen"]["alignment"] == pytest.approx(1)
    assert result["seen"]["recall_by_length"] == [1, 1, 0, 0]
    assert "proxy" not in result
    assert "recall_by_length" not in d.diagnose(*case)["per_language"]["ca_es"]


def test_vectors_that_are_not_numbers_are_null(case):
    table, *case = case
    table["ca_es-0"] = np.full(2, np.nan)
    rows = d.diagnose(*case)["per_language"]
    assert rows["ca_es"]["alignment"] is None and rows["es_419"]["alignment"] == pytest.approx(2)
