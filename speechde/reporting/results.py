"""The files of a run or an evaluation: report, queries, diagnostics; and the table on the screen."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

from speechde.cache import atomic_write
from speechde.errors import DataError
from speechde.evaluation.diagnostics import errors_markdown
from speechde.reporting.archive import TASKS, read_metrics, write_hits
from speechde.reporting.report import markdown, task_markdown, write_report
from speechde.reporting.terminal import show_markdown

log = logging.getLogger(__name__)


RANDOM = "model.init:random"  # the override that makes a control run


def finish_report(metrics: dict, records: list[dict], directory: Path | None, report_dir: Path | None) -> None:
    """:func:`write_results`, and print the table."""
    controls = write_results(metrics, records, directory, report_dir)
    show_report(metrics, controls, report_dir or directory / "results")


def finish_text_report(metrics: dict, hits: list[dict], directory: Path, report_dir: Path | None) -> None:
    """Write ``tasks.json``, ``table.md`` and ``hits.parquet`` of a run on text alone, and print the table."""
    metrics["curves"] = learning_curve(directory / "csv")
    for target in filter(None, (directory / "results", report_dir)):
        write_hits(hits, target, tuple({hit["direction"] for hit in hits}))
        for name, text in ((TASKS, json.dumps(metrics, indent=2, sort_keys=True, ensure_ascii=False) + "\n"),
                           ("table.md", task_markdown(metrics))):  # fmt: skip
            with atomic_write(target / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    show_markdown(task_markdown(metrics))


def write_results(
    metrics: dict, records: list[dict], directory: Path | None, report_dir: Path | None = None
) -> dict[str, dict]:
    """Write ``results/`` of a run directory; returns the metrics of control runs.

    Args:
        directory: the run directory; a control run (same recipe and seed, ``model.init=random``) whose metrics lie
            beside it becomes a column. None of an evaluation, which belongs to no run: all goes to ``report_dir``.
        report_dir: gets what is small enough to commit: the report, and ``hits.parquet`` for comparisons.

    ``diagnostics`` are taken out of the metrics.
    """
    diagnostics = metrics.pop("diagnostics", {})
    noted = {**metrics["data"].get("noted", {}), **metrics.pop("noted", {})}
    for reason, count in noted.items():
        log.info("used, but noted: %d × %s", count, reason)
    metrics["data"] = {**metrics["data"], "noted": noted}
    results = directory / "results" if directory else report_dir
    controls = control_runs(directory) if directory else {}
    if controls:
        metrics["controls"] = {name: control["audio_to_text"] for name, control in controls.items()}
    metrics["curves"] = curves = learning_curve(directory / "csv") if directory else []
    for target in filter(None, dict.fromkeys((results, report_dir))):
        write_report(target, metrics, curves, controls)
    if directory and report_dir:
        write_hits(records, report_dir)
    for name, text in (
        ("queries.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)),
        ("diagnostics.json", json.dumps(diagnostics, indent=2) + "\n"),
        ("errors.md", errors_markdown(records)),
    ):
        with atomic_write(results / name) as temporary:
            temporary.write_text(text, "utf-8")
    return controls


def show_report(metrics: dict, controls: dict[str, dict], folder: Path) -> None:
    """Print the table of a run, and where its files are."""
    show_markdown(markdown(metrics, controls))
    print(f"report: {folder / 'table.md'}")


def learning_curve(folder: Path) -> list[dict]:
    """Rows ``step, train_loss, dev_recall@1`` from the CSV logs ``version_N/metrics.csv`` of a run.

    There is one log for each time the run was started; where a resumed run repeats a step, the later one counts.
    """
    points: dict[int, dict] = {}
    for path in sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = int(row["step"]) + 1
                for name, column in (("train_loss", "train/contrastive"), ("dev_recall@1", "dev/recall@1")):
                    if row.get(column) not in (None, "", "nan"):  # dev of a run that holds nothing out
                        points.setdefault(step, {"step": step})[name] = float(row[column])
    return [points[step] for step in sorted(points)]


def control_runs(directory: Path) -> dict[str, dict]:
    """Metrics of the run whose overrides are this run's and ``model.init=random``, in whatever order they are named."""
    overrides, seed = _overrides(directory)
    for path in sorted(directory.parent.glob("*/results/metrics.json")):
        if _overrides(path.parents[1]) == (overrides | {RANDOM}, seed) and RANDOM not in overrides:
            try:
                return {"random LLM": read_metrics(path)}
            except DataError as error:  # this run's own results do not depend on it
                log.warning("no column of the control run: %s", error)
    return {}


def _overrides(directory: Path) -> tuple[set[str], str]:
    name, _, seed = directory.name.rpartition("-s")
    return set(name.split("+")) - {"default"}, seed
