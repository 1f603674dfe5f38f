"""An evaluation under conditions, end to end on a tiny model: the same queries, what hears them, what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from speechde.conditions import parse
from speechde.evaluation import degraded
from speechde.evaluation import metrics as m
from speechde.evaluation.retrieval import subset_seed
from speechde.evaluation.scene import Scene, add_paired
from speechde.evaluation.speech import speech_tasks
from speechde.reporting.archive import read_queries
from speechde.scoring import evaluate
from speechde.training.directory import run_directory
from speechde.training.run import train
from speechde.types import Utterance

ASKED = ["clean", "snr0", "speed0.8"]
BASELINES = ["cascade_chars", "oracle", "mean_pooled"]
PNG = b"\x89PNG"


def settings(tiny_asr, **changes):
    return {"split": "test", "baselines": [], "conditions": ["clean"], "asr": str(tiny_asr)} | changes


@pytest.fixture
def trained(tiny_run, tiny_asr):
    """``trained(**eval)`` → metrics and folder of an evaluation of one tiny model."""
    train(tiny_run("quickstart_narrow"))

    def evaluated(name, **changes):
        config = tiny_run("quickstart_narrow", eval=settings(tiny_asr, **changes))
        config.report_dir = f"{config.runs_dir}/{name}"
        return evaluate(config, run_directory(config)), run_directory(config).parents[1] / name

    return evaluated


def without(metrics, *names):
    changing = ("conditions", "command", "config", "wall_seconds", "report_dir", *names)
    return {key: value for key, value in metrics.items() if key not in changing}


def untimed(answers):
    return {name: {key: value for key, value in row.items() if key != "seconds_per_query"} if name != "notes" else row
            for name, row in answers.items()}  # fmt: skip


def test_conditions_beside_the_evaluation_that_was_there(trained):
    before, folder = trained("plain", baselines=BASELINES)
    metrics, noisy = trained("noisy", baselines=BASELINES, conditions=ASKED)
    assert "conditions" not in before
    assert without(metrics, "baselines") == without(before, "baselines")
    assert untimed(metrics["baselines"]) == untimed(before["baselines"])
    assert list(read_queries(noisy)) == list(read_queries(folder))
    conditions = metrics["conditions"]
    assert list(conditions) == ASKED and json.loads((noisy / "metrics.json").read_text("utf-8")) == metrics
    for name, answers in conditions.items():
        assert set(answers) == {"model", "cascade_chars", "oracle", *(["notes"] if "notes" in answers else [])}
        for row in (answers["model"], answers["cascade_chars"]):
            assert {lang: own["queries"] for lang, own in row["per_language"].items()} == {
                lang: own["queries"] for lang, own in metrics["audio_to_text"]["per_language"].items()
            }
            assert ("change" in row["seen"]) == (name != "clean") and len(row["seen"]["lead_ci95"]) == 2
    assert conditions["clean"]["model"] == metrics["baselines"]["model"]
    assert conditions["snr0"]["oracle"]["seen"]["change"] == 0  # it reads, and hears nothing
    assert [note for note in conditions["clean"]["notes"] if "mean_pooled" in note] == [
        "mean_pooled: no text answers, so not asked under conditions"
    ]
    table = (noisy / "table.md").read_text("utf-8")
    assert "## Under conditions" in table and "| zero-shot | snr0 |" in table and "the model is" in table
    assert (noisy / "noise.png").read_bytes().startswith(PNG) and not (folder / "noise.png").exists()


def test_differences_are_paired_and_are_those_of_the_ranks(trained, monkeypatch):
    """Each condition is evaluated by hand: its ranks, the difference query by query, and the bootstrap of it."""
    scenes = []

    def kept(*parts):
        scenes.append(Scene(*parts))
        return scenes[-1]

    monkeypatch.setattr(degraded, "Scene", kept)
    metrics, folder = trained("noisy", conditions=ASKED)
    records = [record for record in read_queries(folder) if record["direction"] == "audio_to_text"]
    assert [scene.condition for scene in scenes] == [parse(name) for name in ASKED[1:]]
    for scene in scenes:
        row = metrics["conditions"][scene.condition.name]["model"]
        for task in scene.tasks:
            clean = np.array([record["rank"] == 1 for record in records if record["lang"] == task.subset])
            alone = task.rank(*(scene.embed(side, "query") for side in (task.queries, task.gallery)))
            hits = alone.ranks == 1
            own = row["per_language"][task.subset]
            assert own["recall@1"] == hits.mean() and own["change"] == pytest.approx(hits.mean() - clean.mean())
            means = m.bootstrap_means(hits - clean.astype(float), task.resample, seed=subset_seed(0, task.subset))
            assert own["change_ci95"] == list(m.interval(means))
    heard = {scene.condition.name: scene.items for scene in scenes}
    clip = scenes[0].utterances[0].id
    assert len(heard["speed0.8"][clip]) > len(heard["snr0"][clip])
    assert not np.array_equal(*(scene.embed(scene.tasks[0].queries, "query") for scene in scenes))


def test_a_difference_of_ranks_by_hand():
    """Two sentences, each read twice: the first is found by both, the second by one alone, in one of its readings."""
    clips = [Utterance(f"c{i}", "fr_fr", f"text {i // 2}", "", str(i // 2), "test") for i in range(4)]
    tasks = speech_tasks(clips, {"seen": ["fr_fr"]})[:1]
    output = {"per_language": {"fr_fr": {"role": "seen"}}, "seen": {}}
    own, others = ({"fr_fr": np.array(ranks)} for ranks in ([1, 1, 1, 2], [1, 1, 2, 7]))
    add_paired(output, "change", tasks, own, others, 0)
    expected = {"change": 0.25, "change_ci95": [0.0, 0.5]}  # of draws of two sentences: none, one or both the second
    assert output == {"per_language": {"fr_fr": {"role": "seen", **expected}}, "seen": expected}


def test_training_evaluates_under_conditions_too(tiny_run, tiny_asr):
    config = tiny_run("stamps", eval=settings(tiny_asr, conditions=["telephone"]))
    metrics = train(config)
    assert list(metrics["conditions"]) == ["clean", "telephone"]  # clean is always among them
    assert set(metrics["conditions"]["telephone"]) == {"model"} and "baselines" not in metrics
    results = run_directory(config) / "results"
    assert "| telephone |" in (results / "table.md").read_text("utf-8") and not (results / "noise.png").exists()
