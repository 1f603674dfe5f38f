"""Evaluate a trained model on utterances and write the results."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from speechde.cache import atomic_write
from speechde.evaluation import protocol
from speechde.evaluation.report import markdown, write_report
from speechde.export.folder import TrainedModel
from speechde.models.embed import embed_speech, embed_texts
from speechde.types import Utterance

log = logging.getLogger(__name__)


def evaluate_model(
    trained: TrainedModel,
    items: Mapping[str, np.ndarray],
    utterances: Sequence[Utterance],
    *,
    seen: Sequence[str],
    zero_shot: Sequence[str],
    seed: int = 0,
) -> tuple[dict, list[dict]]:
    """Embed one split and score it; see ``protocol.evaluate`` for what comes back.

    Args:
        items: stored speech items by utterance id.
    """
    present = {u.lang for u in utterances}
    seen, zero_shot = ([lang for lang in langs if lang in present] for langs in (seen, zero_shot))
    model, prompt = trained.model, trained.prompt
    speech = embed_speech(model, prompt, [items[u.id] for u in utterances], [u.lang for u in utterances])
    texts = protocol.unique_texts(utterances)
    vectors = embed_texts(model, [prompt.text_ids(text, lang) for lang, text in texts])
    translations = protocol.unique_translations(utterances)
    english = None
    if translations:
        english = translations, embed_texts(model, [prompt.text_ids(text, "en_us") for text in translations])
    return protocol.evaluate(utterances, speech, texts, vectors, english, seen=seen, zero_shot=zero_shot, seed=seed)


def finish_report(metrics: dict, records: list[dict], directory: Path, report_dir: Path | None) -> None:
    """Write ``results/`` of the run directory, copy it to ``report_dir``, and print the table.

    A control run (same recipe and seed, ``model.init=random``) whose metrics lie beside this run's becomes a column.
    """
    controls = _controls(directory)
    if controls:
        metrics["controls"] = {name: control["audio_to_text"] for name, control in controls.items()}
    curves = learning_curve(directory / "csv" / "metrics.csv")
    for target in filter(None, (directory / "results", report_dir)):
        write_report(target, metrics, curves, controls)
    with atomic_write(directory / "results" / "queries.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    Console(width=200).print(Markdown(markdown(metrics, controls)))
    print(f"report: {(report_dir or directory / 'results') / 'table.md'}")


def learning_curve(path: Path) -> list[dict]:
    """Rows ``step, train_loss, dev_recall@1`` from the CSV log; none when there is no log."""
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            point = {"step": int(row["step"]) + 1}
            for name, column in (("train_loss", "train/contrastive"), ("dev_recall@1", "dev/recall@1")):
                if row.get(column):
                    point[name] = float(row[column])
            rows.append(point)
    return rows


def _controls(directory: Path) -> dict[str, dict]:
    name, _, seed = directory.name.rpartition("-s")
    control = "model.init=random" if name == "default" else f"{name},model.init=random"
    path = directory.parent / f"{control}-s{seed}" / "results" / "metrics.json"
    if "model.init=random" in name or not path.is_file():
        return {}
    return {"random LLM": json.loads(path.read_text(encoding="utf-8"))}
