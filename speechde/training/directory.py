"""The directory of a run: its name, who works on it, and how long its stages took."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only

from speechde.cache import fingerprint
from speechde.config import RunConfig
from speechde.errors import ConfigError
from speechde.provenance import check_writable

LOCK = ".lock"
MAX_NAME_BYTES = 180  # file systems allow 255, and evaluations put a suffix behind it
log = logging.getLogger(__name__)


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
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another process works on {directory}; wait for it, or train elsewhere (run_name=NAME, or another seed)"
        ) from error
