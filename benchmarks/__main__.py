"""``python -m benchmarks [NAME …] [--tiny] [--out FOLDER]``; see ``docs/performance.md``."""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import torch

from benchmarks import harness, table
from benchmarks.inputs import real
from speechde.provenance import commit

NAMES = ("text_embedding", "speech_encoder", "kmeans", "ranks", "growth", "large_batch", "training", "training_cached",
         "neighbour", "manifest", "evaluation", "search")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run benchmarks and write their files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speechde against its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none for all")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test: shows that all works, measures nothing")
    parser.add_argument(
        "--full", action="store_true", help="all 100,000 queries of ranks; ten million vectors of search"
    )
    parser.add_argument("--out", type=Path, default=harness.FOLDER, help="folder of the JSON files")
    parser.add_argument("--threads", type=int, default=1, help="of both sides (default 1)")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: use {', '.join(NAMES)}")
    if chosen.tiny and chosen.out == harness.FOLDER:
        parser.error("--tiny measures nothing; give another --out")
    torch.set_num_threads(chosen.threads)
    about = {"command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]), "commit": commit()}
    with tempfile.TemporaryDirectory(prefix="speechde-benchmarks-") as scratch:
        inputs = real(Path(scratch))
        inputs.tiny, inputs.full = chosen.tiny, chosen.full
        for name in chosen.names or NAMES:
            start = time.perf_counter()
            for result in import_module(f"benchmarks.{name}").run(inputs):
                result.write(chosen.out, **about)
                print(f"{result.name}: {result.ours:.4g} against {result.peer:.4g} {result.unit}, "
                      f"ratio {result.ratio:.2f} (asked: {result.target})", flush=True)  # fmt: skip
            print(f"{name} took {time.perf_counter() - start:.0f} s", flush=True)
            gc.collect()
    if chosen.out == harness.FOLDER:
        table.update()


if __name__ == "__main__":
    main()
