"""Speech features on disk: computed once per (audio, encoder, settings), memory-mapped, read by training.

A store is a folder with one flat array and an index. Its name is a fingerprint of everything that produced it, so a
changed layer, trim or clip makes a new store and never reuses a stale one. Clips are decoded by threads while the
encoder works, in chunks whose members are sorted by length, so memory is bounded and padding is small.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from speechde.cache import atomic_directory, fingerprint
from speechde.data.audio import AudioError, check_waveform, load_audio, perturb_speed, trim_silence
from speechde.data.containers import split_locator
from speechde.errors import AssetError, DataError
from speechde.frontends.encoders import SpeechEncoder, pool_frames, pooling_factor
from speechde.frontends.units import KMeans, deduplicate
from speechde.types import SAMPLE_RATE, Dropped, Utterance

CHUNK = 256  # clips decoded ahead and sorted together: about 25 MB of waveforms
BATCH_SECONDS = 30.0  # padded audio a batch


@dataclass(frozen=True)
class View:
    """How a clip is changed before the encoder: ``speed`` (1 = as recorded) and ``trim_db`` (see ``trim_silence``)."""

    speed: float = 1.0
    trim_db: float = 40.0


@dataclass
class FeatureStore:
    """Arrays by utterance id: frames ``(time, dim)`` float16, or units ``(time,)`` int32; memory-mapped."""

    folder: Path
    index: dict = field(repr=False)

    def __post_init__(self) -> None:
        self.values = np.load(self.folder / "values.npy", mmap_mode="r")
        lengths = np.array(self.index["lengths"], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        self._span = {id_: (int(a), int(a + n)) for id_, a, n in zip(self.index["ids"], starts, lengths, strict=True)}
        if lengths.sum() != len(self.values):
            counts = f"{lengths.sum()} rows indexed, {len(self.values)} stored"
            raise AssetError(f"{self.folder} is damaged ({counts}); delete it, and it will be made again")

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Open a finished store.

        Raises:
            AssetError: its files are damaged.
        """
        try:
            return cls(folder, json.loads((folder / "index.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise AssetError(f"{folder} is damaged ({error}); delete it, and it will be made again") from error

    def __getitem__(self, id_: str) -> np.ndarray:
        start, stop = self._span[id_]
        return self.values[start:stop]

    def __contains__(self, id_: str) -> bool:
        return id_ in self._span

    def __len__(self) -> int:
        return len(self._span)

    @property
    def key(self) -> str:
        """The fingerprint this store is named by."""
        return self.folder.name

    @property
    def dropped(self) -> list[Dropped]:
        """Clips that could not be used."""
        return [Dropped(*item) for item in self.index["dropped"]]

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each clip before trimming, by id."""
        return dict(zip(self.index["ids"], self.index["seconds"], strict=True))

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second when the store was made, decoding included."""
        return self.index.get("times_real_time")

    def gather(self, ids: Iterable[str]) -> np.ndarray:
        """All rows of some utterances, one after another."""
        return np.concatenate([self[id_] for id_ in ids])


def extract_frames(
    utterances: Sequence[Utterance],
    encoder: SpeechEncoder,
    cache_dir: Path,
    *,
    rate: float,
    view: View | None = None,
    label: str = "frames",
) -> FeatureStore:
    """Frames of every readable clip at ``rate`` frames per second; from the cache when they are there.

    Clips are encoded once, at the encoder's own rate; lower rates are pooled from that store.

    Raises:
        DataError: no clip could be used; the message lists the first reasons.
    """
    view = view or View()
    factor = pooling_factor(encoder.rate, rate)
    if factor > 1:
        full = extract_frames(utterances, encoder, cache_dir, rate=encoder.rate, view=view, label=label)
        return _pooled(full, factor)
    key = fingerprint(
        {
            "encoder": encoder.describe(),
            "pool": 1,
            "view": [view.speed, view.trim_db],
            "clips": [_clip_key(utterance) for utterance in utterances],
        }
    )
    folder = Path(cache_dir) / "frames" / key
    if (folder / "index.json").is_file():
        return FeatureStore.open(folder)
    started = time.perf_counter()
    ids, parts, seconds, dropped = [], [], [], []
    with _progress() as progress:
        task = progress.add_task(label, total=len(utterances))
        for chunk in _decoded(utterances, view):
            good = [(u, waveform, length) for u, waveform, length in chunk if isinstance(waveform, np.ndarray)]
            dropped += [Dropped(u.id, e.reason, e.detail) for u, e, _ in chunk if isinstance(e, AudioError)]
            for batch in _batches(good):
                for (u, _, length), frames in zip(batch, encoder.encode([w for _, w, _ in batch]), strict=True):
                    ids.append(u.id)
                    parts.append(frames)
                    seconds.append(length)
            progress.advance(task, len(chunk))
    if not ids:
        reasons = "; ".join(f"{d.id}: {d.reason} {d.detail}" for d in dropped[:3])
        raise DataError(f"none of {len(utterances)} clips could be used ({reasons}); check the audio paths and files")
    took = time.perf_counter() - started
    _write(
        folder,
        parts,
        {
            "ids": ids,
            "seconds": seconds,
            "dropped": [[d.id, d.reason, d.detail] for d in dropped],
            "times_real_time": sum(seconds) / took,
        },
    )
    return FeatureStore.open(folder)


def _pooled(store: FeatureStore, factor: int) -> FeatureStore:
    """A frame store averaged over ``factor`` consecutive frames, kept beside it."""
    folder = store.folder.with_name(f"{store.key}-pool{factor}")
    if not (folder / "index.json").is_file():
        parts = [pool_frames(store[id_], factor) for id_ in store.index["ids"]]
        _write(folder, parts, {key: value for key, value in store.index.items() if key != "lengths"})
    return FeatureStore.open(folder)


def quantise(store: FeatureStore, kmeans: KMeans, cache_dir: Path, *, run_length_deduplication: bool) -> FeatureStore:
    """The units of every clip of a frame store; from the cache when they are there."""
    key = fingerprint({"frames": store.key, "kmeans": kmeans.hash, "deduplicate": run_length_deduplication})
    folder = Path(cache_dir) / "units" / key
    if (folder / "index.json").is_file():
        return FeatureStore.open(folder)
    parts = []
    for id_ in store.index["ids"]:
        units = kmeans.assign(store[id_])
        parts.append(deduplicate(units) if run_length_deduplication else units)
    index = {name: store.index[name] for name in ("ids", "seconds", "dropped")}
    _write(folder, parts, index | {"kmeans": kmeans.hash})
    return FeatureStore.open(folder)


def _write(folder: Path, parts: list[np.ndarray], index: dict) -> None:
    with atomic_directory(folder) as temporary:
        np.save(temporary / "values.npy", np.concatenate(parts))
        index = index | {"lengths": [len(part) for part in parts]}
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _clip_key(utterance: Utterance) -> list:
    """Identity of a clip's content: id, size and modification time (hashing a corpus each start would take minutes).

    A locator has the size and time of its container, and the member.
    """
    container, *member = split_locator(utterance.audio) or (utterance.audio,)
    try:
        stat = Path(container).stat()
    except OSError:
        return [utterance.id, -1, -1, *member]
    return [utterance.id, stat.st_size, stat.st_mtime_ns, *member]


def _decoded(utterances: Sequence[Utterance], view: View) -> Iterator[list]:
    """Chunks of ``(utterance, waveform or AudioError, seconds)``, decoded one chunk ahead."""

    def read(utterance: Utterance):
        try:
            waveform = check_waveform(load_audio(utterance.audio))
        except AudioError as error:
            return utterance, error, 0.0
        seconds = len(waveform) / SAMPLE_RATE
        waveform = trim_silence(waveform, view.trim_db)
        if view.speed != 1.0:
            waveform = perturb_speed(waveform, view.speed)
        return utterance, waveform, seconds

    with ThreadPoolExecutor(2) as pool:
        pending = None
        for start in range(0, len(utterances), CHUNK):
            submitted = [pool.submit(read, u) for u in utterances[start : start + CHUNK]]
            if pending is not None:
                yield [future.result() for future in pending]
            pending = submitted
        if pending is not None:
            yield [future.result() for future in pending]


def _batches(items: list[tuple]) -> Iterator[list[tuple]]:
    """Clips of similar length together, at most ``BATCH_SECONDS`` of padded audio (or one clip)."""
    batch: list[tuple] = []
    for item in sorted(items, key=lambda item: len(item[1])):
        if batch and len(item[1]) * (len(batch) + 1) > BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _progress() -> Progress:
    return Progress("[progress.description]{task.description}", TextColumn("{task.completed}/{task.total} clips"),
                    TimeRemainingColumn(), transient=True)  # fmt: skip
