"""A run on a mixture of two tasks: what its plan says, and what it draws."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from speechde.checkpoint.folder import TrainedModel
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.files import example_task
from speechde.evaluation.retrieval import QUERY
from speechde.models.prompt import Prompt
from speechde.training import fit, recall, run
from speechde.training.dataset import ExampleDataset
from speechde.training.directory import run_directory
from speechde.types import Audio, Example, Item, Text, Utterance


def test_the_plan_counts_the_epochs_of_the_speech_task(tiny_run, two_tasks):
    one = run.train(tiny_run(plan_only=True))["plan"]["epochs"]
    two = run.train(tiny_run(plan_only=True, **two_tasks))["plan"]["epochs"]
    assert one == pytest.approx({"es_419": 0.8, "fr_fr": 0.8})
    assert two == pytest.approx({lang: value / 1.75 for lang, value in one.items()})


def test_a_run_on_a_file_alone_is_planned(tiny_run, two_tasks):
    plan = run.train(tiny_run(plan_only=True, tasks={"aloud": two_tasks["tasks__aloud"]}))["plan"]
    assert plan["epochs"] == {} and [task["name"] for task in plan["tasks"]] == ["aloud"]


@pytest.mark.parametrize(
    "recipe", ["stamps", "quickstart_narrow"]
)  # a text side that is trained, and one that is looked up
def test_examples_of_both_tasks_are_drawn_as_often_as_expected(tiny_run, two_tasks, monkeypatch, recipe):
    mixtures, rows = [], []

    class Examples(ExampleDataset):
        def collate(self, chosen):
            assert len({row.task for row in chosen}) == 1
            rows.extend(chosen)
            batch = super().collate(chosen)
            assert all((each.negatives is not None) == bool(chosen[0].task) for each in batch.rows)
            return batch

    real = fit.mixture
    monkeypatch.setattr(fit, "ExampleDataset", Examples)
    monkeypatch.setattr(fit, "mixture", lambda *a, **k: mixtures.append(real(*a, **k)) or mixtures[0])
    metrics = run.train(tiny_run(recipe, trainer__steps=60, trainer__eval_every=60, **two_tasks))
    assert metrics["data"]["train"]["recordings"] == 10
    drawn = Counter(row.task for row in rows if row.example < 10)
    for task, epochs in enumerate(mixtures[0].effective_epochs(60)):
        assert drawn[task] == pytest.approx(5 * sum(epochs.values()), rel=0.2)  # of 5 clips of each language
    bare = [row.bare for row in rows if row.task == 1]
    assert 0.1 < sum(bare) / len(bare) < 0.4 and not any(row.bare for row in rows if row.task == 0)


def test_the_prompts_of_a_task_are_kept_in_the_model_and_asked_for_by_name(tiny_run, two_tasks, clips):
    config = tiny_run(**two_tasks)
    run.train(config)
    trained = TrainedModel.load(run_directory(config) / "model")
    assert trained.prompt.named == {"aloud-query": "task: aloud | query: {item}"}
    embed = stored_embed(trained.model, trained.prompt, {})
    item = Item(Text("fr_fr train 0"), lang="fr_fr")
    plain, prompted = embed([item], QUERY), embed([item], "aloud-query")
    before = Item(Text("task: aloud | query: fr_fr train 0"))
    bare = Prompt(trained.prompt.tokenizer, mode="none")
    np.testing.assert_allclose(prompted, stored_embed(trained.model, bare, {})([before], QUERY), atol=1e-6)
    assert np.abs(plain - prompted).max() > 1e-3


def test_dev_of_a_file_takes_part_in_the_choice_and_its_test_is_reported(tiny_run, two_tasks, read_aloud, clips):
    """Recordings that the file asks for, and questions without a recording."""
    lines = []
    for split in ("dev", "test"):
        for n, u in enumerate([u for u in clips if u.split == split and u.lang != "ro_ro"]):
            lines.append({"query": f"question {split} {n}", "positive": f"answer {split} {n // 2}", "split": split})
            audio = {"parts": [{"audio": u.audio}], "lang": u.lang, "id": "7", "meaning": f"{split} {n}"}
            lines.append({"query": f"which {split} {n}", "positive": audio, "split": split})
    read_aloud.write_text(read_aloud.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_run(**two_tasks)
    metrics = run.train(config)
    (row,) = metrics["tasks"].values()
    queries = sum(u.split == "test" and u.lang != "ro_ro" for u in clips)
    assert row["split"] == "test" and row["queries"] == 2 * queries and row["gallery"] == queries + -(-queries // 2)
    assert 0 <= row["ci95"][0] <= row["recall@1"] <= row["ci95"][1] <= 1 and row["chance"] == pytest.approx(
        1 / row["gallery"]
    )
    table = (run_directory(config) / "results/table.md").read_text()
    assert "## Files of examples, held out" in table and f"| aloud | test | {2 * queries} |" in table


def test_the_choice_is_the_mean_of_the_tasks(monkeypatch):
    queries = [Item(Text(str(n)), meaning=str(n)) for n in range(4)]
    examples = [Example(query, Item(Text(query.meaning + "!"), meaning=query.meaning)) for query in queries]
    spoken = [Utterance(str(n), "fr_fr", str(n), "", "", "dev") for n in range(4)]
    rights = {"speech": np.eye(4), "text": np.roll(np.eye(4), 1, axis=1)}  # all right, and none

    def embed(items, role):
        if role == "query":
            kind = "speech" if isinstance(items[0].parts[0], Audio) else "text"
            return np.concatenate([rights[kind][int(item.id or item.meaning)][None] for item in items])
        return np.stack([np.eye(4)[int(item.meaning)] for item in items])

    monkeypatch.setattr(recall, "stored_embed", lambda *_: lambda items, role: np.concatenate(
        [embed([item], role) for item in items]))  # fmt: skip
    both = recall.DevRecall(None, spoken, {}, tasks=[example_task("qa", examples, "dev")])
    assert both(None) == 0.5
    assert recall.DevRecall(None, [], {}, tasks=[example_task("qa", examples, "dev")])(None) == 0.0
    assert recall.DevRecall(None, spoken, {})(None) == 1.0
