"""What is recorded about a run: loggers, code version, hardware."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from speechde.config import LoggerConfig
from speechde.evaluation.speech import ROLES

QUANTISER_FILES = ("kmeans.safetensors", "unit_bpe.model")  # of a model folder


def build_loggers(config: LoggerConfig, run_dir: Path, name: str, settings: dict) -> list[Logger]:
    """A CSV always, a new one each time the run is started; Weights & Biases offline, online or not at all."""
    loggers: list[Logger] = [CSVLogger(run_dir, name="csv")]
    if config.mode != "disabled":
        os.environ.setdefault("WANDB_SILENT", "true")
        # silent from here on, and not only in a run: Lightning passes an option that it would warn of before
        wandb.setup(wandb.Settings(mode=config.mode, silent=os.environ["WANDB_SILENT"] == "true"))
        loggers.append(
            WandbLogger(
                name=name,
                project=config.project,
                entity=config.entity,
                group=config.group,
                save_dir=str(run_dir),
                offline=config.mode == "offline",
                config=settings,
                log_model=False,
            )
        )
    return loggers


def log_results(loggers: Sequence[Logger], metrics: Mapping, directory: Path, log_model: bool) -> None:
    """End the Weights & Biases run, where there is one, with all that is known at the end of a run.

    Facts about the data go to its configuration, means to its summary, one row per language to the table
    ``results/languages``; the pictures, and as artifacts the files of ``results/``, the centroids and, with
    ``log_model``, the model folder. Without an end, the next run of a sweep in this process would be logged as this
    one.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        run.config.update({"data_statistics": metrics["data"], "commit": metrics["commit"]}, allow_val_change=True)
        spoken = metrics.get("audio_to_text", {})  # none of a run on text alone
        rows = spoken.get("per_language", {})
        columns = ["role", "queries", "gallery", "chance", "recall@1", "recall@5", "mrr"]
        table = [[lang, *(row[column] for column in columns), *row["ci95"]] for lang, row in rows.items()]
        pictures = sorted((directory / "results").glob("*.png"))
        run.log(
            {"results/languages": wandb.Table(columns=["language", *columns, "low", "high"], data=table)}
            | {f"results/{path.stem}": wandb.Image(str(path)) for path in pictures}
        )
        for role in ROLES:
            if mean := spoken.get(role):
                run.summary.update(
                    {f"test/{role}/{key}": mean[key] for key in ("recall@1", "recall@5", "mrr", "chance")}
                )
        for task, row in metrics.get("tasks", {}).items():
            run.summary.update({f"test/{task}/{key}": row[key] for key in ("recall@1", "recall@5", "mrr", "chance")})
        name = re.sub(r"[^\w.-]", "_", f"{metrics['recipe']}-{run.id}", flags=re.ASCII)  # of artifacts
        _log_files(run, f"{name}-results", "results", [directory / "results"])
        _log_files(run, f"{name}-units", "units", [directory / "model" / file for file in QUANTISER_FILES])
        if log_model:
            _log_files(run, f"{name}-model", "model", [directory / "model"])
        run.finish()


def _log_files(run: wandb.Run, name: str, kind: str, paths: Sequence[Path]) -> None:
    """One artifact of those files and folders that exist; none, no artifact."""
    artifact = wandb.Artifact(name, type=kind)
    for path in paths:
        if path.is_dir():
            artifact.add_dir(str(path))
        elif path.is_file():
            artifact.add_file(str(path))
    if artifact.manifest.entries:
        run.log_artifact(artifact)
