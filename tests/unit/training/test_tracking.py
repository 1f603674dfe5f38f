"""What is recorded about a run."""

from __future__ import annotations

import re

import pytest

from speechde.config import LoggerConfig
from speechde.errors import ConfigError
from speechde.reporting.results import learning_curve
from speechde.training import tracking


@pytest.mark.parametrize(("mode", "count"), [("disabled", 1), ("offline", 2)])
def test_a_csv_is_always_written(tmp_path, mode, count):
    assert len(tracking.build_loggers(LoggerConfig(mode=mode), tmp_path, "r/default", {})) == count


def test_a_second_start_keeps_the_log_of_the_first(tmp_path):
    for step in (0, 5):
        (log,) = tracking.build_loggers(LoggerConfig(mode="disabled"), tmp_path, "r/default", {})
        log.log_metrics({"train/contrastive": float(step)}, step)
        log.save()
    assert [point["train_loss"] for point in learning_curve(tmp_path / "csv")] == [0.0, 5.0]


@pytest.mark.parametrize(
    ("given", "entity", "project"),
    [({"project": "team/proj"}, "team", "proj"), ({"project": "a b"}, None, "a b"),
     ({"project": "team/proj", "entity": "team"}, "team", "proj")],
)  # fmt: skip
def test_a_team_may_stand_before_the_project(tmp_path, given, entity, project):
    config = LoggerConfig(**given)
    assert (config.entity, config.project) == (entity, project)
    tracking.build_loggers(config, tmp_path, "r x/default", {})


@pytest.mark.parametrize("given", [{"project": "a#b"}, {"project": "a/b/c"}, {"project": ""}, {"project": "x" * 129},
                                   {"project": "team/p", "entity": "other"}])  # fmt: skip
def test_what_is_no_project_is_refused_before_a_run(given):
    with pytest.raises(ConfigError, match=r"is no name of a W&B project.*logger\.project=TEAM/PROJECT"):
        LoggerConfig(**given)


def test_artifacts_of_a_recipe_with_any_name(tmp_path, monkeypatch):
    (logger,) = tracking.build_loggers(LoggerConfig(mode="offline"), tmp_path, "r", {})[1:]
    named = []
    monkeypatch.setattr(tracking, "_log_files", lambda run, name, *_: named.append(tracking.wandb.Artifact(name, "x")))
    metrics = {"recipe": "my recipe/été", "data": {}, "commit": "", "audio_to_text": {"per_language": {}}}
    tracking.log_results([logger], metrics, tmp_path, True)
    assert len(named) == 3 and all(re.fullmatch(r"[\w.-]+", artifact.name) for artifact in named)
