"""What a visitor may ask with, and how a found clip is played. Every message is written for the visitor."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechde.errors import ConfigError, DataError
from speechde.media.audio import AudioError, check_waveform, load_audio
from speechde.media.containers import split_locator
from speechde.types import SAMPLE_RATE

FORMATS = "WAV, FLAC, Ogg or MP3"
MEGABYTE = 2**20  # bytes, as Gradio counts them when it refuses a file
PREVIEW_SECONDS = 20.0  # played of a found clip: 640 kB


@dataclass(frozen=True)
class Limits:
    """Of one question.

    Raises:
        ConfigError: one is not positive.
    """

    seconds: float = 30.0
    megabytes: float = 10.0
    characters: int = 500

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:  # NaN is no limit either
                raise ConfigError(f"the limit of {name} is {value:g}; give a positive one")


def read_upload(path: str | Path, limits: Limits) -> np.ndarray:
    """An uploaded or recorded file → waveform ``(samples,)``.

    No more than the seconds allowed are decoded: an hour of silence is a small file, and headers may say anything.

    Raises:
        DataError: too large, too long, not audio, or nothing to be heard.
    """
    path = Path(path)
    data = read_bytes(path, limits)
    try:
        return check_waveform(load_audio(data, limits.seconds), max_seconds=limits.seconds)
    except AudioError as error:
        reason = {
            "unreadable": f"is not audio that can be read here, or is damaged; use {FORMATS}",
            "too long": f"is too long; at most {limits.seconds:g} s can be searched for",
        }.get(error.reason, f"cannot be used: {error}")
        raise DataError(f"{path.name} {reason}.") from error


def read_bytes(path: Path, limits: Limits) -> bytes:
    """An uploaded file of any kind.

    Raises:
        DataError: too large, or empty.
    """
    size = path.stat().st_size / MEGABYTE
    if size > limits.megabytes:
        raise DataError(f"{path.name} has {size:.1f} MB; at most {limits.megabytes:g} MB can be uploaded.")
    if not size:
        raise DataError(f"{path.name} is empty; record or choose another file.")
    return path.read_bytes()


def read_text(text: str, limits: Limits) -> str:
    """A typed question, its ends stripped.

    Raises:
        DataError: nothing but spaces, or too long.
    """
    text = text.strip()
    if not text:
        raise DataError("Nothing was typed; write a word or a sentence.")
    if len(text) > limits.characters:
        raise DataError(f"The text has {len(text):,} characters; at most {limits.characters:,} can be searched for.")
    return text


def lies_below(file: str, folders: Iterable[Path]) -> bool:
    """Whether a file, or the container it is a member of, is really below one of ``folders``, links followed."""
    try:
        path = Path((split_locator(file) or (file,))[0]).resolve()
    except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL, a circle of links
        return False
    return any(path.is_relative_to(folder.resolve()) for folder in folders)


def playable(audio: str) -> tuple[str, float]:
    """A clip of the index as a ``data:`` URL that any browser plays, and its seconds.

    It holds the first ``PREVIEW_SECONDS``. As part of the page it needs no file of the server to be served.

    Raises:
        AudioError: the clip cannot be read (any more).
    """
    waveform = load_audio(audio)
    file = io.BytesIO()
    soundfile.write(file, waveform[: int(PREVIEW_SECONDS * SAMPLE_RATE)], SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(file.getvalue()).decode()}", len(waveform) / SAMPLE_RATE
