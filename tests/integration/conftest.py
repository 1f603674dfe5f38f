"""A mixture of two tasks, clips for transcripts and transcripts for clips; and runs as a command line starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

READ_ALOUD = 0.75  # how often the second task is drawn, relative to the first


@pytest.fixture
def read_aloud(clips, tmp_path):
    """The file of examples of the second task: each training clip, and as a hard negative the next one."""
    path = tmp_path / "aloud.jsonl"
    spoken = [u for u in clips if u.split == "train" and u.lang != "ro_ro"]
    items = [{"parts": [{"audio": u.audio}], "lang": u.lang, "meaning": u.text} for u in spoken]
    lines = [
        {"query": {"parts": [{"text": u.text}], "lang": u.lang}, "positive": item, "negatives": [other]}
        for u, item, other in zip(spoken, items, items[1:] + items[:1], strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def two_tasks(read_aloud):
    """Overrides of ``tiny_run``: a second task with a rate, batches, a prompt and hard negatives of its own."""
    second = {
        "examples": str(read_aloud), "rate": READ_ALOUD, "batch_size": 3, "language_exponent": 0.0, "negatives": 1,
        "query": "task: {task} | query: {item}", "prompt_dropout": 0.25,
    }  # fmt: skip
    return {"tasks__aloud": second}


@pytest.fixture
def mixed(two_tasks):
    """``mixed(tasks)``: overrides of a run on so many tasks, the third of clips one after another."""
    third = {"tasks__runs": {"examples": "clips", "consecutive": 3, "batch_size": 4}}
    return {1: {}, 2: two_tasks, 3: two_tasks | third}.__getitem__


@pytest.fixture
def tiny_overrides(tiny_run, tmp_path):
    """Overrides, by key, with which ``python train.py`` does a tiny run of ``stamps``."""
    config = tiny_run()
    return {"recipe": "stamps", "data": "manifest", "data.path": config.data.path, "data.seen": "[es_419,fr_fr]",
            "frontend.encoder": config.frontend.encoder, "frontend.units": 8, "frontend.speeds": "[1.0]",
            "model.source": config.model.source, "model.num_layers": "null", "trainer.eval_every": 1,
            "trainer.batch_size": 4, "trainer.precision": "32-true", "trainer.accelerator": "cpu",
            "tasks.speech.shares.synthetic": 0.0, "logger.mode": "disabled", "threads": 1,
            "runs_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"}  # fmt: skip


@pytest.fixture
def python(tmp_path):
    """``python(argument, …)`` runs Python in a process of its own, in ``tmp_path``; what it printed is text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return lambda *arguments: subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
