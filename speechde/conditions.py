"""What an evaluation may hear its clips as (``eval.conditions``), by name; ``media.degradations`` makes it.

    clean       as recorded
    snr10       white Gaussian noise at a signal-to-noise ratio of 10 dB
    ssn10       speech-shaped noise at 10 dB
    telephone   the telephone band, 300 to 3400 Hz
    speed0.8    0.8 times as fast, by resampling

The numbers are free; docs/protocol.md says exactly what each is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from speechde.errors import unknown_value

NOISES = {"snr": "white noise", "ssn": "speech-shaped noise"}  # by kind; their value is in dB
RANGES = {"snr": (-30.0, 60.0), "ssn": (-30.0, 60.0), "speed": (0.5, 2.0)}
ALLOWED = (
    "clean",
    "telephone",
    "snrN and ssnN with N from -30 to 60 dB (snr10)",
    "speedX with X from 0.50 to 2.00 (speed0.8)",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """``kind`` is clean, telephone or one of ``RANGES``, whose ``value`` is in dB, or times as fast."""

    kind: str
    value: float | None = None

    @property
    def name(self) -> str:
        """As it is written in a configuration: ``snr10``."""
        return self.kind if self.value is None else f"{self.kind}{self.value:g}"


CLEAN, TELEPHONE = Condition("clean"), Condition("telephone")


def parse(name: str) -> Condition:
    """The condition of a name.

    Raises:
        ConfigError: there is none; the message names the allowed ones.
    """
    for condition in (CLEAN, TELEPHONE):
        if name == condition.name:
            return condition
    match = re.fullmatch(r"([a-z]+)(-?\d{1,2}(?:\.\d{1,2})?)", name)
    low, high = RANGES.get(match[1], (1.0, 0.0)) if match else (1.0, 0.0)
    if not match or not low <= float(match[2]) <= high:
        raise unknown_value("eval.conditions", name, ALLOWED)
    return Condition(match[1], float(match[2]) + 0.0)  # -0 is 0
