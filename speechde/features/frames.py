"""Making speech features, once per (audio, encoder, settings); see ``pieces`` for how, and ``store`` for where.

Clips are decoded and encoded in chunks whose members are sorted by length, so that padding is small. Pieces can be
shared out among processes and machines (``shard``), and made by another engine than this process (``encode``; see
``ray_extraction``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from speechde.cache import fingerprint
from speechde.conditions import CLEAN, Condition
from speechde.features.encoders import SpeechEncoder, pool_frames, pooling_factor
from speechde.features.pieces import Contents, Job, make_missing, make_pieces, refuse_empty
from speechde.features.settings import SpeechSettings
from speechde.features.store import PIECE, FeatureStore, Piece
from speechde.features.units import Quantiser
from speechde.media import audio, degradations
from speechde.media.audio import (
    MAX_SECONDS,
    AudioError,
    add_noise,
    check_waveform,
    load_audio,
    perturb_speed,
    trim_silence,
)
from speechde.progress import progress
from speechde.types import SAMPLE_RATE, Utterance

VERSION = 1  # raise it when the encoders, their windows or what follows them make other frames of the same waveform
CHUNK = 256  # clips decoded ahead, and at most sorted together: about 25 MB of waveforms where a clip has 1.5 s
CHUNK_SECONDS = 240.0  # of audio, at which a chunk ends: some seconds of encoding on most machines
BATCH_SECONDS = 30.0  # padded audio a batch


@dataclass(frozen=True)
class View:
    """How a clip is changed: ``speed`` (1 = as recorded) and ``trim_db`` (see ``trim_silence``) before the encoder.

    ``snr_db`` adds white noise there, None none. ``mean_norm`` is the share of their mean that is subtracted from its
    frames (see ``subtract_mean``). ``condition`` is that of an evaluation: clips sound so before they are trimmed.
    """

    speed: float = 1.0
    trim_db: float = 40.0
    mean_norm: float = 0.0
    snr_db: float | None = None
    condition: Condition = CLEAN


# Makes pieces; yields the number of clips done, as they are.
Encode = Callable[[Sequence[Job], View], Iterator[int]]


@dataclass(frozen=True)
class Clips:
    """Clips as a ``Medium``: decoded, changed as a view says, and encoded with others of their length."""

    encoder: SpeechEncoder
    view: View

    folder, called = "frames", "clips"

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.encoder.dim

    @property
    def ahead(self) -> int:
        """See ``Medium``."""
        return CHUNK

    def describe(self) -> dict:
        """See ``Medium``."""
        view = self.view
        return {
            "version": [VERSION, audio.VERSION],
            "encoder": self.encoder.describe(),
            "pool": 1,
            "view": [view.speed, view.trim_db, *([] if view.snr_db is None else [view.snr_db])],
            **degradations.describe(view.condition),
        }

    def locator(self, member: Utterance) -> str:
        """See ``Medium``."""
        return member.audio

    def read(self, member: Utterance) -> Contents:
        """The waveform of a clip, or why it has none, and its seconds before it is trimmed.

        Which clips can be used does not depend on the condition.
        """
        try:
            waveform = check_waveform(load_audio(member.audio, MAX_SECONDS))
        except AudioError as error:
            return member, error, 0.0
        waveform = degradations.degrade(waveform, self.view.condition, member.id)
        seconds = len(waveform) / SAMPLE_RATE
        waveform = trim_silence(waveform, self.view.trim_db)
        if self.view.speed != 1.0:
            waveform = perturb_speed(waveform, self.view.speed)
        if self.view.snr_db is not None:
            waveform = add_noise(waveform, self.view.snr_db, degradations.generator(member.id))
        return member, waveform, seconds

    def is_full(self, chunk: Sequence[Contents]) -> bool:
        """See ``Medium``."""
        return len(chunk) == CHUNK or sum(seconds for *_, seconds in chunk) >= CHUNK_SECONDS

    def batches(self, contents: list[Contents]) -> Iterator[list[Contents]]:
        """See ``Medium``; the shortest come first."""
        return by_length(contents)

    def encode(self, batch: list[Contents]) -> list[np.ndarray]:
        """See ``Medium``."""
        return self.encoder.encode([waveform for _, waveform, _ in batch])


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
    refuse_empty(Clips(encoder, view), folders, len(utterances))
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
    make = encode and partial(encode, view=view)
    return make_missing(Clips(encoder, view), _cut(utterances)[number - 1 :: count], cache_dir, label, make)


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
    """Encode pieces in this process; yields the number of clips done, chunk by chunk."""
    return make_pieces(Clips(encoder, view), jobs)


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
