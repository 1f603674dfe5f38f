"""Vectors of any number of things, some at a time, in memory or into a file: neither things nor vectors need fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechde.cache import atomic_rows
from speechde.media.audio import AudioError
from speechde.media.inputs import as_list, language_codes
from speechde.progress import progress as shown

log = logging.getLogger(__name__)


def in_chunks(
    items: Any,
    language: str | Sequence[str | None] | None,
    what: str,
    size: int,
    encode: Callable[[list[Any], list[str | None], int], np.ndarray],
    report: Callable[[int], None],
    dim: int,
    *,
    progress: bool,
    as_tensor: bool,
    out: str | Path | None,
) -> np.ndarray | Tensor:
    """Vectors ``(items, dim)`` float32 of all items, ``size`` at a time.

    ``encode`` gets some items, their languages and the number of the first; ``report`` the number of all, before the
    file is there. See ``SpeechTextEncoder.encode_speech`` for ``language``, ``progress``, ``as_tensor`` and ``out``.
    """
    items = as_list(items, what)
    count = len(items) if hasattr(items, "__len__") else None
    langs = language_codes(language, count, what)
    parts: list[np.ndarray] = []
    first = 0
    with atomic_rows(out, dim) if out else nullcontext(parts.append) as add:
        with shown("embed", count, what, enabled=progress) as advance:
            for chunk in _chunks(items, size):
                add(encode(chunk, list(islice(langs, len(chunk))), first))
                first += len(chunk)
                advance(len(chunk))
        report(first)
    vectors = np.load(out, mmap_mode="c") if out else np.concatenate([np.empty((0, dim), np.float32), *parts])
    return torch.from_numpy(vectors) if as_tensor else vectors


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def report_bad(bad: list[AudioError], count: int) -> None:
    """Say which clips have no vector; an error where none has."""
    if not bad:
        return
    counts = ", ".join(f"{times} {reason}" for reason, times in Counter(error.reason for error in bad).most_common())
    if len(bad) == count:
        raise AudioError(bad[0].reason, f"no clip can be used ({counts}); the first: {bad[0].detail}")
    log.warning("%d of %d clips cannot be used, and are rows of NaN: %s", len(bad), count, counts)


def has_column(items: Any, column: str) -> bool:
    """Whether these are rows of ``datasets``, one or a batch, in which the column is one of several."""
    return isinstance(items, Mapping) and column in items
