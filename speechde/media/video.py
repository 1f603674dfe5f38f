"""Video in: an item with a film becomes an item of pictures with their times and, when asked for, its sound.

A model has no frontend of its own for films: one frame a second, at most 32 spread evenly, each after its
time in words ("0:03"), is the sequence that Gemini Embedding 2 describes too. PyAV (FFmpeg) decodes. What a file is
decides its content and not its name; lists of other files or addresses (HLS, concat) are no films and are not opened.

The packets are listed first, which decodes nothing: they tell how long the film is, whatever the header says, and where
its key frames are, so that of a long film only the seconds before each wanted frame are decoded.
"""

from __future__ import annotations

import io
import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from speechde.errors import AssetError, ConfigError
from speechde.install import install_command
from speechde.media.audio import AudioError, check_samples
from speechde.media.image import MAX_PIXELS
from speechde.media.sources import MediaError, read_source
from speechde.types import SAMPLE_RATE, Audio, Image, Item, Part, Text, Video

if TYPE_CHECKING:
    import av

MAX_FRAMES = 32
MAX_SIDE = 512  # pixels of the longer side of a frame; encoders look at fewer
MAX_SECONDS = 4 * 3600.0
MAX_BYTES = 1 << 33
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif"
REASONS = ("missing file", "unreadable", "empty", "too large", "too long", "no picture", "no sound")
_CUT = 2.0  # seconds by which a header may promise more than there is


class VideoError(MediaError):
    """A film that cannot be used; ``reason`` is one of ``REASONS``, made to be counted."""

    REASONS = REASONS
    MEDIUM, LARGE, MAX_BYTES = "film", "too large", MAX_BYTES


def as_pictures(item: Item, sound: bool = False, frames: int = MAX_FRAMES) -> Item:
    """The item with each film replaced by its times and frames and, with ``sound``, by what is heard after them.

    ``frames`` is how many a film has at most: an LLM of 512 positions has room for nine of 49 patches.

    Raises:
        VideoError: a film cannot be decoded, or has no picture or, with ``sound``, no sound.
        AssetError: PyAV is not installed.
    """
    parts: list[Part] = []
    for part in item.parts:
        if not isinstance(part, Video):
            parts.append(part)
            continue
        for seconds, frame in read_frames(part.content, frames):
            parts += [Text(time_stamp(seconds)), Image(frame)]
        if sound:
            parts.append(Audio(read_sound(part.content), sampling_rate=SAMPLE_RATE))
    return Item(*parts, id=item.id, lang=item.lang, meaning=item.meaning, title=item.title)


def time_stamp(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on.

    >>> time_stamp(63.9), time_stamp(3600)
    ('1:03', '1:00:00')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def read_frames(content: str | Path | bytes | BinaryIO, count: int = MAX_FRAMES) -> list[tuple[float, np.ndarray]]:
    """Seconds and ``(height, width, 3)`` uint8 of the frames that stand for a film, at most ``count``.

    Raises:
        ConfigError: ``count`` is below 1.
        VideoError: it cannot be decoded, is cut short, or has no picture.
        AssetError: PyAV is not installed.
    """
    if count < 1:
        raise ConfigError(f"frames={count}: a film has at least 1; the default is {MAX_FRAMES}")
    with _opened(content) as (container, name):
        stream = _picture_stream(container, name)
        start, end, keys = _packets(container, stream, name)
        step = max(1.0, (end - start) / count)
        wanted = [start + k * step for k in range(max(1, min(count, math.ceil(end - start))))]
        frames = _frames_at(container, stream, wanted, keys)
        found = [(at - start, _pixels(frame, name)) for at, frame in zip(wanted, frames, strict=False)]
        if not found:
            raise VideoError("unreadable", f"{name} has no frame that can be decoded")
        return found


def read_sound(content: str | Path | bytes | BinaryIO) -> np.ndarray:
    """The sound of a film as float32 ``(samples,)``, mono, 16 kHz.

    Raises:
        VideoError: it cannot be decoded, or has no sound.
        AssetError: PyAV is not installed.
    """
    with _opened(content) as (container, name):
        import av

        if not container.streams.audio:
            raise VideoError("no sound", f"{name} has no sound track; leave sound out")
        convert = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        blocks, count = [], 0
        for frame in container.decode(container.streams.audio[0]):
            blocks += [made.to_ndarray().reshape(-1) for made in convert.resample(frame)]
            count += frame.samples / frame.sample_rate
            if count > MAX_SECONDS:
                raise VideoError("too long", f"{name} has more than {MAX_SECONDS:g} s of sound")
        blocks += [made.to_ndarray().reshape(-1) for made in convert.resample(None)]
        try:
            return check_samples(np.concatenate([np.empty(0, np.float32), *blocks]))
        except AudioError as error:
            raise VideoError("no sound", f"{name}: {error}") from error


@contextmanager
def _opened(content: str | Path | bytes | BinaryIO) -> Iterator[tuple[av.container.InputContainer, str]]:
    """A container and its name; what FFmpeg cannot do becomes a ``VideoError``."""
    try:
        import av
    except ImportError as error:
        raise AssetError(f"to read films: {install_command('video')}") from error
    with _file(content) as (file, name):
        # a file object, because FFmpeg would take a name for an address
        try:
            with av.open(file, options={"format_whitelist": FORMATS, "protocol_whitelist": "pipe"}) as container:
                yield container, name
        except av.FFmpegError as error:
            raise VideoError("unreadable", f"{name}: {error.strerror or error}") from error
        except (ValueError, OverflowError) as error:
            if isinstance(error, MediaError):
                raise
            raise VideoError("unreadable", f"{name}: {error}") from error


@contextmanager
def _file(content: str | Path | bytes | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """A file on disk is read in place, anything else from memory."""
    if isinstance(content, str | Path) and os.path.isfile(content) and os.path.getsize(content):
        try:
            file = open(content, "rb")
        except OSError as error:
            raise VideoError("unreadable", str(error)) from error
        with file:
            yield file, str(content)
    else:
        data, name = read_source(content, VideoError)
        yield io.BytesIO(data), name


def _picture_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    import av

    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError("no picture", f"{name} has no moving picture; give it as Audio(…)")
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError("unreadable", f"{name}: its codec is not known")
    _check_size(stream.codec_context.width, stream.codec_context.height, name)
    stream.thread_type = "AUTO"
    return stream


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> tuple[float, float, list[float]]:
    """Seconds of the start and end of the pictures, and of their key frames (none where packets have no times)."""
    spans, keys, last = [], [], 0.0
    for packet in container.demux():
        at = packet.dts if packet.pts is None else packet.pts
        if at is None or not packet.size:  # what flushes a decoder
            continue
        span = float(at * packet.time_base), float((at + (packet.duration or 0)) * packet.time_base)
        last = max(last, span[1])
        if packet.stream_index == stream.index:
            spans.append(span)
            if packet.is_keyframe and packet.pts is not None:
                keys.append(span[0])
    if not spans:
        raise VideoError("unreadable", f"{name} has no packet of its picture")
    stated = ((container.start_time or 0) + (container.duration or 0)) / 1e6
    if stated > last + _CUT:
        raise VideoError("unreadable", f"{name} is cut short: {last:.1f} of {stated:.1f} s")
    start, end = min(spans)[0], max(end for _, end in spans)
    if end - start > MAX_SECONDS:
        raise VideoError("too long", f"{name} has {end - start:.0f} s; at most {MAX_SECONDS:g}")
    container.seek(0)
    return start, end, sorted(keys)


def _frames_at(
    container: av.container.InputContainer, stream: av.VideoStream, wanted: Sequence[float], keys: Sequence[float]
) -> Iterator[av.VideoFrame]:
    """The first frame at or after each of some rising times, the last where there is none."""
    frames, frame, position = container.decode(stream), None, -math.inf
    for at in wanted:
        key = keys[bisect_right(keys, at) - 1] if keys and keys[0] <= at else -math.inf
        if key > position:
            container.seek(math.floor(key / stream.time_base), stream=stream)
            frames, position = container.decode(stream), key
        while frame is None or frame.time is None or frame.time < at - 1e-3:
            following = next(frames, None)
            if following is None:
                break
            if following.time is None or following.time >= key - 1e-3:  # before a key frame what is shown is broken
                frame, position = following, max(position, following.time or position)
        if frame is not None:
            yield frame


def _pixels(frame: av.VideoFrame, name: str) -> np.ndarray:
    _check_size(frame.width, frame.height, name)
    if frame.is_corrupt:
        raise VideoError("unreadable", f"{name} is damaged at {frame.time or 0:.1f} s")
    scale = min(1.0, MAX_SIDE / max(frame.width, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width, frame.height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return upright(pixels, frame.rotation)


def upright(pixels: np.ndarray, degrees: int) -> np.ndarray:
    """A frame ``(height, width, 3)`` turned by quarters, counterclockwise, as its file says that it is to be shown."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90)))


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError("too large", f"{name} has {width} × {height} pixels; at most {MAX_PIXELS:,}")
