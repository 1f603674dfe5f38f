"""From a trained model to result files: embedding, learning curve, control columns."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from speechde.evaluation import embed, run, speech
from speechde.models.embed import Embedded
from speechde.reporting import results
from speechde.reporting.archive import read_queries
from speechde.types import Audio, Utterance

LANGS = ("fr_fr", "ro_ro")


@pytest.fixture
def utterances():
    return [
        Utterance(f"{lang}{i}", lang, f"{lang} {i // 2}", "", str(i // 2), "test", translation=f"english {i // 2}")
        for lang in LANGS
        for i in range(4)
    ]


@pytest.fixture
def oracle(monkeypatch):
    """A model that embeds an item by the number in it; texts and their translations agree."""

    def embed_items(model, prompt, items, read, *, label, cut):
        clips = iter(read([(item, part) for item in items for part in item.parts if isinstance(part, Audio)]))
        numbers = [
            next(clips)[0][0] if isinstance(part, Audio) else int(part.content.split()[1])
            for part in (item.parts[0] for item in items)
        ]
        return Embedded(np.eye(4, dtype=np.float32)[numbers], np.ones(len(items), np.int64))

    monkeypatch.setattr(embed, "embed_items", embed_items)
    return SimpleNamespace(model=SimpleNamespace(dim=4), prompt=SimpleNamespace(max_tokens=256))


def scored(oracle, utterances, **options):
    items = {u.id: np.array([int(u.sentence_id)]) for u in utterances}
    return run.evaluate_model(
        oracle, items, utterances, **{"roles": {"seen": LANGS[:1], "zero_shot": LANGS[1:]}} | options
    )


def test_evaluate_model(oracle, utterances):
    metrics, records = scored(oracle, utterances)
    for direction in speech.DIRECTIONS:
        assert {lang: row["recall@1"] for lang, row in metrics[direction]["per_language"].items()} == {
            "fr_fr": 1.0,
            "ro_ro": 1.0,
        }
    assert metrics["audio_to_text"]["per_language"]["ro_ro"]["role"] == "zero_shot"
    assert len(records) == 8 + 4 + 8 + 4


def test_languages_without_recordings_and_translations_are_left_out(oracle, utterances):
    bare = [replace(u, translation="") for u in utterances]
    metrics, _ = scored(oracle, bare, roles={"seen": ("fr_fr", "ca_es"), "zero_shot": ("ro_ro", "el_gr")})
    assert set(metrics["audio_to_text"]["per_language"]) == {"fr_fr", "ro_ro"}
    assert metrics["audio_to_english_text"]["per_language"] == {}


def test_a_store_that_knows_seconds_has_recall_by_length(oracle, utterances):
    class Store(dict):
        seconds = {u.id: float(i) for i, u in enumerate(utterances)}  # noqa: RUF012

    items = Store({u.id: np.array([int(u.sentence_id)]) for u in utterances})
    metrics, _ = run.evaluate_model(oracle, items, utterances, roles={"seen": LANGS})
    assert metrics["diagnostics"]["seen"]["recall_by_length"] == [1.0] * 4


def write_log(folder, version, rows):
    path = folder / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("step,train/contrastive,dev/recall@1\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")


def test_learning_curve(tmp_path):
    assert results.learning_curve(tmp_path / "none") == []
    write_log(tmp_path, 0, ["0,4.0,", "9,3.0,", "9,,0.25", "19,2.5,"])
    assert results.learning_curve(tmp_path) == [
        {"step": 1, "train_loss": 4.0},
        {"step": 10, "train_loss": 3.0, "dev_recall@1": 0.25},
        {"step": 20, "train_loss": 2.5},
    ]


def test_the_learning_curve_of_a_resumed_run_has_no_gap_and_no_repeat(tmp_path):
    write_log(tmp_path, 0, ["9,3.0,", "9,,0.25", "19,2.5,"])
    write_log(tmp_path, 2, ["19,2.4,", "19,,0.5"])
    write_log(tmp_path, 10, ["29,2.0,"])
    curve = results.learning_curve(tmp_path)
    assert [(point["step"], point["train_loss"]) for point in curve] == [(10, 3.0), (20, 2.4), (30, 2.0)]
    assert curve[1]["dev_recall@1"] == 0.5


def metrics_of(oracle, utterances):
    results, records = scored(oracle, utterances)
    facts = {
        "recipe": "r", "mode": "faithful", "seed": 0, "commit": "abc", "hardware": "test",
        "data": {"test": {"recordings": 8, "synthetic": 0}},
        "wall_seconds": dict.fromkeys(("fetch", "frames", "kmeans", "train", "evaluate", "total"), 0.0),
    }  # fmt: skip
    return facts | results, records


def finish(directory, metrics, records, report=None):
    (directory / "results").mkdir(parents=True)
    results.finish_report(metrics, records, directory, report)
    return json.loads((directory / "results/metrics.json").read_text("utf-8"))


def test_finish_report_writes_and_copies(oracle, utterances, tmp_path, capsys):
    metrics, records = metrics_of(oracle, utterances)
    write_log(tmp_path / "a-s0" / "csv", 0, ["9,3.0,", "9,,0.25"])
    written = finish(tmp_path / "a-s0", metrics, records, tmp_path / "report")
    assert written == json.loads((tmp_path / "report/metrics.json").read_text("utf-8"))
    assert "controls" not in written
    for name in ("table.md", "recall.png", "curves.png"):
        assert (tmp_path / "report" / name).is_file() and (tmp_path / "a-s0/results" / name).is_file()
    assert {record["direction"] for record in read_queries(tmp_path / "report")} == {"audio_to_text"}
    assert "diagnostics" not in written
    diagnostics = json.loads((tmp_path / "a-s0/results/diagnostics.json").read_text("utf-8"))
    assert diagnostics["per_language"]["ro_ro"]["alignment"] == pytest.approx(0)
    assert diagnostics["seen"]["languages"] == 1 and "recall_by_length" not in diagnostics["seen"]
    assert "## ro_ro\n\nEvery query is right." in (tmp_path / "a-s0/results/errors.md").read_text("utf-8")
    lines = (tmp_path / "a-s0/results/queries.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records
    assert "report/table.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("own", "control", "found"),
    [
        ("default-s0", "model.init:random-s0", True),
        (
            "optim.lr:0.1-s0",
            "model.init:random+optim.lr:0.1-s0",
            True,
        ),  # overrides are named in the order of the alphabet
        ("data:x+optim.lr:0.1-s0", "data:x+model.init:random+optim.lr:0.1-s0", True),
        ("default-s0", "model.init:random-s1", False),
        ("default-s0", "model.init:random+optim.lr:0.1-s0", False),
        ("model.init:random-s0", "default-s0", False),
    ],
)
def test_a_control_run_becomes_a_column(oracle, utterances, tmp_path, own, control, found):
    metrics, records = metrics_of(oracle, utterances)
    finish(tmp_path / control, dict(metrics), records)
    written = finish(tmp_path / own, dict(metrics), records)
    table = (tmp_path / own / "results/table.md").read_text("utf-8")
    assert ("random LLM R@1" in table) == found
    assert ("random LLM" in written.get("controls", {})) == found


def test_a_run_is_not_its_own_control(oracle, utterances, tmp_path):
    metrics, records = metrics_of(oracle, utterances)
    finish(tmp_path / "model.init:random-s0", dict(metrics), records)
    results.finish_report(dict(metrics), records, tmp_path / "model.init:random-s0", None)
    assert "controls" not in json.loads((tmp_path / "model.init:random-s0/results/metrics.json").read_text("utf-8"))
