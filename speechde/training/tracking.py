"""What is recorded about a run: loggers, code version, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from speechde.config import LoggerConfig


def build_loggers(config: LoggerConfig, run_dir: Path, name: str, settings: dict) -> list[Logger]:
    """A CSV always, a new one each time the run is started; Weights & Biases offline, online or not at all."""
    loggers: list[Logger] = [CSVLogger(run_dir, name="csv")]
    if config.mode != "disabled":
        os.environ.setdefault("WANDB_SILENT", "true")
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


def commit() -> str:
    """Git commit of the working tree, ``+`` when it has changes; ``unknown`` outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()


def hardware() -> str:
    """One line: accelerator or processor, cores, memory."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {model}, {memory:.0f} GiB memory, no accelerator"
