"""Two shares that say whether the input side costs training anything: of padding, and of waiting for batches."""

from __future__ import annotations

import time

from torch import Tensor

from speechde.types import Inputs


def padding_share(batches: list[tuple[Inputs, int]]) -> Tensor:
    """Share of padding among the positions computed, each batch being encoded in so many parts of similar length.

    Positions are those of stored items (frames or units) and of text; see ``models.dual_encoder.in_buckets``.
    """
    real, computed = 0, 0
    for inputs, parts in batches:
        lengths = inputs.lengths.sort().values
        real = real + lengths.sum()
        computed = computed + sum(len(part) * part[-1] for part in lengths.chunk(parts))
    return 1 - real / computed


class WaitClock:
    """Share of the time of an epoch between the end of a step and the start of the next.

    That is reading and collating the batch, moving it to the device, and writing logs. A step ends when its kernels
    have been launched; on a GPU, which steps do not wait for, that is before they are done, and the share is too high.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was measured: an evaluation or a restart comes between two steps."""
        self._started = self._ended = None
        self._waited = self._total = 0.0

    def start(self) -> None:
        """A step begins."""
        now = time.perf_counter()
        if self._ended is not None:
            self._waited += now - self._ended
            self._total += now - self._started
        self._started = now

    def end(self) -> None:
        """A step ends."""
        self._ended = time.perf_counter()

    @property
    def share(self) -> float | None:
        """Of the steps since ``reset``, the present one left out; None before the second step."""
        return self._waited / self._total if self._total else None
