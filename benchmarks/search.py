"""Search in millions of vectors of 384: built from files in little memory, opened without reading, ten best in time.

``python -m benchmarks search`` has a million vectors, ``--full`` ten. They are synthetic: clusters of twenty, and
queries that are vectors with noise. Recall is that of the exact ten best. Each step is a process of its own, so that
its memory is its own; the limits were set before anything was measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Different, Result
from benchmarks.inputs import Inputs
from benchmarks.large_batch import ROOT

COUNT, FULL, DIM, FILE = 1_000_000, 10_000_000, 384, 100_000  # FILE: vectors of one file
QUERIES, BEST, RECALL = 200, 10, 0.95
CLUSTER, SPREAD, NOISE = 20, 0.7, 0.2
MILLISECONDS, OPEN_SHARE = 10.0, 0.1  # limits: of a query; of the files, what an opened index may have in memory


@dataclass(frozen=True)
class Job:
    """A step: ``build`` or ``query``."""

    step: str
    folder: str
    count: int
    file: int


def run(inputs: Inputs) -> Iterator[Result]:
    """Recall is checked first; then rows for a query, for opening, and for the memory of building."""
    count, file = (3000, 1000) if inputs.tiny else (FULL if inputs.full else COUNT, FILE)
    folder = inputs.scratch / "search"
    folder.mkdir()
    for start in range(0, count, file):
        write(folder / f"{start:09d}.parquet", start, min(file, count - start))
    built, asked = (in_process(Job(step, str(folder), count, file)) for step in ("build", "query"))
    found = np.load(folder / "found.npy")
    expected = exact(folder, count, file)
    recall = float(np.mean([len({*a} & {*b}) / BEST for a, b in zip(found, expected, strict=True)]))
    if recall < RECALL:
        raise Different(f"recall@{BEST} is {recall:.3f}, below {RECALL}")
    what = f"{count} × {DIM}, ivfsq"
    facts = {f"recall@{BEST}": recall, "seconds to build": built["seconds"], "seconds to open": asked["open"],
             "bytes": built["bytes"]}  # fmt: skip
    yield Result("search_query", f"a query, {what}", "the limit that was set", "ms",
                 {"ours": [asked["query"]], "peer": [MILLISECONDS]}, 1.0, True, facts)  # fmt: skip
    yield Result("search_open", f"memory after opening, {what}", "a tenth of its files", "MB",
                 {"ours": [asked["opened"]], "peer": [OPEN_SHARE * built["bytes"] / 1e6]},
                 None if inputs.tiny else 1.0, True, facts)  # fmt: skip
    yield Result("search_build", f"peak memory of building, {what}", "all vectors in float32", "MB",
                 {"ours": [built["peak"]], "peer": [4 * DIM * count / 1e6]}, None, True, facts)  # fmt: skip


def vectors(start: int, count: int) -> np.ndarray:
    """Unit vectors ``(count, DIM)`` from number ``start`` on, the same in whatever stretches they are drawn."""
    first, last = start // CLUSTER, -(-(start + count) // CLUSTER)
    parts = []
    for block in range(first, last):
        draw = np.random.default_rng(block)
        own = draw.standard_normal((1, DIM), np.float32)
        parts.append(own + np.float32(SPREAD) * draw.standard_normal((CLUSTER, DIM), np.float32))
    drawn = np.concatenate(parts)[start - first * CLUSTER :][:count]
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def queries(count: int) -> np.ndarray:
    """``(n, DIM)``: vectors here and there, with noise."""
    chosen = np.linspace(0, count - 1, min(QUERIES, count)).astype(int)
    found = np.concatenate([vectors(row, 1) for row in chosen])
    found += np.float32(NOISE * DIM**-0.5) * np.random.default_rng(0).standard_normal(found.shape, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def write(path: Path, start: int, count: int) -> None:
    """A file as ``speechde embed`` writes it."""
    from speechde.search.vectors import Header, write_vectors

    rows = [{"id": f"v{row}", "kind": "text", "text": f"text number {row}"} for row in range(start, start + count)]
    write_vectors(path, Header(DIM, "synthetic", "synthetic"), rows, vectors(start, count))


def exact(folder: Path, count: int, file: int) -> np.ndarray:
    """``(n, BEST)`` rows of the best vectors of each query, by all products."""
    from speechde.search.vectors import read_vectors

    asked, best, start = queries(count), None, 0
    for path in sorted(folder.glob("*.parquet")):
        scores = asked @ read_vectors([path]).vectors.T
        top = np.argpartition(-scores, BEST, axis=1)[:, :BEST]
        here = np.stack([np.take_along_axis(scores, top, 1), top + start])
        best = here if best is None else np.concatenate([best, here], axis=2)
        start += scores.shape[1]
    order = np.argsort(-best[0], axis=1)[:, :BEST]
    return np.take_along_axis(best[1], order, 1).astype(int)


def in_process(job: Job) -> dict[str, float]:
    """What a step prints, of a new process."""
    command = [sys.executable, "-m", "benchmarks.search"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _main() -> None:
    import faiss

    from speechde.search.index import SearchIndex

    job = Job(**json.load(sys.stdin))
    folder = Path(job.folder)
    faiss.omp_set_num_threads(1)
    start = time.perf_counter()
    if job.step == "build":
        SearchIndex.build_from(sorted(folder.glob("*.parquet")), "ivfsq").save(folder / "index")
        size = sum(path.stat().st_size for path in (folder / "index").iterdir())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak, "bytes": size}))
        return
    asked, before = queries(job.count), _resident()
    start = time.perf_counter()
    index = SearchIndex.load(folder / "index")
    opened, took = _resident() - before, time.perf_counter() - start
    hits = [index.search(query, BEST)[0] for query in asked]  # reads what the second time is in memory
    start = time.process_time()
    for query in asked:
        index.search(query, BEST)
    each = 1000 * (time.process_time() - start) / len(asked)
    np.save(folder / "found.npy", np.array([[int(hit.id[1:]) for hit in some] for some in hits]))
    print(json.dumps({"open": took, "opened": max(0.1, opened), "query": each}))


if __name__ == "__main__":
    _main()
