"""What a clip sounds like under a condition (``conditions``): a function of the waveform and the clip's id alone.

Whole clips are changed as they were decoded, before anything trims them, so that every system hears the same. Noise is
drawn by a generator of the clip's own: it is the same whatever else is in a list or batch, and at every level, so that
two levels differ by the level alone.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from speechde.conditions import CLEAN, TELEPHONE, Condition
from speechde.media.audio import add_noise, perturb_speed
from speechde.types import SAMPLE_RATE

VERSION = 1  # raise it when a condition makes other samples of the same waveform: caches are named by it
BAND = 300.0, 3400.0  # Hz, of a telephone


def generator(clip: str) -> np.random.Generator:
    """Of the noise of the clip with this id."""
    return np.random.default_rng(crc32(clip.encode()))


def degrade(waveform: np.ndarray, condition: Condition, clip: str) -> np.ndarray:
    """A 16 kHz waveform ``(samples,)`` under a condition, float32; ``clip`` is its id. Clean, it is the same object."""
    if condition == CLEAN:
        return waveform
    if condition == TELEPHONE:
        return band_pass(waveform, *BAND)
    if condition.kind == "speed":
        return perturb_speed(waveform, condition.value)
    return add_noise(waveform, condition.value, generator(clip), shaped=condition.kind == "ssn")


def describe(condition: Condition) -> dict:
    """What a condition adds to the name of a cache; nothing where clips are clean."""
    return {} if condition == CLEAN else {"condition": [VERSION, condition.name]}


def band_pass(waveform: np.ndarray, low: float, high: float) -> np.ndarray:
    """``(samples,)`` without the Fourier components of the whole clip below ``low`` and above ``high`` Hz."""
    spectrum = np.fft.rfft(waveform.astype(np.float64))
    hertz = np.fft.rfftfreq(waveform.size, 1 / SAMPLE_RATE)
    spectrum[(hertz < low) | (hertz > high)] = 0
    return np.fft.irfft(spectrum, waveform.size).astype(np.float32)
