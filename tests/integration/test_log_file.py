"""What a run writes where no terminal is: every stage a first and a last line, and nothing that redraws itself."""

from __future__ import annotations

import pytest

from speechde import progress
from speechde.training import run


@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_lines_of_a_run(tiny_run, monkeypatch, capfd, recipe):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    options = {"model__freeze": ["*"], "frontend__speeds": [1.0]} if recipe == "quickstart_narrow" else {}
    run.train(tiny_run(recipe, **options))
    out, err = capfd.readouterr()
    assert "\r" not in out + err and "\x1b" not in out + err
    lines = err.splitlines()
    assert "" not in lines
    stages: dict[str, list[str]] = {}
    for line in lines:
        label, _, rest = line.rpartition(": ")
        stages.setdefault(label, []).append(rest)
    expected = ["train ×1", "dev", "evaluation", "train", "dev recall", "embedding for evaluation", "scoring"]
    for label in [*expected, "k-means" if recipe == "stamps" else "text states"]:
        first, last = stages[label][0], stages[label][-1]
        assert first.startswith("0/") and " in 0:0" in last, f"{label}: {stages[label]}"
    assert stages["train"][0] == "0/2 steps" and stages["train"][-1].startswith("2/2 steps in ")
    assert all("loss " in line and "dev R@1 " in line for line in stages["train"][1:])
    assert len(stages["train"]) == 3  # the start, the evaluation in the middle, the end
