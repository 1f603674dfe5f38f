"""``python train.py -m +sweep=tune``, killed in its second trial and started again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, runpy, signal, sys
from speechde.training.recall import DevRecall
real, calls = DevRecall.__call__, []
def evaluate(self, model):
    calls.append(1)
    if len(calls) == 4:  # two of each trial
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, model)
DevRecall.__call__ = evaluate
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def command(tiny_overrides):
    """What follows ``python train.py``: three trials of a tiny run."""
    fixed = {"trainer.steps": 2}
    space = {"optim.lr": "tag(log,interval(1e-3,1e-1))", "frontend.drop": "choice(0.0,0.1,0.2)",
             "loss.temperature": 0.05, "frontend.dropout": 0.1}  # fmt: skip
    arguments = [f"{key}={value}" for key, value in {**tiny_overrides, **fixed, **space}.items()]
    return ["-m", "+sweep=tune", "hydra.sweeper.trials=3", *arguments]


def trials(path, state):
    (name,) = optuna.get_all_study_names(f"sqlite:///{path}")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}").get_trials(states=(state,))


def test_a_killed_search_goes_on_and_reads_no_test_clip(command, python, tmp_path):
    killed = python("-c", KILLED, ROOT / "train.py", *command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (study,) = (tmp_path / "runs").glob("stamps-*.db")
    (first,), (cut,) = (trials(study, state) for state in (TrialState.COMPLETE, TrialState.RUNNING))
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("best.ckpt")}
    assert len(weights) == 2

    done = python(ROOT / "train.py", *command)
    assert done.returncode == 0, done.stderr
    complete, failed = (trials(study, state) for state in (TrialState.COMPLETE, TrialState.FAIL))
    assert [trial.params for trial in complete[:2]] == [first.params, cut.params] and len(complete) == 3
    assert [trial.number for trial in failed] == [1]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("best.ckpt")}
    assert len(after) == 3 and sum(after[path] == time for path, time in weights.items()) >= 1

    runs = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "runs").rglob("results/metrics.json")]
    assert sorted(run["dev_recall@1"] for run in runs) == sorted(trial.value for trial in complete)
    assert all("test" not in run["data"] and set(run["audio_to_text"]["per_language"]) == {"es_419", "fr_fr"}
               for run in runs)  # fmt: skip
    read = {id_ for path in (tmp_path / "cache").rglob("index.json") for id_ in json.loads(path.read_text())["ids"]}
    assert read and not [id_ for id_ in read if "-test-" in id_ or id_.startswith("ro_ro")]
    best = max(complete, key=lambda trial: trial.value)
    page = study.with_suffix(".md").read_text("utf-8")
    assert f"python train.py recipe=stamps optim.lr={best.params['optim.lr']:.3g}" in page and page in done.stdout


def test_a_search_without_a_range_is_an_error(python):
    fixed = [f"{key}=0.1" for key in ("optim.lr", "loss.temperature", "frontend.drop", "frontend.dropout")]
    done = python(ROOT / "train.py", "-m", "+sweep=tune", *fixed, "tasks.speech.shares.synthetic=0.1")
    assert done.returncode == 1 and "error: nothing to search" in done.stderr and "Traceback" not in done.stderr
