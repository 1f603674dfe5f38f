"""``recipe=ateb``: a run on a set, its arms, what it records, and what it never says."""

from __future__ import annotations

import json
import logging

import pytest

from speechde.checkpoint.folder import TrainedModel
from speechde.config import build
from speechde.corpora.ateb.sets import SETS, is_public
from speechde.errors import ConfigError
from speechde.reporting.compare import compare_all
from speechde.training import run
from speechde.training.directory import run_directory


@pytest.fixture
def ateb_run(tiny_run, ateb_folder):
    """``ateb_run(name, **overrides)`` → the configuration of a run on a set."""

    def make(name, **overrides):
        data = {"name": "none", "public": str(ateb_folder)}
        task = {"examples": f"ateb:{name}", "negatives": 4, "gallery": "own"}
        return tiny_run("ateb", data=data, ateb__task=name, tasks={"ateb": task}, **overrides)

    return make


def test_the_recipe_composes(recipe_values):
    config = build(recipe_values("ateb", "ateb.task=piqa"))
    assert list(config.tasks) == ["ateb"] and config.tasks["ateb"].examples == "ateb:piqa"
    assert config.tasks["ateb"].gallery == "own" and config.trainer.steps % config.trainer.eval_every == 0
    arms = ["model.freeze=['*']", "model.lora.rank=8", "ateb.target=label+explanation+id", "loss.mask_duplicates=false"]
    config = build(recipe_values("ateb", *arms))
    assert (config.ateb.target, config.loss.mask_duplicates) == ("label+explanation+id", False)


@pytest.mark.parametrize("arm", ["whole", "lora", "projection"])
def test_arms_compose(recipe_values, arm):
    model = build(recipe_values("ateb", f"arm={arm}")).model
    assert (model.lora.rank, "*" in model.freeze) == (8 * (arm == "lora"), arm == "projection")


def test_all_sets_in_one_model(tiny_run, ateb_folder):
    """A task for each set that can be fetched, but for two that train on what others train on; all are tested."""
    config = tiny_run("ateb_all", data={"name": "none", "public": str(ateb_folder)}, ateb__held_out_limit=4)
    kin = {"creak_contrast", "llmbar_cases"}
    assert {task.examples for task in config.tasks.values()} == {
        f"ateb:{name}" for name in SETS if is_public(name) and name not in kin
    }
    assert all(task.gallery == "own" and name == task.examples[5:] for name, task in config.tasks.items())
    metrics = run.train(config)
    assert set(metrics["tasks"]) == set(config.tasks)
    record = TrainedModel.load(run_directory(config) / "model").settings.training
    assert set(record["data"]["licences"]) == {task.examples for task in config.tasks.values()}


@pytest.mark.parametrize("name", ["creak", "diasafety", "llmbar", "arc_challenge", "xcopa"])
def test_a_run_on_a_set(ateb_run, name, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    config = ateb_run(name)
    metrics = run.train(config)
    row = metrics["tasks"]["ateb"]
    assert row["chance"] == pytest.approx(0.25 if name == "arc_challenge" else 0.5) and row["split"] == "test"
    directory = run_directory(config)
    record = TrainedModel.load(directory / "model").settings.training
    assert record["data"]["licences"][f"ateb:{name}"]
    said = "".join(capfd.readouterr()) + caplog.text
    said += "".join(
        path.read_text("utf-8", errors="replace")
        for path in directory.rglob("*")
        if path.suffix in (".json", ".md", ".csv")
    )
    assert "MARKED" not in said
    if name == "diasafety":
        assert metrics["data"]["dropped"]["ateb: no response"] == 1


@pytest.mark.parametrize("arm", [{"model__freeze": ["*"]}, {"model__lora": {"rank": 2}}])
def test_cheap_arms(ateb_run, arm):
    if "model__lora" in arm:
        pytest.importorskip("peft")
    assert run.train(ateb_run("creak", **arm))["tasks"]["ateb"]["queries"] == 8


def test_what_a_run_was_of_is_known_again(ateb_run):
    """A finished run is not run again; one of another sample is."""
    config = ateb_run("creak", ateb__held_out_limit=6)
    first = run.train(config)
    assert run.train(config) == json.loads((run_directory(config) / "results/tasks.json").read_text("utf-8"))
    assert first["tasks"]["ateb"]["queries"] == 6
    with pytest.raises(ConfigError, match=r"ateb\.held_out_limit: 6 → 5"):
        run.train(ateb_run("creak", ateb__held_out_limit=5))


def test_two_sets_are_two_tasks(ateb_run):
    config = ateb_run("creak")
    config.tasks["safe"] = type(config.tasks["ateb"])(examples="ateb:diasafety", negatives=1, gallery="own")
    assert set(run.train(config)["tasks"]) == {"ateb", "safe"}


def test_runs_of_a_set_are_compared_query_by_query(ateb_run, tmp_path):
    """Also as they are archived, which is what a sweep keeps of them."""
    kept = {"archive_dir": str(tmp_path / "kept")}
    runs = [ateb_run("creak", **kept), ateb_run("creak", ateb__target="label+id", run_name="id", **kept)]
    scores = [run.train(config)["tasks"]["ateb"]["recall@1"] for config in runs]
    folders = [run_directory(config) for config in runs]
    (found,) = compare_all(*folders)
    (row,) = found.means
    assert (found.direction, row.role, row.queries) == ("ateb", "trained_on", 8)
    assert [row.recall_a, row.recall_b] == scores
    (again,) = compare_all(*(tmp_path / "kept" / folder.relative_to(runs[0].runs_dir) for folder in folders))
    assert again.means == found.means


def test_an_unknown_set(ateb_run):
    with pytest.raises(ConfigError, match=r"ATEB set: 'crek' is not known.*Did you mean 'creak'"):
        run.train(ateb_run("crek"))


def test_every_public_set_can_be_named():
    assert len([name for name in SETS if is_public(name)]) == 15
