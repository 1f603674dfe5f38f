"""The directory of a run: its name, who works on it, and how long its stages took."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from speechde.cache import atomic_write, fingerprint
from speechde.config import RunConfig
from speechde.errors import ConfigError

LOCK = ".lock"
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


def run_directory(config: RunConfig) -> Path:
    """``<runs_dir>/<recipe>/<overrides>-s<seed>``; what a path or a command line cannot hold becomes ``_``.

    Overrides too long for the name of a file are cut, and told apart by a hash.
    """
    recipe, name = (re.sub(r"[^\w.:+-]|^\.+", "_", part) for part in (config.recipe_name, config.run_name))
    if len(name.encode()) > MAX_NAME_BYTES:
        name = f"{name.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{fingerprint(config.run_name)}"
    return Path(config.runs_dir) / recipe / f"{name}-s{config.seed}"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Nobody else works on a run meanwhile: two commands would write one checkpoint. The first process holds the lock.

    Raises:
        ConfigError: somebody does, or nothing can be written there.
    """
    if rank_zero_only.rank:
        yield
        return
    check_writable(directory)
    try:
        with FileLock(directory / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another process works on {directory}; wait for it, or train elsewhere (run_name=NAME, or another seed)"
        ) from error


def check_writable(*folders: str | Path | None) -> None:
    """Make folders where results will be written, before hours of work rather than after.

    Raises:
        ConfigError: nothing can be written to one of them.
    """
    for folder in filter(None, folders):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"cannot write results to {folder} ({error.strerror}); give another folder: report_dir=FOLDER for an "
                "evaluation, runs_dir=FOLDER for a training run"
            ) from error
