"""A search: it finds, it resumes to what an uninterrupted one would have done, it never counts a trial twice."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from speechde.errors import ConfigError
from speechde.training.tuning import run_study, study_page, written

SPACE = {
    "optim.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "model.num_layers": IntDistribution(1, 4),
    "loss": CategoricalDistribution(["faithful", "modern"]),
}


def score(settings):
    return 1 / (1 + abs(float(settings["optim.lr"]) - 0.01) * 100) * (1 if settings["loss"] == "modern" else 0.5)


def study(path, trials=9, objective=score, space=SPACE):
    return [(trial.params, trial.value) for trial in run_study(path, space, trials, 0, objective)]


def test_the_best_comes_first_and_the_space_is_kept_to(tmp_path):
    found = study(tmp_path / "s.db", 12)
    values = [value for _, value in found]
    assert len(found) == 12 and values == sorted(values, reverse=True) and len(set(values)) > 6
    assert all(1e-4 <= p["optim.lr"] <= 1e-1 and p["model.num_layers"] in range(1, 5) for p, _ in found)


def test_a_search_that_was_killed_becomes_the_whole_one(tmp_path):
    whole = study(tmp_path / "whole.db")
    asked = []

    def stops(settings):
        asked.append(settings)
        if len(asked) in (3, 8):
            raise KeyboardInterrupt
        return score(settings)

    for expected in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "cut.db", objective=stops)
        assert len(asked) == expected
    cut = study(tmp_path / "cut.db", objective=stops)
    assert cut == whole
    assert asked[2] == asked[3] and asked[7] == asked[8] and len(asked) == 9 + 2  # only the cut ones ran twice
    assert study(tmp_path / "cut.db", objective=lambda settings: pytest.fail("a trial ran again")) == whole
    assert (
        study(tmp_path / "cut.db", 10)[:1] != [] and len(study(tmp_path / "cut.db", 10)) == 10
    )  # more may be asked for


def test_settings_are_short_and_the_page_names_the_command(tmp_path):
    assert written({"a": 0.000312345, "b": 3, "c": "modern", "d": 0.25}) == {
        "a": "0.000312", "b": "3", "c": "modern", "d": "0.25"
    }  # fmt: skip
    given = []
    trials = run_study(tmp_path / "s.db", SPACE, 2, 0, lambda settings: given.append(settings) or score(settings))
    page = study_page(trials, "python train.py recipe=x")
    best = max(given, key=score)
    command = " ".join(["python train.py recipe=x", *(f"{key}={value}" for key, value in best.items())])
    assert f"\n{command}\n" in page and page.count("\n| ") == 2 + 2 and f"{100 * score(best):.1f}" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, "nothing to search"),
        ({"trials": 0}, "hydra.sweeper.trials=0"),
        ({"objective": lambda settings: None}, "gave no dev R@1"),
    ],
)
def test_what_cannot_be_searched(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        study(tmp_path / "s.db", **change)


def test_a_trial_without_a_score_is_not_finished(tmp_path):
    with pytest.raises(ConfigError):
        study(tmp_path / "s.db", objective=lambda settings: None)
    (name,) = optuna.get_all_study_names(f"sqlite:///{tmp_path / 's.db'}")
    kept = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / 's.db'}")
    assert kept.get_trials(states=(optuna.trial.TrialState.COMPLETE,)) == []
