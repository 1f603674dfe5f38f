"""A run on a mixture of two tasks: what its plan says, and what it draws."""

from __future__ import annotations

from collections import Counter

import pytest

from speechde.training import fit, run
from speechde.training.dataset import ExampleDataset


def test_the_plan_counts_the_epochs_of_the_speech_task(tiny_run, two_tasks):
    one = run.train(tiny_run(plan_only=True))["plan"]["epochs"]
    two_tasks()
    two = run.train(tiny_run(plan_only=True))["plan"]["epochs"]
    assert one == pytest.approx({"es_419": 0.8, "fr_fr": 0.8})
    assert two == pytest.approx({lang: value / 1.75 for lang, value in one.items()})


@pytest.mark.parametrize("recipe", ["stamps", "quickstart"])  # a text side that is trained, and one that is looked up
def test_examples_of_both_tasks_are_drawn_as_often_as_expected(tiny_run, two_tasks, monkeypatch, recipe):
    two_tasks()
    mixtures, rows = [], []

    class Examples(ExampleDataset):
        def collate(self, chosen):
            assert len({row.task for row in chosen}) == 1
            rows.extend(chosen)
            return super().collate(chosen)

    real = fit.mixture
    monkeypatch.setattr(fit, "ExampleDataset", Examples)
    monkeypatch.setattr(fit, "mixture", lambda *a, **k: mixtures.append(real(*a, **k)) or mixtures[0])
    metrics = run.train(tiny_run(recipe, trainer__steps=60, trainer__eval_every=60))
    assert metrics["data"]["train"]["recordings"] == 10
    drawn = Counter(row.task for row in rows if row.example < 10)
    for task, epochs in enumerate(mixtures[0].effective_epochs(60)):
        assert drawn[task] == pytest.approx(5 * sum(epochs.values()), rel=0.2)  # of 5 clips of each language
