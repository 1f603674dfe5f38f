"""As ``training``, with a batch of 1,024 and gradient caching on both sides, in parts of the same number of rows.

On few layers and the short texts of stamps, so that it takes minutes; both sides are spared alike.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import training
from benchmarks.harness import Result
from benchmarks.inputs import Inputs

BATCH, MICRO_BATCH = 1024, 64


def run(inputs: Inputs) -> Iterator[Result]:
    """The one row."""
    yield training.row(inputs, "training_cached", inputs.small, inputs.short, BATCH, 1, MICRO_BATCH)
