"""Evaluate a trained model on utterances and write the results."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechde.cache import atomic_write
from speechde.evaluation import protocol
from speechde.evaluation.baselines import run_baselines
from speechde.evaluation.diagnostics import diagnose, errors_markdown
from speechde.evaluation.report import markdown, write_report
from speechde.evaluation.scene import Request, Scene
from speechde.evaluation.terminal import show_markdown
from speechde.export.folder import TrainedModel
from speechde.models.embed import embed_speech, embed_texts
from speechde.types import Utterance

EMBEDDING = "embedding for evaluation"  # label of the progress
RANDOM = "model.init:random"  # the override that makes a control run


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
    """Embed one split and score it; see ``protocol.evaluate`` for what comes back.

    The metrics have one key more, ``diagnostics``, which :func:`finish_report` writes to a file of its own.

    Args:
        items: stored speech items by utterance id; a store that knows the ``seconds`` of its clips has them used.
        baselines: what else answers the same queries; the metrics then have ``baselines``.
    """
    present = {u.lang for u in utterances}
    roles = {"seen": seen, "zero_shot": zero_shot, "proxy": proxy}
    roles = {role: [lang for lang in langs if lang in present] for role, langs in roles.items()}
    model, prompt = trained.model, trained.prompt
    start = time.perf_counter()
    clips, langs = [items[u.id] for u in utterances], [u.lang for u in utterances]
    speech = embed_speech(model, prompt, clips, langs, EMBEDDING)
    seconds_to_embed = time.perf_counter() - start
    texts = protocol.unique_texts(utterances)
    vectors = embed_texts(model, [prompt.text_ids(text, lang) for lang, text in texts], EMBEDDING)
    translations = protocol.unique_translations(utterances)
    english = None
    if translations:
        ids = [prompt.text_ids(text, "en_us") for text in translations]
        english = translations, embed_texts(model, ids, EMBEDDING)
    metrics, records = protocol.evaluate(utterances, speech, texts, vectors, english, **roles, seed=seed)
    role = {lang: role for role, langs in roles.items() for lang in langs}
    seconds = getattr(items, "seconds", None)
    metrics["diagnostics"] = diagnose(utterances, speech, texts, vectors, records, role, seconds)
    if baselines and baselines.names:
        scene = Scene(trained, utterances, items, texts, vectors, records, role, baselines)
        metrics["baselines"] = run_baselines(scene, seconds_to_embed)
    return metrics, records


def finish_report(metrics: dict, records: list[dict], directory: Path, report_dir: Path | None) -> None:
    """:func:`write_results`, and print the table."""
    controls = write_results(metrics, records, directory, report_dir)
    show_report(metrics, controls, report_dir or directory / "results")


def write_results(
    metrics: dict, records: list[dict], directory: Path, report_dir: Path | None = None
) -> dict[str, dict]:
    """Write ``results/`` of a run directory and copy it to ``report_dir``; returns the metrics of control runs.

    ``diagnostics`` are taken out of the metrics. A control run (same recipe and seed, ``model.init=random``) whose
    metrics lie beside this run's becomes a column.
    """
    diagnostics = metrics.pop("diagnostics", {})
    controls = control_runs(directory)
    if controls:
        metrics["controls"] = {name: control["audio_to_text"] for name, control in controls.items()}
    metrics["curves"] = curves = learning_curve(directory / "csv")
    for target in filter(None, (directory / "results", report_dir)):
        write_report(target, metrics, curves, controls)
    for name, text in (
        ("queries.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)),
        ("diagnostics.json", json.dumps(diagnostics, indent=2) + "\n"),
        ("errors.md", errors_markdown(records)),
    ):
        with atomic_write(directory / "results" / name) as temporary:
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
            return {"random LLM": json.loads(path.read_text(encoding="utf-8"))}
    return {}


def _overrides(directory: Path) -> tuple[set[str], str]:
    name, _, seed = directory.name.rpartition("-s")
    return set(name.split("+")) - {"default"}, seed
