"""The directory of a run: its name, and how long its stages took."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechde.cache import atomic_write, fingerprint
from speechde.config import RunConfig

MAX_NAME_BYTES = 180  # file systems allow 255, and evaluations put a suffix behind it
log = logging.getLogger(__name__)


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
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    longest = {stage: round(max(value, before.get(stage, 0.0)), 2) for stage, value in seconds.items()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(longest) + "\n", encoding="utf-8")
    return longest


def run_directory(config: RunConfig) -> Path:
    """``<runs_dir>/<recipe>/<overrides>-s<seed>``; what a path or a command line cannot hold becomes ``_``.

    Overrides too long for the name of a file are cut, and told apart by a hash.
    """
    recipe, name = (re.sub(r"[^\w.:+-]|^\.+", "_", part) for part in (config.recipe_name, config.run_name))
    if len(name.encode()) > MAX_NAME_BYTES:
        name = f"{name.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{fingerprint(config.run_name)}"
    return Path(config.runs_dir) / recipe / f"{name}-s{config.seed}"
