"""A run that was killed and resumed gives the weights of one that was not."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from speechde.checkpoint.folder import TrainedModel
from speechde.errors import ConfigError
from speechde.reporting.results import learning_curve
from speechde.training import run
from speechde.training.lit_module import LitDualEncoder
from speechde.training.recall import DevRecall

ROOT = Path(__file__).resolve().parents[2]
DROPOUT = {"frontend__dropout": 0.3, "frontend__drop": 0.3, "model__dropout": 0.3, "model__freeze": []}
LENGTH = {"trainer__steps": 6, "trainer__eval_every": 2}
KILL = """
import os, signal, sys, json
from speechde.config import build
from speechde.training import run
from speechde.training.recall import DevRecall
real, calls = DevRecall.__call__, []
def evaluate(self, model):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, model)
DevRecall.__call__ = evaluate
run.train(build(json.loads(sys.stdin.read())))
"""


def weights(config):
    last = torch.load(run.run_directory(config) / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 6
    return last["state_dict"], TrainedModel.load(run.run_directory(config) / "model").model.state_dict()


def assert_same(first, second):
    for one, other in zip(weights(first), weights(second), strict=True):
        assert one.keys() == other.keys() and len(one) > 5
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("recipe", "tasks", "ctc"),
    [("stamps", 1, 0.0), ("quickstart_narrow", 1, 0.0), ("quickstart_narrow", 3, 1.0), ("stamps", 2, 0.0)],
)
def test_interrupted_run_resumes_to_the_same_weights(tiny_run, mixed, tmp_path, monkeypatch, recipe, tasks, ctc):
    options = DROPOUT | LENGTH | mixed(tasks) | {"ctc__weight": ctc}
    whole = tiny_run(recipe, runs_dir=str(tmp_path / "whole"), **options)
    run.train(whole)
    torch.rand(17)  # whatever was drawn in between does not matter
    cut = tiny_run(recipe, runs_dir=str(tmp_path / "cut"), **options)
    real, calls = DevRecall.__call__, []

    def fail_in_the_second_epoch(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, model)

    monkeypatch.setattr(DevRecall, "__call__", fail_in_the_second_epoch)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.train(cut)
    assert not (run.run_directory(cut) / "model").exists()
    monkeypatch.setattr(DevRecall, "__call__", real)
    run.train(cut)
    assert_same(whole, cut)
    first, second = (run.run_directory(config) for config in (whole, cut))
    assert [p["step"] for p in learning_curve(second / "csv") if "dev_recall@1" in p] == [2, 4, 6]
    assert learning_curve(second / "csv") == learning_curve(first / "csv")


def test_a_killed_process_resumes_to_the_same_weights(tiny_run, tmp_path):
    whole = tiny_run(runs_dir=str(tmp_path / "whole"), **DROPOUT, **LENGTH)
    run.train(whole)
    cut = tiny_run(runs_dir=str(tmp_path / "cut"), **DROPOUT, **LENGTH)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILL], input=json.dumps(asdict(cut)), env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run.train(cut)
    assert_same(whole, cut)


@pytest.mark.parametrize(("micro_batch", "tasks"), [(None, 1), (2, 1), (2, 2)])
def test_a_run_stopped_inside_an_epoch_goes_on_at_its_step(tiny_run, mixed, tmp_path, monkeypatch, micro_batch, tasks):
    """Data order and dropout included: the checkpoint of step 5 is inside the second epoch of three steps."""
    options = DROPOUT | {"trainer__steps": 6, "trainer__eval_every": 3, "trainer__micro_batch": micro_batch}
    options |= mixed(tasks)
    whole = tiny_run(runs_dir=str(tmp_path / "whole"), **options)
    run.train(whole)
    cut = tiny_run(runs_dir=str(tmp_path / "cut"), **options, trainer__save_every=5)
    real, seen = LitDualEncoder.training_step, []

    def fail_in_the_sixth_step(self, batch, index):
        seen.append(self.global_step)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return real(self, batch, index)

    monkeypatch.setattr(LitDualEncoder, "training_step", fail_in_the_sixth_step)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.train(cut)
    assert torch.load(run.run_directory(cut) / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    run.train(cut)
    assert seen == [0, 1, 2, 3, 4, 5, 5]
    assert_same(whole, cut)


def test_the_same_seed_gives_the_same_weights(tiny_run, tmp_path):
    first, second, other = (
        tiny_run(runs_dir=str(tmp_path / name), seed=seed, **DROPOUT, **LENGTH)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for config in (first, second, other):
        run.train(config)
    assert_same(first, second)
    one, another = weights(first)[0], weights(other)[0]
    assert any(not torch.equal(one[name], another[name]) for name in one)


def test_dropout_is_at_work_from_the_first_step(tiny_run, tmp_path):
    losses = []
    for dropout in (0.0, 0.3):
        config = tiny_run(runs_dir=str(tmp_path / str(dropout)), model__dropout=dropout, frontend__drop=0.0,
                          trainer__steps=10, trainer__eval_every=10)  # fmt: skip
        run.train(config)
        with next((run.run_directory(config) / "csv").rglob("metrics.csv")).open() as file:
            losses.append([row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]])
    assert losses[0] != losses[1]


def test_a_run_is_not_overwritten_without_resume(tiny_run):
    config = tiny_run()
    run.train(config)
    config.trainer.resume = False
    with pytest.raises(ConfigError, match="holds a run already"):
        run.train(config)
