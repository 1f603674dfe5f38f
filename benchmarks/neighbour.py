"""A training step beside another training on the same cores: what the OpenMP threads do while they wait.

A thread that spins for a thread of its team takes the core from the very thread that it waits for, as soon as there are
more threads than cores. ``speechde`` has them sleep (``OMP_WAIT_POLICY``); the peer is libgomp's default, 300,000
spins. Both trainings of a side have two threads each, and the same policy. Times are of a clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.engines import dual_encoder, train_ours
from benchmarks.harness import Result, paired
from benchmarks.inputs import Inputs, repeated
from benchmarks.large_batch import ROOT, Job, in_process

THREADS, BATCH, STEPS = 2, 16, 6
TWICE = 1.15  # how much longer than twice the time alone a step beside the other may take
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE"}
SPINNING = {"GOMP_SPINCOUNT": "300000"}  # which libgomp takes where nothing is set; it goes before the policy


def run(inputs: Inputs) -> Iterator[Result]:
    """A row against the default, and one against twice the time alone."""
    batch, steps, rounds = (4, 2, 1) if inputs.tiny else (BATCH, STEPS, 2)
    pairs = repeated(inputs.short, batch * steps)
    job = Job(str(inputs.small), pairs, batch, inputs.dtype_name, None, THREADS)

    def step(policy: dict[str, str]) -> float:
        return 1000 * batch * in_process(job, policy)["seconds"]

    def beside(policy: dict[str, str]) -> float:
        with busy(job, policy):
            return step(policy)

    alone = paired(lambda: step(SLEEPING), lambda: step(SPINNING), rounds, warm_up=False)
    runs = paired(lambda: beside(SLEEPING), lambda: beside(SPINNING), rounds, warm_up=False)
    slower = {side: median(runs[side]) / median(alone[side]) for side in runs}
    facts = {"batch": batch, "steps": steps, "threads": THREADS, "dtype": inputs.dtype_name,
             "backbone": inputs.small.name, "ms alone": alone, "times slower than alone": slower}  # fmt: skip
    what = "a training step beside another training, two threads each"
    yield Result("neighbour", what, "the same, threads spin (libgomp's default)", "ms", runs, None, True, facts)
    twice = {"ours": runs["ours"], "peer": [2 * value for value in alone["ours"]]}
    yield Result("neighbour_twice", what, "twice the step alone", "ms", twice, 1 / TWICE, True, facts)


@contextmanager
def busy(job: Job, policy: dict[str, str]) -> Iterator[None]:
    """Another process trains from when the block begins until it ends."""
    command = [sys.executable, "-m", "benchmarks.neighbour"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | policy, stderr=subprocess.DEVNULL, **pipes) as other:
        try:
            other.stdin.write(json.dumps(asdict(job)) + "\n")
            other.stdin.flush()
            if not other.stdout.readline():
                raise RuntimeError(f"{' '.join(command)} ended before it trained")
            yield
            if other.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended while it was measured")
        finally:
            other.kill()


def _main() -> None:
    import torch

    job = Job(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(job.threads)
    folder = Path(job.folder)
    model = dual_encoder(folder)
    while True:
        train_ours(model, folder, job.pairs, job.batch, getattr(torch, job.dtype))
        print("trains", flush=True)


if __name__ == "__main__":
    _main()
