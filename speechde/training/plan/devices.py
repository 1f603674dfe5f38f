"""Hardware that a plan is made for: peaks from the makers' datasheets, or a timed matrix product."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from itertools import pairwise

import torch

from speechde.errors import unknown_value

# dense bfloat16 TFLOP/s with float32 accumulation (without the doubling for sparsity), GB of memory, source
DATASHEETS = {
    "h200": (989, 141, "NVIDIA H200 datasheet, SXM"),
    "h100": (989, 80, "NVIDIA H100 datasheet, SXM"),
    "a100": (312, 80, "NVIDIA A100 80GB datasheet"),
    "l40s": (362, 48, "NVIDIA L40S datasheet"),
    "l4": (121, 24, "NVIDIA L4 datasheet"),
    "a10": (125, 24, "NVIDIA A10 datasheet"),
    "rtx4090": (165, 24, "NVIDIA Ada GPU architecture whitepaper"),
    "rtx3090": (71, 24, "NVIDIA Ampere GA102 GPU architecture whitepaper"),
}
TF32 = 0.5  # of the bfloat16 peak on each of them; float32 products run in it (float32_matmul_precision "high")
SIZE = 1024  # of the matrices in the timed product
TIMED_SECONDS = 0.3
# share of the peak that training reaches: a datasheet states what no program gets, a timed product what one did; beside
# the matrix units of a CPU (AMX), what is no product takes most of the time (9 % were measured, docs/log.md)
REACHED, REACHED_TIMED, REACHED_MATRIX_UNITS = 0.3, 0.7, 0.1


@dataclass(frozen=True)
class Device:
    """One processor: ``peak`` FLOP/s in the number format in use, bytes of ``memory``, where the peak is from.

    ``reached`` is the share of the peak that a plan counts on unless told otherwise.
    """

    name: str
    peak: float
    memory: float
    source: str
    reached: float = REACHED


def find_device(name: str | None, dtype: torch.dtype, cuda: bool) -> Device:
    """The device called ``name``, or the one that is here.

    Args:
        name: a row of ``DATASHEETS``, ``cpu``, or None for the first GPU where ``cuda`` is true, else the CPU.

    Raises:
        ConfigError: no such name.
    """
    if name is not None and name not in (*DATASHEETS, "cpu"):
        raise unknown_value("plan.device", name, [*DATASHEETS, "cpu"], "null detects what is here.")
    if name == "cpu" or (name is None and not cuda):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return _timed(f"CPU, {torch.get_num_threads()} threads", dtype, "cpu", memory)
    if name is None:
        found, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        name = recognise(found)
        if name is None:
            return _timed(found, dtype, "cuda", memory)
    else:
        found, memory = name, DATASHEETS[name][1] * 1e9
    peak = DATASHEETS[name][0] * 1e12 * (1 if dtype == torch.bfloat16 else TF32)
    return Device(found, peak, memory, f"{DATASHEETS[name][2]}{'' if dtype == torch.bfloat16 else ', TF32'}")


def recognise(name: str) -> str | None:
    """The row of ``DATASHEETS`` for what CUDA calls a device (``NVIDIA GeForce RTX 4090``); None without one."""
    words = re.split(r"[\s-]+", name.lower())
    words += [a + b for a, b in pairwise(words)]
    return next((key for key in DATASHEETS if key in words), None)


def _timed(name: str, dtype: torch.dtype, device: str, memory: float) -> Device:
    source = f"a timed {SIZE}×{SIZE} product in {str(dtype).removeprefix('torch.')}"
    reached = REACHED_MATRIX_UNITS if device == "cpu" and dtype == torch.bfloat16 else REACHED_TIMED
    return Device(name, _timed_peak(dtype, device), memory, source, reached)


def _timed_peak(dtype: torch.dtype, device: str) -> float:
    """The fastest of several products, because others may be using the machine."""
    matrix = torch.ones(SIZE, SIZE, dtype=dtype, device=device)
    fastest, until = float("inf"), time.perf_counter() + TIMED_SECONDS
    while (start := time.perf_counter()) < until or fastest == float("inf"):
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * SIZE**3 / fastest
