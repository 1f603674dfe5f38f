"""Tables of ``results/README.md`` about texts: runs on text alone, text evaluations, and what was compared.

Runs on text alone are held against the run of their recipe and seed that changed least, query by query, where both keep
which queries they answered. Comparisons that ``speechde compare --output`` wrote are listed as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechde.errors import ConfigError, DataError
from speechde.evaluation.files import task_and_role
from speechde.reporting.archive import kept_queries
from speechde.reporting.compare import compare_runs
from speechde.reporting.summary import DEFAULT
from speechde.reporting.tables import markdown_table, percent, points_cell, recall_cell
from speechde.reporting.text import NAMES
from speechde.versions import void_metrics

RUN_HEADER = ["recipe", "changed", "seed", "task", "trained on", "queries", "chance", "dev R@1", "R@1 [95 % CI]",
              "points from the default", "minutes", "hardware", "commit", "command"]  # fmt: skip
COMPARED_HEADER = ["A", "B", "task", "role", "languages or parts", "queries", "A R@1", "B R@1", "A − B [95 % CI]",
                   "won", "lost", "p", "command"]  # fmt: skip
Text = tuple[Path, Mapping]  # the folder of a ``tasks.json``, and what that holds


def run_rows(runs: Sequence[Text]) -> list[tuple[Path, list[str]]]:
    """The folder of each run on text alone and, for each of its tasks, the cells below ``RUN_HEADER[1:]`` but for the
    last three."""
    rows = []
    for folder, metrics in sorted(runs, key=lambda run: (run[1]["recipe"], _changed(run[1]), run[1]["seed"], run[0])):
        base = _base(metrics, runs)
        for name, task in metrics["tasks"].items():
            examples = metrics["data"]["tasks"].get(task_and_role(name)[0], {}).get("examples", "–")
            dev = metrics.get("dev_recall@1")
            rows.append((folder, [
                " ".join(_changed(metrics)) + (" (**void**)" if void_metrics(metrics) else "") or "–",
                str(metrics["seed"]), name, str(examples), str(task["queries"]), percent(task["chance"]),
                "–" if dev is None else percent(dev), recall_cell(task), _from(base, folder, name),
                f"{metrics['wall_seconds']['total'] / 60:.1f}",
            ]))  # fmt: skip
    return rows


def _changed(metrics: Mapping) -> list[str]:
    """Overrides of a run; a value may hold the ``+`` that is between them."""
    overrides = metrics.get("overrides") or DEFAULT
    return [] if overrides == DEFAULT else re.split(r"\+(?=[\w.]+:)", overrides)


def _base(metrics: Mapping, runs: Sequence[Text]) -> Path | None:
    """The folder of the run of its recipe and seed whose overrides are among its own, the fewest; None: it is that."""
    own = set(_changed(metrics))
    found = [
        (len(changed), str(folder), folder)
        for folder, other in runs
        if (other["recipe"], other["seed"]) == (metrics["recipe"], metrics["seed"])
        and (changed := set(_changed(other))) < own
        and not void_metrics(other)
    ]
    return min(found)[-1] if found else None


def _from(base: Path | None, folder: Path, task: str) -> str:
    """Points from the base; a dash where there is none, or where not both keep these queries."""
    if base is None or not all(map(kept_queries, (base, folder))):
        return "–"
    name, role = task_and_role(task)
    try:
        means = compare_runs(folder, base, name).means
    except (ConfigError, DataError):
        return "–"
    return next((points_cell(mean.difference, mean.ci95) for mean in means if mean.role == role), "–")


def compared_rows(content: Mapping) -> list[list[str]]:
    """Cells below ``COMPARED_HEADER`` but for the last of what ``comparison.json`` holds."""
    return [
        [_named(each["a"]), _named(each["b"]), each["direction"], _role(mean["role"]), str(mean["languages"]),
         str(mean["queries"]), percent(mean["recall_a"]), percent(mean["recall_b"]),
         points_cell(mean["difference"], mean["ci95"]), str(mean["won"]), str(mean["lost"]), f"{mean['p']:.2g}"]
        for each in content["comparisons"]
        for mean in each["means"]
    ]  # fmt: skip


def _named(runs: str) -> str:
    """``results/a-s0 + results/a-s1`` → ``a-s0, a-s1``."""
    return ", ".join(Path(run).name for run in runs.split(" + "))


def _role(role: str) -> str:
    return " / ".join(NAMES.get(part, part.replace("_", " ")) for part in role.split("/"))


def table(header: Sequence[str], title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """A section; none without rows."""
    return ["", f"## {title}", "", *markdown_table(header, rows)] if rows else []
