"""Has this run been done? A sweep that is started again goes on with the points that are missing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechde.config import RunConfig
from speechde.corpora.fingerprint import flat, sources
from speechde.reporting.archive import METRICS, TASKS, read_metrics
from speechde.reporting.report import task_markdown
from speechde.reporting.results import control_runs, show_report
from speechde.reporting.terminal import show_markdown
from speechde.training.identity import asked, asked_before
from speechde.versions import void_metrics

log = logging.getLogger(__name__)


def finished(config: RunConfig, directory: Path) -> dict | None:
    """The ``metrics.json`` of a run directory, or of the archived run, printed again, when it answers what is asked.

    None: there is none, its configuration was another (other baselines, say), the files that it names as its data have
    changed, it rests on a fault that has been repaired since, a report elsewhere is wanted, or a control run has been
    finished since, whose column is missing.

    Raises:
        DataError: it is damaged.
    """
    if config.report_dir or config.plan_only or config.frontend.share:
        return None
    folders = [directory / "results", *([archived(config, directory)] if config.archive_dir else [])]
    name = TASKS if config.without_speech else METRICS
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        return None
    metrics = read_metrics(path)
    held = metrics.get("controls", {})
    controls = control_runs(directory) if path.parent == folders[0] else held  # an archived run has what it had
    before, now = metrics.get("sources", {}), sources(config)
    both = before.keys() & now.keys()
    moved = {name for name in both if before[name] == now[name]}  # the same data, wherever they lie
    if _settings(asked_before(metrics["config"]), moved) != _settings(asked(asdict(config)), moved):
        return None
    if set(controls) != set(held):
        return None
    if both - moved:  # another machine may have none of the files
        log.info("%s is of other data; run again", path)
        return None
    if fault := void_metrics(metrics):
        log.warning("%s is void (%s); run again", path, fault)
        return None
    if config.without_speech:
        show_markdown(task_markdown(metrics))
    else:
        show_report(metrics, controls, path.parent)
    log.info("done before, at commit %s; delete %s to evaluate again", metrics["commit"], path.parent)
    return metrics


def archived(config: RunConfig, directory: Path) -> Path:
    """Where ``archive_dir`` keeps the run of a directory: by the same name."""
    return Path(config.archive_dir) / directory.relative_to(config.runs_dir)


def _settings(config: Mapping[str, Any] | None, free: Collection[str]) -> dict[str, Any] | None:
    """By dotted name, less those of ``free``."""
    return config and {name: value for name, value in flat(config) if name not in free}
