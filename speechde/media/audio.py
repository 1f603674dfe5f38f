"""Audio in: an audio file becomes a 16 kHz mono float32 waveform, or an ``AudioError`` says why not.

The bytes are first checked for being whole (``streams``), then decoded by soundfile in blocks: channels are averaged,
and the rate is converted by soxr, whose cost does not depend on what the two rates have in common. So memory grows with
the waveform alone, and decoding stops where a clip is too long, whatever its header says. What is decoded decides: a
clip with fewer samples than its file promises is an error rather than a shorter clip, because its transcript no longer
matches. Everything here is deterministic: ``add_noise`` draws only from the generator it is given.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from speechde.errors import ConfigError, DataError
from speechde.media.containers import split_locator
from speechde.media.quiet import quiet
from speechde.media.sources import MediaError, read_source
from speechde.media.streams import is_compressed, split_streams
from speechde.types import SAMPLE_RATE

VERSION = 2  # raise it when a function of this module makes other samples of the same clip: caches are named by it
MIN_SECONDS = 0.1
MAX_SECONDS = 240.0
MAX_DECODED = 4 * 3600.0  # seconds of one clip that are ever decoded: 0.9 GB
MAX_BYTES = 1 << 31  # of one file
MIN_RATE, MAX_RATE = 1000, 768_000  # Hz
REASONS = ("missing file", "unreadable", "empty", "not finite", "out of range", "silent", "too short", "too long")
# -80 dB of full scale: below the noise floor of 16-bit recordings, so nothing was recorded.
_SILENCE_PEAK = 1e-4
# +20 dB of full scale: mixing and lossy coding overshoot by far less, 16-bit numbers given as floats by far more.
_MAX_PEAK = 10.0
_SHAPE_HZ = 100.0  # over which the spectrum of shaped noise is averaged: its harmonics are not to be heard
_BLOCK = 1 << 18  # samples decoded at once, of all channels together
_UNKNOWN_FRAMES = 1 << 62  # libsndfile states more where a header states no length


class AudioError(MediaError):
    """A clip that cannot be used; ``reason`` is one of ``REASONS``, made to be counted."""

    REASONS = REASONS
    MEDIUM, LARGE, MAX_BYTES = "audio", "too long", MAX_BYTES


def load_audio(source: str | Path | bytes | BinaryIO, max_seconds: float = MAX_DECODED) -> np.ndarray:
    """Decode one clip to float32 ``(samples,)``, mono, 16 kHz; joined files are one clip.

    ``source`` is a path, a locator ``CONTAINER::MEMBER`` (``media.containers``), the bytes of an audio file, or
    a binary file object. No more than ``max_seconds`` (at most ``MAX_DECODED``) are decoded. Raises ``AudioError`` with
    reason "missing file", "unreadable", "empty", "not finite", "out of range" or "too long"; silence and short clips
    are for ``check_waveform``.
    """
    data, name = read_source(source, AudioError)
    try:
        parts = list(_decode(data, name, min(max_seconds, MAX_DECODED)))
    except DataError:
        raise
    except Exception as error:  # whatever a decoder raises is about this clip alone
        raise _unreadable(name, error) from error
    if not parts:
        raise AudioError("empty", f"{name} has no samples")
    waveform = parts[0] if len(parts) == 1 else np.concatenate(parts)
    try:
        return check_samples(waveform)
    except AudioError as error:
        raise AudioError(error.reason, f"{name}: {error.detail}") from None


def duration(audio: str) -> float | None:
    """Seconds of a clip, from a path or a locator; None when that cannot be read.

    Of a file whose header states its length the header is believed, any other is read whole.
    """
    try:
        if split_locator(audio) is None and (seconds := _stated_seconds(audio)) is not None:
            return seconds or None
        data, name = read_source(audio, AudioError)
        seconds = sum(_stream_seconds(stream, name) for stream in split_streams(data))
        return seconds or None
    except (OSError, DataError, soundfile.LibsndfileError):
        return None


def _stated_seconds(path: str) -> float | None:
    """What the header of a file states, None where it cannot be believed: then every byte must be looked at."""
    with open(path, "rb") as file:
        if is_compressed(file.read(4)):
            return None
    with quiet(), soundfile.SoundFile(path) as file:
        known = file.frames < MAX_DECODED * file.samplerate
        return file.frames / _possible_rate(file.samplerate) if known else None


def _stream_seconds(stream: bytes, name: str) -> float:
    with quiet(), soundfile.SoundFile(_Memory(stream)) as file:
        if file.frames < MAX_DECODED * file.samplerate:
            return file.frames / _possible_rate(file.samplerate)
    return sum(len(part) for part in _decode(stream, name, MAX_DECODED)) / SAMPLE_RATE


def check_waveform(
    waveform: np.ndarray, min_seconds: float = MIN_SECONDS, max_seconds: float = MAX_SECONDS
) -> np.ndarray:
    """Return a 16 kHz waveform ``(samples,)`` unchanged, or raise ``AudioError`` when it cannot be an utterance."""
    if waveform.ndim != 1:
        raise DataError(f"waveform has shape {waveform.shape}; expected (samples,): average the channels first")
    check_samples(waveform)
    if np.abs(waveform).max() < _SILENCE_PEAK:
        raise AudioError("silent", f"no sample reaches {_SILENCE_PEAK:g} of full scale")
    seconds = waveform.size / SAMPLE_RATE
    if seconds < min_seconds:
        raise AudioError("too short", f"{seconds:.3f} s; at least {min_seconds:g} s")
    if seconds > max_seconds:
        raise AudioError("too long", f"{seconds:.1f} s; at most {max_seconds:g} s")
    return waveform


def check_samples(samples: np.ndarray) -> np.ndarray:
    """Return samples of any shape unchanged, or raise ``AudioError`` when they cannot be audio on the scale of ±1."""
    if not samples.size:
        raise AudioError("empty", "no samples")
    peak = float(np.abs(samples).max())
    if not math.isfinite(peak):
        raise AudioError("not finite", "NaN or infinite samples")
    if peak > _MAX_PEAK:
        raise AudioError(
            "out of range",
            f"the peak is {peak:g}, and full scale is 1; divide samples in the range of 16-bit integers by 32768, or "
            "give integers as integers",
        )
    return samples


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


def add_noise(waveform: np.ndarray, snr_db: float, rng: np.random.Generator, shaped: bool = False) -> np.ndarray:
    """Add Gaussian noise at a signal-to-noise ratio of ``snr_db`` dB over the whole clip ``(samples,)``.

    It is white, or with ``shaped`` of the long-term spectrum of the clip: at about that ratio at every frequency, which
    is what the babble of very many voices comes to.
    """
    rms = math.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))))
    scale = np.float32(rms * 10 ** (-snr_db / 20))
    noise = rng.standard_normal(waveform.shape, dtype=np.float32)
    return waveform + scale * (_shaped(noise, waveform) if shaped else noise)


def _shaped(noise: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """White noise with the power spectrum of a waveform, averaged over ``_SHAPE_HZ``; its mean power is 1, or 0."""
    power = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    half = round(_SHAPE_HZ / 2 * waveform.size / SAMPLE_RATE)
    first, last = (np.clip(np.arange(power.size) + to, 0, power.size) for to in (-half, half + 1))
    total = np.concatenate([[0.0], np.cumsum(power)])
    envelope = np.sqrt((total[last] - total[first]) / (last - first))
    noise = np.fft.irfft(np.fft.rfft(noise.astype(np.float64)) * envelope, waveform.size)
    rms = math.sqrt(float(np.mean(np.square(noise))))
    return (noise / (rms or 1.0)).astype(np.float32)


def resample(waveform: np.ndarray, rate: int, target: int) -> np.ndarray:
    """``(samples,)`` at ``rate`` Hz → float32 at ``target`` Hz."""
    waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    return waveform if rate == target else soxr.resample(waveform, rate, target)


def _decode(data: bytes, name: str, max_seconds: float) -> Iterator[np.ndarray]:
    """The waveform, block by block."""
    seconds = 0.0
    try:
        streams = split_streams(data)
    except DataError as error:
        raise AudioError("unreadable", f"{name} {error}") from error
    for stream in streams:
        with quiet(), _Forward(_Memory(stream)) as file:
            rate, done, last = _possible_rate(file.samplerate), 0, False
            convert = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            while not last:
                block = file.read(max(1, _BLOCK // file.channels), dtype="float32", always_2d=True)
                done, last = done + len(block), not len(block)
                if seconds + done / rate > max_seconds:
                    raise AudioError("too long", f"{name} has more than {max_seconds:g} s")
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told at the end
                    mono = block.mean(axis=1)  # (samples,)
                mono = mono if convert is None else convert.resample_chunk(mono, last=last)
                if mono.size:
                    yield mono
            if done < file.frames < _UNKNOWN_FRAMES:
                raise AudioError("unreadable", f"{name} is cut short or damaged: {done} of {file.frames} frames")
            seconds += done / rate


class _Forward(soundfile.SoundFile):
    """Read from front to end: soundfile would seek after each block, which decoders do at a loss, or cannot."""

    def seekable(self) -> bool:
        return False


class _Memory(io.BytesIO):
    """A file that stays where it is when damaged headers send libsndfile before its start, and says nothing of it."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _possible_rate(rate: int) -> int:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError("unreadable", f"a sampling rate of {rate} Hz is not possible; {MIN_RATE} to {MAX_RATE} Hz are")
    return rate


def _unreadable(name: str, error: Exception) -> AudioError:
    return AudioError("unreadable", f"{name}: {str(error) or type(error).__name__}")
