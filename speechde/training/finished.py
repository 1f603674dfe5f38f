"""Has this run been done? A sweep that is started again goes on with the points that are missing."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from speechde.config import RunConfig, build
from speechde.errors import ConfigError
from speechde.evaluation.archive import METRICS
from speechde.evaluation.run import control_runs, show_report

# settings that no number of a run depends on
OUTSIDE = ("run_name", "runs_dir", "cache_dir", "report_dir", "archive_dir", "threads", "logger", "plan", "plan_only")
log = logging.getLogger(__name__)


def finished(config: RunConfig, directory: Path) -> dict | None:
    """The ``metrics.json`` of a run directory, or of the archived run, printed again, when it answers what is asked.

    None: there is none, its configuration was another (other baselines, say), a report elsewhere is wanted, or a
    control run has been finished since, whose column is missing.
    """
    if config.report_dir or config.plan_only or config.frontend.share:
        return None
    folders = [directory / "results", *([archived(config, directory)] if config.archive_dir else [])]
    path = next((folder / METRICS for folder in folders if (folder / METRICS).is_file()), None)
    if path is None:
        return None
    metrics = json.loads(path.read_text(encoding="utf-8"))
    held = metrics.get("controls", {})
    controls = control_runs(directory) if path.parent == folders[0] else held  # an archived run has what it had
    if _asked(metrics["config"]) != asked(asdict(config)) or set(controls) != set(held):
        return None
    show_report(metrics, controls, path.parent)
    log.info("done before, at commit %s; delete %s to evaluate again", metrics["commit"], path.parent)
    return metrics


def archived(config: RunConfig, directory: Path) -> Path:
    """Where ``archive_dir`` keeps the run of a directory: by the same name."""
    return Path(config.archive_dir) / directory.relative_to(config.runs_dir)


def asked(config: dict) -> dict:
    """What the numbers of a run depend on."""
    return {key: value for key, value in config.items() if key not in OUTSIDE}


def _asked(config: dict) -> dict | None:
    """``asked`` of a run of an older version: settings that came later have the values that change nothing."""
    try:
        return asked(asdict(build(config)))
    except ConfigError:  # a setting that is gone
        return None
