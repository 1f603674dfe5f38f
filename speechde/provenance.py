"""What is recorded about any run beside its numbers: version of the code, hardware, seconds of its stages."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

import torch

from speechde.cache import atomic_write
from speechde.config import RunConfig
from speechde.corpora.fingerprint import sources
from speechde.errors import ConfigError
from speechde.versions import VERSION

log = logging.getLogger(__name__)


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


class Clock:
    """Wall seconds by stage; those of a run that fails or is interrupted are remembered too.

    Args:
        directory: of the run (see ``remember_seconds``), once it exists; None remembers nothing.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.seconds = {stage: 0.0 for stage in ("fetch", "frames", "kmeans", "train", "evaluate", "total")}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        log.info("stage: %s", stage)
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start
            self.seconds["total"] = time.perf_counter() - self._start
            if self.directory is not None and self.directory.is_dir():
                remember_seconds(self.directory, self.seconds)


def remember_seconds(directory: Path, seconds: dict[str, float]) -> dict[str, float]:
    """Wall seconds by stage, each the longest that any start of this run took, kept in ``wall_seconds.json``.

    A run that is started again finds most stages cached; the report should say what they cost, not that they were.
    """
    path = directory / "wall_seconds.json"
    before: dict[str, float] = {}
    if path.is_file():
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:  # no result depends on it
            log.warning("%s is damaged (%s); it is written anew", path, error)
    longest = {stage: round(max(value, before.get(stage, 0.0)), 2) for stage, value in seconds.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(longest) + "\n", encoding="utf-8")
    return longest


def check_writable(*folders: str | Path | None) -> None:
    """See that results can be written to folders, before hours of work rather than after.

    A folder that is not there is not made: several processes look at once, and one that fails leaves nothing behind.

    Raises:
        ConfigError: nothing can be written to one of them.
    """
    for folder in map(Path, filter(None, folders)):
        try:
            with TemporaryFile(dir=next(each for each in (folder, *folder.parents) if each.exists())):
                pass
        except OSError as error:
            raise ConfigError(
                f"cannot write results to {folder} ({error.strerror}); give another folder: report_dir=FOLDER for an "
                "evaluation, runs_dir=FOLDER for a training run"
            ) from error


def facts(config: RunConfig) -> dict:
    """What is recorded about any run beside its numbers; read at its start, because the code may change meanwhile."""
    return {
        "commit": commit(),
        "hardware": hardware(),
        "command": shlex.join(["python", *sys.argv]) if sys.argv[0].endswith(".py") else "",
        "config": asdict(config),
        "version": VERSION,
        "sources": sources(config),
    }


def set_numerics(config: RunConfig) -> None:
    """What the numbers of training and of every evaluation depend on, beside the configuration."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("high")
