"""Evaluate a trained model on utterances and write the results."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechde.cache import atomic_write
from speechde.checkpoint.folder import TrainedModel
from speechde.errors import DataError
from speechde.evaluation.baselines import run_baselines
from speechde.evaluation.diagnostics import diagnose, errors_markdown
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import QUERY, Remembered, evaluate
from speechde.evaluation.scene import Request, Scene
from speechde.evaluation.speech import scored, speech_metrics, speech_tasks
from speechde.models.embed import IN_PARTS
from speechde.reporting.archive import read_metrics, write_hits
from speechde.reporting.report import markdown, write_report
from speechde.reporting.terminal import show_markdown
from speechde.types import Utterance

EMBEDDING = "embedding for evaluation"  # label of the progress
RANDOM = "model.init:random"  # the override that makes a control run
log = logging.getLogger(__name__)


def evaluate_model(
    trained: TrainedModel,
    items: Mapping[str, np.ndarray],
    utterances: Sequence[Utterance],
    *,
    seen: Sequence[str],
    zero_shot: Sequence[str],
    proxy: Sequence[str] = (),
    seed: int = 0,
    baselines: Request | None = None,
) -> tuple[dict, list[dict]]:
    """Embed one split and score it; see ``speech.evaluate_speech`` for what comes back.

    The metrics have two keys more: ``diagnostics``, which :func:`write_results` writes to a file of its own, and
    ``noted``, what is unusual about clips and texts and how many it concerns, which it puts with ``data``.

    Args:
        items: stored speech items by utterance id; a store that knows the ``seconds`` of its clips has them used.
        baselines: what else answers the same queries; the metrics then have ``baselines``.
    """
    present = {u.lang for u in utterances}
    roles = {"seen": seen, "zero_shot": zero_shot, "proxy": proxy}
    roles = {role: [lang for lang in langs if lang in present] for role, langs in roles.items()}
    tasks, size = scored(speech_tasks(utterances, roles), seed)
    model, prompt = trained.model, trained.prompt
    cut: set[tuple[str | None, str]] = set()
    pieces: dict[str, int] = {}
    embed = Remembered(stored_embed(model, prompt, items, EMBEDDING, cut.add, pieces), symmetric=True)
    start = time.perf_counter()
    embed([query for task in tasks if task.name == "audio_to_text" for query in task.queries], QUERY)
    seconds_to_embed = time.perf_counter() - start
    results = evaluate(tasks, embed, seed=seed)
    metrics = speech_metrics(tasks, results, size, seed)
    noted = {IN_PARTS: sum(count > 1 for count in pieces.values()), f"text cut at {prompt.max_tokens} tokens": len(cut)}
    metrics["noted"] = {reason: count for reason, count in noted.items() if count}
    metrics["diagnostics"] = diagnose(tasks, embed, results, getattr(items, "seconds", None))
    if baselines and baselines.names:
        scene = Scene(trained, utterances, items, tasks, embed, results, baselines)
        metrics["baselines"] = run_baselines(scene, seconds_to_embed)
    return metrics, results.records


def finish_report(metrics: dict, records: list[dict], directory: Path | None, report_dir: Path | None) -> None:
    """:func:`write_results`, and print the table."""
    controls = write_results(metrics, records, directory, report_dir)
    show_report(metrics, controls, report_dir or directory / "results")


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
                    if row.get(column):
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
