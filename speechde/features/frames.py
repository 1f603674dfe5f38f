"""Making speech features, once per (audio, encoder, settings), piece by piece; see ``store`` for how they are kept.

Audio means content: a clip counts as its bytes (``media.content``), whatever its path and dates.

Clips are decoded by threads while the encoder works, in chunks whose members are sorted by length, so memory is bounded
and padding is small. A start makes the pieces that are missing and no other. A chunk is kept beside its piece until the
piece is whole, so that a kill costs some seconds and not a piece; the chunks of a piece are the same however often it
was started, and so are its bits. Pieces are independent of each other, so several processes or machines that see one
cache folder can share them out (``shard``), and another engine than this process can make them (``encode``; see
``ray_extraction``).
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from zlib import crc32

import numpy as np

from speechde.cache import fingerprint
from speechde.errors import AssetError, DataError
from speechde.features.encoders import SpeechEncoder, pool_frames, pooling_factor
from speechde.features.settings import SpeechSettings
from speechde.features.store import PIECE, FeatureStore, Piece
from speechde.features.units import Quantiser
from speechde.media import audio
from speechde.media.audio import (
    MAX_SECONDS,
    AudioError,
    add_noise,
    check_waveform,
    load_audio,
    perturb_speed,
    trim_silence,
)
from speechde.media.content import content_keys, is_known
from speechde.progress import progress
from speechde.types import SAMPLE_RATE, Utterance

VERSION = 1  # raise it when the encoders, their windows or what follows them make other frames of the same waveform
CHUNK = 256  # clips decoded ahead, and at most sorted together: about 25 MB of waveforms where a clip has 1.5 s
CHUNK_SECONDS = 240.0  # of audio, at which a chunk ends: some seconds of encoding, which is what a kill can cost
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
    jobs = _jobs(cut, encoder, Path(cache_dir), view, label)
    missing = [job for job in jobs if not Piece.finished(job.folder)]
    if missing:
        total = sum(len(job.clips) for job in jobs)
        left = sum(len(job.clips) - len(_Made.kept(job.folder)) for job in missing)
        with progress(label, total, "clips", done=total - left) as advance:
            for done in (encode or partial(encode_pieces, encoder))(missing, view):
                advance(done)
    return [job.folder for job in jobs]


def _jobs(cut: list[list[Utterance]], encoder: SpeechEncoder, cache_dir: Path, view: View, label: str) -> list[Job]:
    """A job for each piece; its name needs the bytes of its clips, which a first run reads and later ones remember."""
    unread = [clips for clips in cut if not is_known([u.audio for u in clips], cache_dir)]
    if unread:
        with progress(f"{label}: names", len(cut), "pieces", done=len(cut) - len(unread)) as advance:
            for clips in unread:
                content_keys([u.audio for u in clips], cache_dir)
                advance(1)
    return [Job(cache_dir / "frames" / _piece_key(clips, encoder, view, cache_dir), clips) for clips in cut]


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
    waveforms: Sequence[np.ndarray], encoder: SpeechEncoder, quantiser: Quantiser | None, speech: SpeechSettings
) -> list[np.ndarray]:
    """16 kHz waveforms → speech items (frames or units), those of a store of the same clips, in order."""
    factor = pooling_factor(encoder.rate, speech.rate)
    items: list[np.ndarray] = [np.empty(0)] * len(waveforms)
    trimmed = [(row, trim_silence(waveform, speech.trim_db)) for row, waveform in enumerate(waveforms)]
    for batch in by_length(trimmed):
        for (row, _), frames in zip(batch, encoder.encode([w for _, w in batch]), strict=True):
            frames = pool_frames(frames, factor)
            if speech.mean_norm:
                frames = subtract_mean(frames, speech.mean_norm)
            items[row] = frames if quantiser is None else quantiser.encode(frames)
    return items


def encode_pieces(encoder: SpeechEncoder, jobs: Sequence[Job], view: View) -> Iterator[int]:
    """Encode pieces in this process; yields the number of clips done, chunk by chunk.

    What an earlier start has kept of a piece is neither encoded nor counted again.
    """
    kept = deque(_Made.kept(job.folder) for job in jobs)
    chunks = _decoded([(job, u) for job, made in zip(jobs, kept, strict=True) for u in job.clips[len(made) :]], view)
    for job in jobs:
        made = kept.popleft()
        while len(made) < len(job.clips):
            new, start = _Made(), time.perf_counter()
            chunk = next(chunks)
            good = [(u, waveform, length) for u, waveform, length in chunk if isinstance(waveform, np.ndarray)]
            new.dropped = [[u.id, e.reason, e.detail] for u, e, _ in chunk if isinstance(e, AudioError)]
            for batch in by_length(good):
                for (u, _, length), frames in zip(batch, encoder.encode([w for _, w, _ in batch]), strict=True):
                    new.ids.append(u.id)
                    new.parts.append(frames)
                    new.seconds.append(length)
            new.took = time.perf_counter() - start
            if len(made) + len(new) < len(job.clips):
                new.write(_part(job.folder, len(made)), encoder.dim)
            made.add(new)
            yield len(chunk)
        made.write(job.folder, encoder.dim)
        for folder in job.folder.parent.glob(f"{job.folder.name}-part*"):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Made:
    """Clips of a piece that have been encoded, or dropped; its length is their number."""

    ids: list[str] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: list[list[str]] = field(default_factory=list)
    took: float = 0.0

    @classmethod
    def kept(cls, folder: Path) -> _Made:
        """What other starts have kept of the piece ``folder``, from its first clip on; the frames are not read yet."""
        made = cls()
        while Piece.finished(part := _part(folder, len(made))):
            try:
                piece = Piece(part)
            except AssetError:  # another process has just made the piece and removed its parts, or a disk was full
                shutil.rmtree(part, ignore_errors=True)
                break
            parts = piece.parts() if piece.ids else []
            made.add(cls(piece.ids, parts, piece.seconds, piece.index["dropped"], piece.index["took"]))
        return made

    def __len__(self) -> int:
        return len(self.ids) + len(self.dropped)

    def add(self, other: _Made) -> None:
        for name in ("ids", "parts", "seconds", "dropped"):
            getattr(self, name).extend(getattr(other, name))
        self.took += other.took

    def write(self, folder: Path, dim: int) -> None:
        """Nothing is written where the folder is there already."""
        index = {"ids": self.ids, "seconds": self.seconds, "dropped": self.dropped, "took": self.took,
                 "times_real_time": sum(self.seconds) / self.took}  # fmt: skip
        Piece.write(folder, self.parts or [np.zeros((0, dim), np.float16)], index)


def _part(folder: Path, start: int) -> Path:
    """Where the chunk of a piece that starts at clip ``start`` is kept until the piece is whole."""
    return folder.with_name(f"{folder.name}-part{start}")


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
        with progress(label, len(folders), "pieces", done=len(folders) - len(missing)) as advance:
            for source, folder in missing:
                piece = Piece(source)
                kept = {name: piece.index[name] for name in ("ids", "seconds", "dropped", "times_real_time")}
                Piece.write(folder, [make(part) for part in piece.parts()], kept | index)
                advance(1)
    return list(folders)


def _piece_key(clips: Sequence[Utterance], encoder: SpeechEncoder, view: View, cache_dir: Path) -> str:
    contents = content_keys([utterance.audio for utterance in clips], cache_dir)
    return fingerprint(
        {
            "version": [VERSION, audio.VERSION],
            "encoder": encoder.describe(),
            "pool": 1,
            "view": [view.speed, view.trim_db, *([] if view.snr_db is None else [view.snr_db])],
            "clips": [[utterance.id, *key] for utterance, key in zip(clips, contents, strict=True)],
        }
    )


def _decoded(clips: Iterable[tuple[Job, Utterance]], view: View) -> Iterator[list]:
    """Of each chunk ``(utterance, waveform or AudioError, seconds)``; those that follow are decoded meanwhile.

    A chunk has clips of one job, in order. Where it ends depends on them alone.
    """

    def read(utterance: Utterance):
        try:
            waveform = check_waveform(load_audio(utterance.audio, MAX_SECONDS))
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
        ahead = ((job, pool.submit(read, utterance)) for job, utterance in clips)
        pending, chunk = deque(islice(ahead, CHUNK)), []
        while pending:
            job, future = pending.popleft()
            pending.extend(islice(ahead, 1))
            chunk.append(future.result())
            ends = not pending or pending[0][0] is not job
            if ends or len(chunk) == CHUNK or sum(seconds for *_, seconds in chunk) >= CHUNK_SECONDS:
                yield chunk
                chunk = []


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
