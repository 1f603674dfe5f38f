"""Contrastive batches of 64 to 8,192 pairs with gradient caching: peak memory, and time per pair.

``memory_large_batch`` compares with the plain loss at 64. ``growth_pairs`` asks that a pair of the largest batch costs
no more than one of the smallest, up to 15 %. Each size is a process of its own, because a process does not give back
what it has used at its peak.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.engines import dual_encoder, train_ours
from benchmarks.harness import Result, check_equal
from benchmarks.inputs import Inputs, repeated

ROOT = Path(__file__).resolve().parents[1]
PLAIN, SIZES, MICRO_BATCH = 64, (64, 512, 8192), 32
FLAT = 1.15
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Job:
    """What a process trains."""

    folder: str
    pairs: list[tuple[str, str]]
    batch: int
    dtype: str
    micro_batch: int | None
    threads: int = 1


def run(inputs: Inputs) -> Iterator[Result]:
    """Both rows."""
    plain, sizes, micro_batch = (8, (8, 32), 4) if inputs.tiny else (PLAIN, SIZES, MICRO_BATCH)
    folder = inputs.small
    pairs = repeated(inputs.short, 2 * plain)
    losses = [train_ours(dual_encoder(folder), folder, pairs, 2 * plain, inputs.dtype, part).losses
              for part in (plain // 2, None)]  # fmt: skip
    difference = check_equal("gradient caching: losses", *losses, TOLERANCE[inputs.dtype])

    def measured(batch: int, part: int | None) -> dict[str, float]:
        steps = max(1, 8 * plain // batch)
        return in_process(Job(str(folder), repeated(inputs.short, batch * steps), batch, inputs.dtype_name, part))

    one, caching = measured(plain, None), {size: measured(size, micro_batch) for size in sizes}
    largest = caching[sizes[-1]]
    facts = {"micro_batch": micro_batch, "dtype": inputs.dtype_name, "backbone": folder.name,
             "largest relative difference of losses": difference}  # fmt: skip
    yield Result(
        "memory_large_batch", f"peak memory, gradient caching at batch {sizes[-1]}", f"plain loss at {plain}", "MB",
        {"ours": [largest["peak"]], "peer": [one["peak"]]}, 1 / 1.3, True,
        facts | {"MB before training": largest["before"], "MB before training, peer": one["before"]},
    )  # fmt: skip
    times = {size: 1000 * caching[size]["seconds"] for size in sizes}
    yield Result(
        "growth_pairs", f"time per pair at batch {sizes[-1]}", f"at batch {sizes[0]}", "ms",
        {"ours": [times[sizes[-1]]], "peer": [times[sizes[0]]]}, 1 / FLAT, True,
        facts | {"ms by batch": {str(k): v for k, v in times.items()}, "ms, plain loss": 1000 * one["seconds"]},
    )  # fmt: skip


def in_process(job: Job, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """``peak`` and ``before`` (resident MB, at most and before training) and ``seconds`` per pair of a new process.

    ``environment``: variables that are set there.
    """
    command = [sys.executable, "-m", "benchmarks.large_batch"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, cwd=ROOT, check=False,
                          env=os.environ | (environment or {}))  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _main() -> None:
    job = Job(**json.load(sys.stdin))
    torch.set_num_threads(job.threads)
    folder, dtype = Path(job.folder), getattr(torch, job.dtype)
    model = dual_encoder(folder)
    before = _peak()
    trained = train_ours(model, folder, job.pairs, job.batch, dtype, job.micro_batch)
    print(json.dumps({"peak": _peak(), "before": before, "seconds": trained.seconds / job.batch}))


if __name__ == "__main__":
    _main()
