"""A mixture of two tasks: clips ask for transcripts, and transcripts, from a file of examples, for their clips."""

from __future__ import annotations

import json

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
