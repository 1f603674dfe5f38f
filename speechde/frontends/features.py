"""Making speech features, once per (audio, encoder, settings), piece by piece; see ``store`` for how they are kept.

Clips are decoded by threads while the encoder works, in chunks whose members are sorted by length, so memory is bounded
and padding is small. A start makes the pieces that are missing and no other. Pieces are independent of each other, so
several processes or machines that see one cache folder can share them out (``shard``), and another engine than this
process can make them (``encode``; see ``ray_extraction``).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from speechde.cache import fingerprint
from speechde.data.audio import AudioError, add_noise, check_waveform, load_audio, perturb_speed, trim_silence
from speechde.data.containers import split_locator
from speechde.errors import DataError
from speechde.frontends.encoders import SpeechEncoder, pool_frames, pooling_factor
from speechde.frontends.store import PIECE, FeatureStore, Piece
from speechde.frontends.units import Quantiser
from speechde.types import SAMPLE_RATE, Utterance

CHUNK = 256  # clips decoded ahead and sorted together: about 25 MB of waveforms where a clip has 1.5 s
BATCH_SECONDS = 30.0  # padded audio a batch


@dataclass(frozen=True)
class View:
    """How a clip is changed: ``speed`` (1 = as recorded) and ``trim_db`` (see ``trim_silence``) before the encoder.

    ``snr_db`` adds white noise there, None none. ``mean_norm`` is the share of their mean that is subtracted from its
    frames (see ``subtract_mean``).
    """

    speed: float = 1.0
    trim_db: float = 40.0
    mean_norm: float = 0.0
    snr_db: float | None = None


@dataclass(frozen=True)
class Job:
    """A piece to make: its folder and its clips."""

    folder: Path
    clips: Sequence[Utterance]


# Makes pieces; yields the number of clips done, as they are.
Encode = Callable[[Sequence[Job], View], Iterator[int]]


def extract_frames(
    utterances: Sequence[Utterance],
    encoder: SpeechEncoder,
    cache_dir: Path,
    *,
    rate: float,
    view: View | None = None,
    label: str = "frames",
    encode: Encode | None = None,
) -> FeatureStore:
    """Frames of every readable clip at ``rate`` frames per second; from the cache when they are there.

    Clips are encoded once, at the encoder's own rate; lower rates are pooled from those.

    Args:
        label: of the progress bar.
        encode: makes the pieces that are missing; None encodes in this process.

    Raises:
        DataError: no clip could be used; the message lists the first reasons.
    """
    factor = pooling_factor(encoder.rate, rate)
    view = view or View()
    folders = _frames(utterances, encoder, cache_dir, view, label, encode)
    if not any(Piece(folder).ids for folder in folders):
        dropped = FeatureStore.open(folders).dropped
        for folder in folders:  # a repaired installation would find them and not try again
            shutil.rmtree(folder)
        reasons = "; ".join(f"{d.id}: {d.reason} {d.detail}" for d in dropped[:3])
        raise DataError(f"none of {len(utterances)} clips could be used ({reasons}); check the audio paths and files")
    return FeatureStore.open(_finished(folders, factor, view.mean_norm, label))


def extract_shard(
    utterances: Sequence[Utterance],
    encoder: SpeechEncoder,
    cache_dir: Path,
    shard: tuple[int, int],
    *,
    rate: float,
    view: View | None = None,
    label: str = "frames",
    encode: Encode | None = None,
) -> int:
    """Make what is missing of a share of the pieces that ``extract_frames`` will read; returns their number.

    Args:
        shard: ``(number, count)``; piece i, counted from 0, belongs to shard i % count + 1.
    """
    factor, view = pooling_factor(encoder.rate, rate), view or View()
    folders = _frames(utterances, encoder, cache_dir, view, label, encode, shard)
    return len(_finished(folders, factor, view.mean_norm, label))


def _frames(
    utterances: Sequence[Utterance],
    encoder: SpeechEncoder,
    cache_dir: Path,
    view: View,
    label: str,
    encode: Encode | None,
    shard: tuple[int, int] = (1, 1),
) -> list[Path]:
    """Folders of the pieces of a shard, at the encoder's own rate; those that were missing are made."""
    number, count = shard
    cut = _cut(utterances)[number - 1 :: count]
    jobs = [Job(Path(cache_dir) / "frames" / _piece_key(clips, encoder, view), clips) for clips in cut]
    missing = [job for job in jobs if not Piece.finished(job.folder)]
    if missing:
        total = sum(len(job.clips) for job in jobs)
        with _progress(label, total, total - sum(len(job.clips) for job in missing)) as advance:
            for done in (encode or partial(encode_pieces, encoder))(missing, view):
                advance(done)
    return [job.folder for job in jobs]


def _cut(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Lists of at most ``PIECE`` clips of one language, so that other choices of languages find the same pieces."""
    languages: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        languages.setdefault(utterance.lang, []).append(utterance)
    return [own[start : start + PIECE] for own in languages.values() for start in range(0, len(own), PIECE)]


def _finished(folders: list[Path], factor: int, mean_norm: float, label: str) -> list[Path]:
    """Folders of the same pieces averaged over ``factor`` frames, and less a share of the mean; kept beside them."""
    if factor > 1:
        pooled = [folder.with_name(f"{folder.name}-pool{factor}") for folder in folders]
        label = f"{label}, 1/{factor} rate"
        folders = _derive(folders, pooled, lambda frames: pool_frames(frames, factor), label=label)
    if mean_norm:
        normed = [folder.with_name(f"{folder.name}-mean{mean_norm:g}") for folder in folders]
        folders = _derive(folders, normed, lambda frames: subtract_mean(frames, mean_norm), label=f"{label}, mean norm")
    return folders


def subtract_mean(frames: np.ndarray, share: float) -> np.ndarray:
    """``(time, dim)`` frames less a share of their mean over time, in the same number format.

    What a clip has in common with itself is its speaker and channel more than its words, so other speakers' clips of
    the same words come nearer (utterance mean normalisation). A short clip's mean is also its words: hence a share.
    """
    wide = frames.astype(np.float32)
    return (wide - share * wide.mean(0)).astype(frames.dtype)


def items_in_memory(
    waveforms: Sequence[np.ndarray], encoder: SpeechEncoder, quantiser: Quantiser | None, speech: Mapping
) -> list[np.ndarray]:
    """16 kHz waveforms → speech items (frames or units), those of a store of the same clips, in order.

    ``speech`` are the settings of a trained model: ``rate``, ``trim_db`` and ``mean_norm``.
    """
    factor = pooling_factor(encoder.rate, speech["rate"])
    items: list[np.ndarray] = [np.empty(0)] * len(waveforms)
    trimmed = [(row, trim_silence(waveform, speech["trim_db"])) for row, waveform in enumerate(waveforms)]
    for batch in by_length(trimmed):
        for (row, _), frames in zip(batch, encoder.encode([w for _, w in batch]), strict=True):
            frames = pool_frames(frames, factor)
            if share := speech.get("mean_norm", 0.0):
                frames = subtract_mean(frames, share)
            items[row] = frames if quantiser is None else quantiser.encode(frames)
    return items


def encode_pieces(encoder: SpeechEncoder, jobs: Sequence[Job], view: View) -> Iterator[int]:
    """Encode pieces in this process; yields the number of clips done, chunk by chunk."""
    chunks = [(job, start) for job in jobs for start in range(0, len(job.clips), CHUNK)]
    decoded = _decoded([job.clips[start : start + CHUNK] for job, start in chunks], view)
    made, started = _Made(), time.perf_counter()
    for (job, start), chunk in zip(chunks, decoded, strict=True):
        good = [(u, waveform, length) for u, waveform, length in chunk if isinstance(waveform, np.ndarray)]
        made.dropped += [[u.id, e.reason, e.detail] for u, e, _ in chunk if isinstance(e, AudioError)]
        for batch in by_length(good):
            for (u, _, length), frames in zip(batch, encoder.encode([w for _, w, _ in batch]), strict=True):
                made.ids.append(u.id)
                made.parts.append(frames)
                made.seconds.append(length)
        if start + CHUNK >= len(job.clips):
            took = time.perf_counter() - started
            made.write(job.folder, encoder.dim, sum(made.seconds) / took)
            made, started = _Made(), time.perf_counter()
        yield len(chunk)


@dataclass
class _Made:
    """What has been made of a piece so far."""

    ids: list[str] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: list[list[str]] = field(default_factory=list)

    def write(self, folder: Path, dim: int, speed: float) -> None:
        index = {"ids": self.ids, "seconds": self.seconds, "dropped": self.dropped, "times_real_time": speed}
        Piece.write(folder, self.parts or [np.zeros((0, dim), np.float16)], index)


def quantise(store: FeatureStore, quantiser: Quantiser, cache_dir: Path) -> FeatureStore:
    """The audio tokens of every clip of a frame store; from the cache when they are there.

    With a BPE they are made from the units, which are stored too: the BPE was trained on those of the training clips.
    """
    plain = replace(quantiser, bpe=None)
    frames = [piece.folder for piece in store.pieces]
    folders = _derive(
        frames, _token_folders(frames, plain, cache_dir), plain.encode, label="units", quantiser=plain.hash
    )
    if quantiser.bpe:
        units, folders = folders, _token_folders(frames, quantiser, cache_dir)
        _derive(units, folders, quantiser.bpe.encode, label="unit BPE", quantiser=quantiser.hash)
    return FeatureStore.open(folders, quantiser.hash)


def _token_folders(frames: Sequence[Path], quantiser: Quantiser, cache_dir: Path) -> list[Path]:
    return [
        Path(cache_dir) / "units" / fingerprint({"frames": folder.name, "quantiser": quantiser.hash})
        for folder in frames
    ]


def _derive(
    sources: Sequence[Path],
    folders: Sequence[Path],
    make: Callable[[np.ndarray], np.ndarray],
    *,
    label: str,
    **index: str,
) -> list[Path]:
    """Make ``folders`` from the pieces ``sources``, clip by clip, as far as they are missing; returns ``folders``."""
    missing = [(source, folder) for source, folder in zip(sources, folders, strict=True) if not Piece.finished(folder)]
    if missing:
        with _progress(label, len(folders), len(folders) - len(missing), "pieces") as advance:
            for source, folder in missing:
                piece = Piece(source)
                kept = {name: piece.index[name] for name in ("ids", "seconds", "dropped", "times_real_time")}
                Piece.write(folder, [make(part) for part in piece.parts()], kept | index)
                advance(1)
    return list(folders)


def _piece_key(clips: Sequence[Utterance], encoder: SpeechEncoder, view: View) -> str:
    return fingerprint(
        {
            "encoder": encoder.describe(),
            "pool": 1,
            "view": [view.speed, view.trim_db, *([] if view.snr_db is None else [view.snr_db])],
            "clips": [clip_key(utterance) for utterance in clips],
        }
    )


def clip_key(utterance: Utterance) -> list:
    """Identity of a clip's content: id, size and modification time (hashing a corpus each start would take minutes).

    A locator has the size and time of its container, and the member.
    """
    container, *member = split_locator(utterance.audio) or (utterance.audio,)
    try:
        stat = Path(container).stat()
    except OSError:
        return [utterance.id, -1, -1, *member]
    return [utterance.id, stat.st_size, stat.st_mtime_ns, *member]


def _decoded(chunks: Sequence[Sequence[Utterance]], view: View) -> Iterator[list]:
    """Of each chunk ``(utterance, waveform or AudioError, seconds)``; the next one is decoded meanwhile."""

    def read(utterance: Utterance):
        try:
            waveform = check_waveform(load_audio(utterance.audio))
        except AudioError as error:
            return utterance, error, 0.0
        seconds = len(waveform) / SAMPLE_RATE
        waveform = trim_silence(waveform, view.trim_db)
        if view.speed != 1.0:
            waveform = perturb_speed(waveform, view.speed)
        if view.snr_db is not None:  # seeded by the clip, so that it is the same whatever else is in the list
            waveform = add_noise(waveform, view.snr_db, np.random.default_rng(crc32(utterance.id.encode())))
        return utterance, waveform, seconds

    with ThreadPoolExecutor(2) as pool:
        pending = None
        for chunk in chunks:
            submitted = [pool.submit(read, utterance) for utterance in chunk]
            if pending is not None:
                yield [future.result() for future in pending]
            pending = submitted
        if pending is not None:
            yield [future.result() for future in pending]


def by_length(items: list[tuple]) -> Iterator[list[tuple]]:
    """Tuples ``(what, waveform, …)`` of similar length together, ``BATCH_SECONDS`` of padded audio or one clip."""
    batch: list[tuple] = []
    for item in sorted(items, key=lambda item: len(item[1])):
        if batch and len(item[1]) * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@contextmanager
def _progress(label: str, total: int, done: int, of: str = "clips") -> Iterator[Callable[[int], None]]:
    """A bar over the whole list that goes on from what was there; yields the function that advances it."""
    columns = "[progress.description]{task.description}", TextColumn(f"{{task.completed}}/{{task.total}} {of}")
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda count: progress.advance(task, count)
