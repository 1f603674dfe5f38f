"""What every speech encoder needs around its forward pass: number format, layer number, windows of long clips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from speechde.errors import ConfigError, unknown_value

FORCED = "SPEECHDE_BFLOAT16"  # environment variable: the number format whatever the processor
WINDOWS_AT_ONCE = 4  # padded audio of one forward pass, in windows: 2 minutes where a window is 30 s


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it faster than float32 (CUDA, AVX512-BF16, AMX), else float32.

    The environment variable ``SPEECHDE_BFLOAT16`` decides in the processor's place: 1 or 0.

    Raises:
        ConfigError: it is set to something else.
    """
    if forced := os.environ.get(FORCED):
        if forced not in ("0", "1"):
            raise unknown_value(FORCED, forced, ("0", "1"))
        return torch.bfloat16 if forced == "1" else torch.float32
    if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def layer_number(layer: int, layers: int, folder: object) -> int:
    """``layer`` as 1 to ``layers``; negative counts from the end.

    Raises:
        ConfigError: there is no such layer.
    """
    number = layer + layers + 1 if layer < 0 else layer
    if not 1 <= number <= layers:
        raise ConfigError(f"frontend.layer={layer} is not possible: {folder} has {layers} layers; use 1 to {layers}")
    return number


def encode_in_windows(
    waveforms: Sequence[np.ndarray],
    size: int,
    step: int,
    least: int,
    encode: Callable[[list[np.ndarray]], list[np.ndarray]],
) -> list[np.ndarray]:
    """Cut waveforms into windows of ``size`` samples, one every ``step``; encode them; join the frames of a clip.

    ``encode`` gets a bounded amount of audio at once, however long a clip is. A later window shorter than ``least``
    samples (those of one frame) is left out: the window before it has covered all whole frames.
    """
    windows, owner = [], []
    for i, waveform in enumerate(waveforms):
        for start in range(0, max(1, len(waveform) - least + 1), step):
            windows.append(waveform[start : start + size])
            owner.append(i)
    frames = [part for batch in _bounded(windows, WINDOWS_AT_ONCE * size) for part in encode(batch)]
    parts: list[list[np.ndarray]] = [[] for _ in waveforms]
    for i, part in zip(owner, frames, strict=True):
        parts[i].append(part)
    return [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]


def _bounded(windows: list[np.ndarray], samples: int) -> Iterator[list[np.ndarray]]:
    """Consecutive windows together while their padded length stays within ``samples``."""
    batch: list[np.ndarray] = []
    longest = 0
    for window in windows:
        longest = max(longest, len(window))
        if batch and longest * (len(batch) + 1) > samples:
            yield batch
            batch, longest = [], len(window)
        batch.append(window)
    if batch:
        yield batch
