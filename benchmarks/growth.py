"""Time per clip of the feature stage (decode, log-mel, encode, store) at 1,000, 4,000 and 16,000 clips.

The encoder stops after its first layer, so that what surrounds it weighs more: that is what could grow. Clips are those
of stamps again and again, each time as another utterance; every size starts with an empty cache.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.harness import Result, check_equal, timed
from benchmarks.inputs import Inputs, repeated
from speechde.features.frames import extract_frames
from speechde.features.store import FeatureStore
from speechde.features.whisper import WhisperFrames

SIZES = (1000, 4000, 16000)
FLAT = 1.15


def run(inputs: Inputs) -> Iterator[Result]:
    """The one row."""
    sizes = (4, 12) if inputs.tiny else SIZES
    encoder = WhisperFrames(inputs.encoder, layer=1, dtype=inputs.dtype)
    extract(inputs, encoder, sizes[0] // 4)  # the first products of a shape are slower
    times, first = {}, []
    for size in sizes:
        seconds, store = timed(lambda size=size: extract(inputs, encoder, size))
        times[size] = 1000 * seconds / size
        first.append(np.asarray(store["0"], np.float32))
    difference = check_equal("frames of the first clip", first[-1], first[0], 0.05)  # other company, other padding
    yield Result(
        "growth_clips", f"time per clip at {sizes[-1]} clips", f"at {sizes[0]} clips", "ms",
        {"ours": [times[sizes[-1]]], "peer": [times[sizes[0]]]}, 1 / FLAT, True,
        {"ms by clips": {str(k): v for k, v in times.items()}, "largest difference": difference},
    )  # fmt: skip


def extract(inputs: Inputs, encoder: WhisperFrames, count: int) -> FeatureStore:
    """Frames of ``count`` clips, made anew."""
    clips = [replace(u, id=str(i)) for i, u in enumerate(repeated(inputs.clips, count))]
    cache = inputs.scratch / f"clips-{count}"
    shutil.rmtree(cache, ignore_errors=True)
    return extract_frames(clips, encoder, cache, rate=encoder.rate)
