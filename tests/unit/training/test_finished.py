"""A run that is done is not run again, and one that only looks done is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from speechde.training import run
from speechde.training.finished import archived, finished


@pytest.fixture
def done(tiny_run):
    config = tiny_run()
    return config, run.train(config), run.run_directory(config)


def test_a_finished_run_is_not_run_again(done, monkeypatch, capsys):
    config, metrics, _ = done
    monkeypatch.setattr(run, "read_data", lambda *_: pytest.fail("the corpus was read"))
    assert run.train(config) == json.loads(json.dumps(metrics))
    assert "R@1" in capsys.readouterr().out


def test_what_no_number_depends_on_may_change(done):
    config, metrics, directory = done
    other = replace(config, threads=1, logger=replace(config.logger, mode="disabled", group="g"))
    assert finished(other, directory)["audio_to_text"] == metrics["audio_to_text"]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, eval=replace(c.eval, baselines=["chance"])),
        lambda c: replace(c, optim=replace(c.optim, lr=0.5)),
        lambda c: replace(c, report_dir="elsewhere"),
        lambda c: replace(c, plan_only=True),
    ],
)
def test_another_request_is_not_answered(done, change):
    config, _, directory = done
    assert finished(change(config), directory) is None


def test_data_that_moved_are_the_same_data(done, tmp_path):
    """The path of a manifest says nothing of what it holds; its hash does."""
    config, _, directory = done
    before = Path(config.data.path)
    moved = tmp_path / f"moved{before.suffix}"
    moved.write_bytes(before.read_bytes())
    there = replace(config, data=replace(config.data, path=str(moved)))
    assert finished(there, directory) is not None
    moved.write_bytes(before.read_bytes() + before.read_bytes().splitlines(keepends=True)[-1])
    assert finished(there, directory) is None
    moved.unlink()
    assert finished(there, directory) is None


def test_a_run_of_an_older_version_counts(done):
    """It knows nothing of settings that came later, whose defaults change nothing."""
    config, _, directory = done
    path = directory / "results/metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    assert metrics["config"]["eval"].pop("languages") == "all"
    path.write_text(json.dumps(metrics), encoding="utf-8")
    assert finished(config, directory) is not None
    assert finished(replace(config, eval=replace(config.eval, languages="seen")), directory) is None
    metrics["config"]["eval"]["gone"] = 1
    path.write_text(json.dumps(metrics), encoding="utf-8")
    assert finished(config, directory) is None


def test_a_control_that_came_later_is_added(done):
    config, _, directory = done
    control = directory.parent / "model.init:random-s0/results"
    control.mkdir(parents=True)
    (control / "metrics.json").write_bytes((directory / "results/metrics.json").read_bytes())
    assert finished(config, directory) is None
    assert "random LLM" in run.train(config)["controls"]
    assert finished(config, directory) is not None


def test_an_archived_run_is_not_run_again_on_another_machine(tiny_run, tmp_path, monkeypatch):
    kept = str(tmp_path / "kept")
    first = tiny_run(archive_dir=kept, runs_dir=str(tmp_path / "here"))
    metrics = json.loads(json.dumps(run.train(first)))
    folder = archived(first, run.run_directory(first))
    assert sorted(path.name for path in folder.iterdir()) == ["hits.parquet", "metrics.json"]
    elsewhere = replace(first, runs_dir=str(tmp_path / "there"))
    assert finished(replace(elsewhere, archive_dir=None), run.run_directory(elsewhere)) is None
    monkeypatch.setattr(run, "read_data", lambda *_: pytest.fail("the corpus was read"))
    assert run.train(elsewhere) == metrics
