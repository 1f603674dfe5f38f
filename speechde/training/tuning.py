"""A search for settings: Optuna proposes, a training run answers with dev R@1 of the seen languages.

The study is an SQLite file, written after every trial, so that a search that was killed goes on where it was. What is
proposed next depends on the finished trials and the seed alone: the trial that was cut off is proposed again, finds its
run directory, and resumes there; the whole search is the one that an uninterrupted process would have made. One process
works on a study at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from speechde.errors import ConfigError
from speechde.reporting.tables import markdown_table, percent

STARTUP = 6  # trials drawn at random before the sampler (TPE) learns from them
Settings = dict[str, str]  # override key → value
log = logging.getLogger(__name__)


def run_study(
    path: Path,
    space: Mapping[str, BaseDistribution],
    trials: int,
    seed: int,
    objective: Callable[[Settings], float | None],
) -> list[FrozenTrial]:
    """Run trials until ``trials`` are finished; returns the finished ones, best first.

    Args:
        path: of the study, an SQLite file; made when missing.
        space: what is searched, by the key of the configuration.
        objective: dev R@1 of a run with the settings it is given; called with the value as it is written.

    Raises:
        ConfigError: nothing to search, or a run that gives no dev R@1.
    """
    if not space:
        raise ConfigError("nothing to search: give a key a range, such as 'optim.lr=tag(log,interval(1e-4,1e-2))'")
    if trials < 1:
        raise ConfigError(f"hydra.sweeper.trials={trials} is not positive")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{path}", study_name="dev recall@1", direction="maximize", load_if_exists=True
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # of a process that was killed
    while (done := len(_finished(study))) < trials:
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed + done)
        trial = study.ask(dict(space))
        settings = written(trial.params)
        log.info("trial %d of %d: %s", done + 1, trials, " ".join(f"{key}={value}" for key, value in settings.items()))
        score = objective(settings)
        if score is None:
            raise ConfigError("a trial gave no dev R@1; leave out plan_only and frontend.shard")
        study.tell(trial, score)
    return _finished(study)


def written(params: Mapping[str, object]) -> Settings:
    """Parameters as overrides; three digits of a number are enough, and can be read in the name of a run."""
    return {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in params.items()}


def study_page(trials: list[FrozenTrial], command: str) -> str:
    """Markdown: the command of the best trial, and all trials, best first.

    Args:
        command: what a run of the recipe starts with, ``python train.py recipe=…``.
    """
    keys = list(trials[0].params)
    rows = [
        [str(trial.number), percent(trial.value), *(written(trial.params)[key] for key in keys)] for trial in trials
    ]
    best = " ".join([command, *(f"{key}={value}" for key, value in written(trials[0].params).items())])
    lines = ["Chosen by dev R@1 of the seen languages; no test clip was read.", "", "```", best, "```", ""]
    return "\n".join([*lines, *markdown_table(["trial", "dev R@1", *keys], rows), ""])


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.value)
