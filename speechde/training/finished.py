"""Has this run been done? A sweep that is started again goes on with the points that are missing."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from speechde.config import RunConfig
from speechde.evaluation.run import control_runs, show_report

# settings that no number of a run depends on
OUTSIDE = ("run_name", "runs_dir", "cache_dir", "report_dir", "threads", "logger", "plan", "plan_only")
log = logging.getLogger(__name__)


def finished(config: RunConfig, directory: Path) -> dict | None:
    """The ``metrics.json`` of a run directory, printed again, when it answers all that ``config`` asks for.

    None: there is none, its configuration was another (other baselines, say), a report elsewhere is wanted, or a
    control run has been finished since, whose column is missing.
    """
    path = directory / "results" / "metrics.json"
    if config.report_dir or config.plan_only or config.frontend.share or not path.is_file():
        return None
    metrics = json.loads(path.read_text(encoding="utf-8"))
    controls = control_runs(directory)
    if _asked(metrics["config"]) != _asked(asdict(config)) or set(controls) != set(metrics.get("controls", {})):
        return None
    show_report(metrics, controls, path.parent)
    log.info("done before, at commit %s; delete %s to evaluate again", metrics["commit"], path.parent)
    return metrics


def _asked(config: dict) -> dict:
    return {key: value for key, value in config.items() if key not in OUTSIDE}
