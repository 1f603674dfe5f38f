"""What the stages of a run cost."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechde.cache import atomic_write

log = logging.getLogger(__name__)


class Clock:
    """Wall seconds by stage."""

    def __init__(self) -> None:
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
