"""Audio in: any file that libsndfile reads becomes a 16 kHz mono float32 waveform, or an ``AudioError`` says why not.

A clip is decoded by soundfile, its channels are averaged, and it is resampled with torchaudio's windowed-sinc filter.
Everything here is deterministic: ``add_noise`` draws only from the generator it is given.

A file that was cut short is an error rather than a shorter clip, because its transcript no longer matches. libsndfile
notices this for FLAC and for MP3 with a length header, but silently returns what is left of a WAV or an Ogg file.
Those containers are checked here: the last Ogg page must be whole and carry the end-of-stream flag (RFC 3533), and a
RIFF file must hold as many bytes as its header states. An Ogg stream that its writer never closed is refused too.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio.functional

from speechde.data.containers import read_member, split_locator
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.types import SAMPLE_RATE

MIN_SECONDS = 0.1
MAX_SECONDS = 240.0
REASONS = ("missing file", "unreadable", "empty", "not finite", "silent", "too short", "too long")
# -80 dB of full scale: below the noise floor of 16-bit recordings, so nothing was recorded.
_SILENCE_PEAK = 1e-4
# RIFF writers that stream to a pipe leave a size at or near the 31- or 32-bit maximum, meaning "unknown".
_RIFF_SIZE_UNKNOWN = 0x7FFF_0000


class AudioError(DataError):
    """A clip that cannot be used; ``reason`` is one of ``REASONS``, made to be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise unknown_value("AudioError.reason", reason, REASONS)
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


def load_audio(source: str | Path | bytes | BinaryIO) -> np.ndarray:
    """Decode one clip to float32 ``(samples,)``, mono, 16 kHz.

    ``source`` is a path, a locator ``CONTAINER::MEMBER`` (``speechde.data.containers``), the bytes of an audio file, or
    a binary file object. Raises ``AudioError`` with reason "missing file", "unreadable", "empty" or "not finite";
    silence and length are for ``check_waveform``.
    """
    data, name = _read_bytes(source)
    if not data:
        raise AudioError("empty", f"{name} has no bytes")
    if _is_cut_short(data):
        raise AudioError("unreadable", f"{name} is cut short; fetch it again")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, promised = file.samplerate, file.frames
            samples = file.read(dtype="float32", always_2d=True)  # (samples, channels)
    except soundfile.LibsndfileError as error:
        raise AudioError("unreadable", f"{name}: {error}") from error
    if len(samples) < promised:
        raise AudioError("unreadable", f"{name} is cut short: {len(samples)} of {promised} frames")
    if not len(samples):
        raise AudioError("empty", f"{name} has no samples")
    if not np.isfinite(samples).all():
        raise AudioError("not finite", f"{name} has NaN or infinite samples")
    return resample(samples.mean(axis=1), rate, SAMPLE_RATE)


def duration(audio: str) -> float | None:
    """Seconds of a clip as its header states them, from a path or a locator; None when that cannot be read."""
    try:
        return soundfile.info(io.BytesIO(read_member(audio)) if split_locator(audio) else audio).duration or None
    except (OSError, DataError, soundfile.LibsndfileError):
        return None


def check_waveform(
    waveform: np.ndarray, min_seconds: float = MIN_SECONDS, max_seconds: float = MAX_SECONDS
) -> np.ndarray:
    """Return a 16 kHz waveform ``(samples,)`` unchanged, or raise ``AudioError`` when it cannot be an utterance."""
    if waveform.ndim != 1:
        raise DataError(f"waveform has shape {waveform.shape}; expected (samples,): average the channels first")
    if not waveform.size:
        raise AudioError("empty", "no samples")
    if not np.isfinite(waveform).all():
        raise AudioError("not finite", "NaN or infinite samples")
    if np.abs(waveform).max() < _SILENCE_PEAK:
        raise AudioError("silent", f"no sample reaches {_SILENCE_PEAK:g} of full scale")
    seconds = waveform.size / SAMPLE_RATE
    if seconds < min_seconds:
        raise AudioError("too short", f"{seconds:.3f} s; at least {min_seconds:g} s")
    if seconds > max_seconds:
        raise AudioError("too long", f"{seconds:.1f} s; at most {max_seconds:g} s")
    return waveform


def trim_silence(waveform: np.ndarray, top_db: float = 40.0, frame_ms: float = 20.0, pad_s: float = 0.1) -> np.ndarray:
    """Cut what lies before the first and after the last loud frame, keeping ``pad_s`` seconds on each side.

    A frame is loud when its RMS is within ``top_db`` of the loudest frame's, so at least one is: only an all-zero
    or empty waveform has none, and it is returned as it came. Input and output are ``(samples,)``.
    """
    if not np.any(waveform):
        return waveform
    frame = max(1, round(SAMPLE_RATE * frame_ms / 1000))
    starts = np.arange(0, waveform.size, frame)
    lengths = np.diff(starts, append=waveform.size)
    power = np.add.reduceat(np.square(waveform, dtype=np.float64), starts) / lengths  # (frames,)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-top_db / 10))
    pad = round(pad_s * SAMPLE_RATE)
    return waveform[max(0, loud[0] * frame - pad) : (loud[-1] + 1) * frame + pad]


def perturb_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Play ``factor`` times as fast, by resampling: pitch and tempo change together (Ko et al. 2015).

    ``factor`` is rounded to hundredths and must lie in 0.5 to 2; the result has ``samples / factor`` samples.
    """
    if not 0.5 <= factor <= 2:
        raise ConfigError(f"speed factor: {factor!r} is not allowed; use a number from 0.5 to 2, such as 0.9 or 1.1")
    return resample(waveform, round(factor * 100), 100)


def add_noise(waveform: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise at a signal-to-noise ratio of ``snr_db`` dB over the whole clip ``(samples,)``."""
    rms = math.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))))
    scale = np.float32(rms * 10 ** (-snr_db / 20))
    return waveform + scale * rng.standard_normal(waveform.shape, dtype=np.float32)


def _read_bytes(source: str | Path | bytes | BinaryIO) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, "audio bytes"
    if not isinstance(source, str | Path):
        return source.read(), str(getattr(source, "name", "audio file object"))
    try:
        data = read_member(str(source)) if split_locator(str(source)) else Path(source).read_bytes()
        return data, str(source)
    except FileNotFoundError as error:
        raise AudioError("missing file", str(source)) from error
    except (OSError, DataError) as error:
        raise AudioError("unreadable", str(error)) from error


def _is_cut_short(data: bytes) -> bool:
    if data[:4] == b"OggS":
        page = data.rfind(b"OggS")
        header = data[page : page + 27]
        if len(header) < 27:
            return True
        segments = data[page + 27 : page + 27 + header[26]]
        whole = len(segments) == header[26] and page + 27 + header[26] + sum(segments) <= len(data)
        return not (whole and header[5] & 0x04)
    if data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little")
        # One byte of tolerance: some writers count the final padding byte without writing it.
        return size < _RIFF_SIZE_UNKNOWN and len(data) + 1 < size + 8
    return False


def resample(waveform: np.ndarray, rate: int, target: int) -> np.ndarray:
    """``(samples,)`` at ``rate`` Hz → float32 at ``target`` Hz, by a windowed sinc."""
    tensor = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    return torchaudio.functional.resample(tensor, rate, target).numpy()
