"""What a text evaluation is asked: languages, a sample, and where the files are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

UNKNOWN = "unknown"
ROLES = ("seen", "synthetic_only", "zero_shot", UNKNOWN)  # the last: no record says what a model was trained on


@dataclass(frozen=True)
class Asked:
    """What is evaluated, and where its files are.

    ``langs``: FLEURS codes, None for all that a benchmark has. ``role_of`` a language is one of ``ROLES``.
    ``per_language``: how many queries are drawn with ``seed``; None for all. ``folder`` and ``option`` as in
    ``public.find_files``.
    """

    cache: Path
    folder: Path | None = None
    option: str = "--folder"
    langs: Sequence[str] | None = None
    role_of: Callable[[str], str] = lambda lang: UNKNOWN
    per_language: int | None = None
    seed: int = 0

    def of(self, known: Sequence[str]) -> list[str]:
        """The languages that are asked for of those that a benchmark has; there may be none."""
        return [lang for lang in known if self.langs is None or lang in self.langs]

    def drawn(self, names: Sequence[str]) -> np.ndarray:
        """Places of the queries that are asked, in order; which they are depends on the seed and their names alone."""
        places = [hashlib.sha256(f"{self.seed}:{name}".encode()).hexdigest() for name in names]
        return np.sort(np.argsort(places, kind="stable")[: self.per_language])
