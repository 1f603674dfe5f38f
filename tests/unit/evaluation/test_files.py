"""Files of examples as retrieval, whole and by language."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from speechde.corpora.examples_file import read_examples
from speechde.evaluation.files import example_metrics, example_task, language_tasks
from speechde.evaluation.metrics import bootstrap_means, interval
from speechde.evaluation.retrieval import evaluate, subset_seed
from speechde.reporting.report import task_table

LANGS, THINGS = ("fr_fr", "ro_ro", "ru_ru"), 6


@pytest.fixture
def examples(tmp_path):
    """Each of six things asks for its name in three languages; things are pairs of texts without a language."""
    path = tmp_path / "things.jsonl"
    lines = []
    for split in ("train", "test"):
        for lang in LANGS if split == "test" else LANGS[:2]:
            for n in range(THINGS):
                query = {"parts": [f"{split} thing {n}"], "meaning": f"{split} {n}"}
                positive = {"parts": [f"{split} {lang} {n}"], "meaning": f"{split} {n}", "lang": lang}
                lines.append({"query": query, "positive": positive, "stratum": lang, "split": split})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return read_examples(path)


def embed(items, role):
    """A thing is near its names in French; in Russian names are those of the thing before."""
    rows = []
    for item in items:
        number = int(item.meaning.split()[1]) + (item.lang == "ru_ru")
        rows.append(np.eye(THINGS)[number % THINGS] * (0.5 if item.lang == "ro_ro" else 1))
    return np.stack(rows).astype(np.float32)


def test_a_gallery_for_each_language(examples):
    held_out = examples.select("test")
    results = evaluate(language_tasks("named", held_out, "test", trained={"fr_fr", "ro_ro"}), embed)
    assert {subset: row["recall@1"] for subset, row in results.rows["named"].items()} == {
        "test fr_fr": 1.0,
        "test ro_ro": 1.0,
        "test ru_ru": 0.0,
    }
    found = example_metrics(results)
    assert list(found) == ["named, languages of training", "named, other languages"]
    seen, never = found.values()
    assert (seen["split"], seen["recall@1"], seen["queries"], seen["gallery"]) == ("test", 1.0, 12, 6)
    assert (never["recall@1"], never["queries"]) == (0.0, 6) and seen["chance"] == pytest.approx(1 / 6)
    assert list(seen["languages"]) == ["fr_fr", "ro_ro"] and list(never["languages"]) == ["ru_ru"]
    assert seen["recall@10"] == 1.0 and seen["languages"]["fr_fr"]["recall@10"] == 1.0
    assert seen["recall@10_ci95"] == [1.0, 1.0] == seen["languages"]["fr_fr"]["recall@10_ci95"]
    assert (
        "| R@5 | R@10 [95 % CI] | MRR |" in task_table(found)[0] and "| 100.0 [100.0, 100.0] |" in task_table(found)[2]
    )
    for row in (seen, *seen["languages"].values()):  # of a run before there were intervals of it
        del row["recall@10_ci95"]
    assert "| 100.0 | 1.000 |" in task_table(found)[2]
    rows = [line.split("|")[1].strip() for line in task_table(found)[2:]]
    assert rows == ["named, languages of training", "· fr_fr", "· ro_ro", "named, other languages", "· ru_ru"]


def test_each_language_is_what_it_is_alone(examples):
    """Equal to the whole of a file that holds nothing else."""
    held_out = examples.select("test")
    for task in language_tasks("named", held_out, "test"):
        lang = task.subset.split()[1]
        alone = held_out.subset(np.flatnonzero(np.array(held_out.strata) == lang))
        own, whole = (evaluate([one], embed).rows["named"] for one in (task, example_task("named", alone, "test")))
        for key in ("recall@1", "chance", "recall@5", "mrr", "queries", "gallery"):
            assert own[task.subset][key] == whole["test"][key]


def test_equal_items_of_languages_and_tasks_are_embedded_once(examples):
    held_out, asked, known = examples.select("test"), [], {}
    tasks = [one for name in ("a", "b") for one in language_tasks(name, held_out, "test", known=known)]
    evaluate(tasks, lambda items, role: asked.extend(items) or embed(items, role))
    assert len(asked) == THINGS + THINGS * len(LANGS)  # things have no language, their names have one
    alone = evaluate(language_tasks("a", held_out, "test"), embed)
    assert evaluate(tasks, embed).rows["b"] == alone.rows["a"]


def test_the_interval_of_recall_at_ten_is_that_of_its_hits(examples):
    """Over the draws of recall@1, and of the mean over languages as that of recall@1 is."""
    tasks = [replace(task, top=3) for task in language_tasks("named", examples.select("test"), "test")]
    draw = np.random.default_rng(1)
    results = evaluate(tasks, lambda items, role: draw.normal(size=(len(items), 4)).astype(np.float32))
    for task in tasks:
        row, ranks = results.rows["named"][task.subset], results.ranks["named"][task.subset]
        seed = subset_seed(0, task.subset)
        drawn = bootstrap_means(ranks <= 3, task.resample, seed=seed)
        assert row["recall@3"] == (ranks <= 3).mean() and row["recall@3_ci95"] == list(interval(drawn))
        assert row["ci95"] == list(interval(bootstrap_means(ranks <= 1, task.resample, seed=seed)))
        np.testing.assert_array_equal(results.top_means["named"][task.subset], drawn)


def test_one_gallery_of_all(examples):
    found = example_metrics(evaluate([example_task("named", examples.select("test"), "test")], embed))
    assert found["named"]["gallery"] == 18 and not {"languages", "recall@10"} & set(found["named"])
    assert "| R@5 | MRR |" in task_table(found)[0]


def test_what_has_no_language_is_a_gallery_too(tmp_path):
    path = tmp_path / "mixed.jsonl"
    rows = [{"query": f"q {lang} {n}", "positive": f"p {lang} {n}", "stratum": lang, "split": "test"}
            for lang in ("", "fr_fr") for n in range(3)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tasks = language_tasks("named", read_examples(path).select("test"), "test")
    found = example_metrics(evaluate(tasks, lambda items, role: np.ones((len(items), 2), np.float32)))
    assert list(found["named, languages of training"]["languages"]) == ["-", "fr_fr"]
