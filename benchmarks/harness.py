"""What all benchmarks share: paired runs, the rate of matrix products, and the record of a result."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from speechde.cache import atomic_write
from speechde.provenance import hardware

FOLDER = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
PACKAGES = ("torch", "transformers", "pytorch-lightning", "sentence-transformers", "faiss-cpu", "scikit-learn",
            "ctranslate2", "faster-whisper", "numpy")  # fmt: skip


class Different(AssertionError):
    """The two sides of a benchmark gave different results."""


@dataclass
class Result:
    """One row of the table.

    Args:
        name: of the row and of its file.
        what: what is measured, in words.
        unit: of ``ours`` and ``peer``; ``lower_is_better`` where it is a cost.
        runs: the single measurements, ``{"ours": […], "peer": […]}``, in the order in which they were taken.
        target: least ratio that was asked for; None where the row is for information.
        facts: sizes, agreement of the results, shares of the matrix rate: what helps to read the ratio.
    """

    name: str
    what: str
    peer_name: str
    unit: str
    runs: dict[str, list[float]]
    target: float | None = None
    lower_is_better: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> float:
        """Median of our measurements."""
        return median(self.runs["ours"])

    @property
    def peer(self) -> float:
        """Median of the peer's measurements."""
        return median(self.runs["peer"])

    @property
    def ratio(self) -> float:
        """How many times better ours is; higher is better, also where the unit is a cost."""
        return self.peer / self.ours if self.lower_is_better else self.ours / self.peer

    def record(self, command: str, commit: str) -> dict[str, Any]:
        """What is written to the file; ``commit`` is that of the code, read before anything is written."""
        reached = None if self.target is None else self.ratio >= self.target
        numbers = {"ours": self.ours, "peer": self.peer, "ratio": self.ratio, "reached": reached}
        where = {"command": command, "commit": commit, "hardware": machine(), "versions": versions()}
        return _rounded({**asdict(self), **numbers, **where})

    def write(self, folder: Path, command: str, commit: str) -> Path:
        """Write ``<folder>/<name>.json``, whole or not at all."""
        path = folder / f"{self.name}.json"
        text = json.dumps(self.record(command, commit), indent=2, ensure_ascii=False) + "\n"
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path


def paired(
    ours: Callable[[], float], peer: Callable[[], float], rounds: int = 2, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measurements in the order A B A B: what else the machine does then falls on both sides alike.

    Each function returns its measurement (a rate or a cost). ``warm_up`` runs both once before, uncounted.
    """
    runs: dict[str, list[float]] = {"ours": [], "peer": []}
    for counted in [False] * warm_up + [True] * rounds:
        for name, function in (("ours", ours), ("peer", peer)):
            gc.collect()  # a trainer holds its model in cycles; of large ones several would not fit
            value = function()
            if counted:
                runs[name].append(value)
    return runs


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the function returned."""
    start = now()
    out = function()
    return now() - start, out


def now() -> float:
    """Seconds of processor time where one thread does all the work, because others may share its core; else of a clock.

    Nothing here waits for a disk or a network.
    """
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def matrix_rate(dtype: torch.dtype, size: int = 2048, seconds: float = 1.0) -> float:
    """FLOP/s of a square product with the threads that torch uses: the fastest, because others may use the machine."""
    matrix = torch.ones(size, size, dtype=dtype)
    matrix @ matrix
    times: list[float] = []
    while sum(times) < seconds:
        times.append(timed(lambda: matrix @ matrix)[0])
    return 2 * size**3 / min(times)


def check_equal(what: str, ours: Any, peer: Any, tolerance: float, relative_to: float | None = None) -> float:
    """Largest difference, relative to the largest value of ``peer`` (or to a number given).

    Raises:
        Different: it is above ``tolerance``.
    """
    ours, peer = np.asarray(ours, np.float64), np.asarray(peer, np.float64)
    if ours.shape != peer.shape:
        raise Different(f"{what}: shapes {ours.shape} and {peer.shape}")
    scale = np.abs(peer).max() if relative_to is None else relative_to
    difference = float(np.abs(ours - peer).max() / scale)
    if not difference <= tolerance:
        raise Different(f"{what}: differ by {difference:.3g}, more than {tolerance:.3g}")
    return difference


def machine() -> str:
    """Processor, and how much of it this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{hardware()}; {cores} core(s) and {torch.get_num_threads()} thread(s) used"


def versions() -> dict[str, str]:
    """Of the packages that take part."""
    out = {}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def _rounded(value: Any) -> Any:
    """Numbers to 5 significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value
