"""Texts through mteb's own tasks, made of the benchmarks' files: its scores are ours.

Tiny replicas, and the real files where SPEECHDE_PUBLIC names their folder.
"""

from __future__ import annotations

import os

import mteb
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining
from mteb.types import PromptType

from speechde.evaluation import mteb as adapter
from speechde.evaluation.asked import Asked
from speechde.evaluation.text import text_tasks
from speechde.evaluation.text_model import evaluate_texts, open_text_model

REAL = os.environ.get("SPEECHDE_PUBLIC")
COMMON = {
    "description": "Local files.",
    "reference": None,
    "dataset": {"path": "NA", "revision": "NA"},
    "category": "t2t",
    "eval_splits": ["test"],
    "date": ("2024-01-01", "2024-01-01"),
    "dialect": [],
    "domains": [],
    "task_subtypes": [],
    "license": "cc-by-sa-4.0",
    "annotations_creators": "derived",
    "modalities": ["text"],
    "sample_creation": "found",
    "bibtex_citation": "",
}


@pytest.fixture(params=["replica", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="SPEECHDE_PUBLIC"))])
def asked(request, tmp_path):
    """What is asked of sib200 and xquad; of the real files some queries."""
    if request.param == "real":
        return Asked(tmp_path, REAL, per_language=60)
    return Asked(tmp_path, request.getfixturevalue("public_folder"))


@pytest.fixture
def encoder(tiny_model):
    return adapter.MtebEncoder(str(tiny_model()))


class Spying:
    """An encoder that remembers the side and the texts of each call, and otherwise is one."""

    def __init__(self, encoder):
        self.encoder, self.calls = encoder, {}
        self.mteb_model_meta = encoder.mteb_model_meta

    def encode(self, inputs, *, prompt_type=None, **options):
        self.calls.setdefault(prompt_type, []).extend(text for batch in inputs for text in batch["text"])
        return self.encoder.encode(inputs, prompt_type=prompt_type, **options)

    def __getattr__(self, name):
        return getattr(self.encoder, name)


def own_recall(folder, name, asked, lang):
    metrics, _ = evaluate_texts(open_text_model(str(folder), device="cpu"), [name], asked)
    return metrics["tasks"][name]["per_language"][lang]["recall@1"]


def retrieval(task, subset, langs):
    """A ``Retrieval`` of ours as a task of mteb."""
    own, gallery = task.relevance.query, task.relevance.gallery

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(type="Retrieval", name="LocalRetrieval", main_score="hit_rate_at_1",
                                eval_langs={subset: langs}, **COMMON)  # fmt: skip

        def load_data(self, num_proc=None, **_):
            split = {
                "queries": Dataset.from_list(
                    [{"id": f"q{i}", "text": item.parts[0].content} for i, item in enumerate(task.queries)]
                ),
                "corpus": Dataset.from_list(
                    [{"id": f"d{i}", "title": "", "text": item.parts[0].content} for i, item in enumerate(task.gallery)]
                ),
                "relevant_docs": {
                    f"q{i}": {f"d{j}": 1 for j, label in enumerate(gallery) if label == mine}
                    for i, mine in enumerate(own)
                },
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {subset: {"test": split}}, True

    return Local()


def score(encoder, task):
    (result,) = mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False).task_results
    (row,) = result.scores["test"]
    return row[task.metadata.main_score]


def test_questions_and_paragraphs(encoder, asked, tiny_model):
    task = next(task for task in text_tasks(["xquad"], asked) if task.subset == "ro_ro")
    spy = Spying(encoder)
    found = score(spy, retrieval(task, "ro", ["ron-Latn"]))
    assert found == pytest.approx(own_recall(tiny_model(), "xquad", asked, "ro_ro"), abs=1e-5)
    for side, items in ((PromptType.query, task.queries), (PromptType.document, task.gallery)):
        assert sorted(set(spy.calls[side])) == sorted({item.parts[0].content for item in items})


def test_a_side_of_a_pair_of_languages(encoder, asked, tiny_model, monkeypatch):
    """Queries are Zulu and documents English: with the order known, each side has its prompt, as in our own task."""
    task = next(task for task in text_tasks(["sib200"], asked) if task.subset == "zu_za")
    monkeypatch.setitem(adapter.ORDERS, "LocalRetrieval", ("query", "document"))
    found = score(encoder, retrieval(task, "zul-eng", ["zul-Latn", "eng-Latn"]))
    assert found == pytest.approx(own_recall(tiny_model(), "sib200", asked, "zu_za"), abs=1e-5)


def test_parallel_columns(encoder, asked, tiny_model):
    """Bitext mining names a language by its column; it asks with every sentence."""
    asked = Asked(asked.cache, asked.folder, langs=["zu_za"])
    (task,) = text_tasks(["sib200"], asked)
    english = {label: item.parts[0].content for label, item in zip(task.relevance.gallery, task.gallery, strict=True)}
    columns = {
        "zul_Latn": [item.parts[0].content for item in task.queries],
        "eng_Latn": [english[label] for label in task.relevance.query],
    }

    class Local(AbsTaskBitextMining):
        parallel_subsets = True
        metadata = TaskMetadata(type="BitextMining", name="LocalBitextMining", main_score="accuracy",
                                eval_langs={"zul_Latn-eng_Latn": ["zul-Latn", "eng-Latn"]}, **COMMON)  # fmt: skip

        def load_data(self, num_proc=None, **_):
            self.dataset, self.data_loaded = DatasetDict(test=Dataset.from_dict(columns)), True

    assert score(encoder, Local()) == pytest.approx(own_recall(tiny_model(), "sib200", asked, "zu_za"), abs=1e-5)
