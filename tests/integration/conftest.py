"""A mixture of two tasks: clips ask for their transcripts, and transcripts for their clips."""

from __future__ import annotations

from dataclasses import replace

import pytest

from speechde.corpora.examples import Joined, SpeechExamples
from speechde.training import fit, tasks
from speechde.training.mixture import Mixture, Task
from speechde.training.plan import plan

READ_ALOUD = 0.75  # how often the second task is drawn, relative to the first


class ReadAloud(SpeechExamples):
    """A transcript asks for its recording."""

    def __getitem__(self, index):
        one = super().__getitem__(index)
        return replace(one, query=one.positive, positive=one.query)


def task_examples(config, training, pairs=()):
    return [*tasks.task_examples(config, training, pairs), Joined(ReadAloud(training))]


def mixture(config, examples, *, steps, views=1):
    spoken, written = examples
    (first,) = tasks.mixture(config, [spoken], steps=steps, views=views).tasks
    second = Task(
        "read aloud", written.strata, written.sources, batch_size=3, rate=READ_ALOUD, exponent=0.0, views=views
    )
    return Mixture([first, second], steps=steps, seed=config.seed)


@pytest.fixture
def two_tasks(monkeypatch):
    """``two_tasks()``: from now on a configuration asks for two tasks."""

    def ask():
        for module in (fit, plan):
            monkeypatch.setattr(module, "task_examples", task_examples)
            monkeypatch.setattr(module, "mixture", mixture)

    return ask
