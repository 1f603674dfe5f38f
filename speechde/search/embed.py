"""Embedding many clips and texts into a file, in parts that survive a kill and may be shared among processes.

The inputs are cut into parts of ``PART`` items. A part is a file of vectors in the folder ``OUT.parts``, named by a
fingerprint of what it is made from: the model, and each item with the size and modification time of its clip. The same
command started again finds what is finished; when all parts are there, they are joined to ``OUT`` and removed.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from speechde.api import SpeechTextEncoder
from speechde.cache import fingerprint
from speechde.data.audio import AudioError, check_waveform
from speechde.data.inputs import read_clip
from speechde.errors import DataError
from speechde.models.embed import IN_PARTS
from speechde.search.items import Item
from speechde.search.vectors import FORMAT, Header, join, read_header, write_vectors
from speechde.types import SAMPLE_RATE, Dropped

PART = 256  # items that a kill can cost
HELD_SECONDS = 3600.0  # of decoded clips at once: 230 MB
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a job did: vectors written (of this shard alone, with a shard), and what was left out or noted."""

    out: Path
    vectors: int
    reused: int  # items whose part was there already
    dropped: list[Dropped]
    noted: list[Dropped]

    def dropped_counts(self) -> dict[str, int]:
        """How many items each reason dropped, most frequent first."""
        return dict(Counter(item.reason for item in self.dropped).most_common())


@dataclass(frozen=True)
class Embedded:
    """Items that could be used, their vectors ``(n, dim)`` and durations (None for texts), and what is to be told."""

    items: list[Item]
    vectors: np.ndarray
    seconds: list[float | None]
    dropped: list[Dropped]
    noted: list[Dropped]


def embed(encoder: SpeechTextEncoder, items: Sequence[Item]) -> Embedded:
    """Embed clips and texts, in order; clips that cannot be used are left out and listed."""
    dropped: list[Dropped] = []
    noted: list[Dropped] = []
    vectors = np.empty((len(items), encoder.dim), np.float32)
    seconds: dict[int, float | None] = {row: None for row, item in enumerate(items) if item.audio is None}
    if texts := list(seconds):
        vectors[texts] = encoder.encode_text([items[r].text for r in texts], [items[r].language for r in texts])
    for rows, waveforms in _decoded(items, dropped):
        names, languages = [items[row].id for row in rows], [items[row].language for row in rows]
        vectors[rows], parts = encoder.embed_waveforms(waveforms, languages, names)
        for row, waveform, count in zip(rows, waveforms, parts, strict=True):
            seconds[row] = length = len(waveform) / SAMPLE_RATE
            if count > 1:
                noted.append(Dropped(items[row].id, IN_PARTS, f"{length:.0f} s"))
    kept = sorted(seconds)
    return Embedded([items[row] for row in kept], vectors[kept], [seconds[row] for row in kept], dropped, noted)


def units_of(
    encoder: SpeechTextEncoder, items: Sequence[Item], dropped: list[Dropped]
) -> Iterator[tuple[str, np.ndarray]]:
    """Ids and units ``(time,)`` of clips, in order; those that cannot be used are added to ``dropped``.

    Raises:
        ConfigError: the model has no units.
        DataError: not one clip can be used.
    """
    encoder.units([])  # refuses a continuous model before anything is decoded
    found = 0
    for start in range(0, len(items), PART):
        part = items[start : start + PART]
        for rows, waveforms in _decoded(part, dropped):
            found += len(rows)
            units = encoder.units(waveforms, sampling_rate=SAMPLE_RATE)
            yield from zip([part[row].id for row in rows], units, strict=True)
    if not found:
        raise _none_usable(len(items), dropped)


def embed_items(
    encoder: SpeechTextEncoder,
    items: Sequence[Item],
    out: Path,
    *,
    model: str,
    dropped: Sequence[Dropped] = (),
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
) -> Report:
    """Write the vectors of ``items`` to ``out``, going on with what an interrupted call left.

    Args:
        model: name of the model, to be shown.
        dropped: what was left out before, to be listed with the rest.
        shard: (number, count): with a count above 1, only part i with i % count == number - 1, and ``out`` is not
            written. A call without it joins all, and embeds what is missing.
        overwrite: replace an ``out`` of other inputs.

    Raises:
        DataError: ``out`` was made from something else, or not one item can be used.
        OSError: a file cannot be written.
    """
    parts = [items[start : start + PART] for start in range(0, len(items), PART)]
    keys = [_key(encoder, part) for part in parts]
    job = fingerprint([keys, [[item.id, item.reason] for item in dropped]])
    if out.exists() and not overwrite:
        if _job(out) != job:
            raise DataError(f"{out} is there, made from other inputs or another model; name another file, or overwrite")
        return _report(out, [out], len(items))
    number, count = shard
    folder = out.with_name(f"{out.name}.parts")
    paths = {i: folder / f"{keys[i]}.parquet" for i in range(number - 1, len(parts), count)}
    missing = [i for i in paths if not paths[i].is_file()]
    left = sum(len(parts[i]) for i in missing)
    done = sum(len(parts[i]) for i in paths) - left
    if done:
        log.info("%d of %d items are there from an earlier call", done, done + left)
    with _progress() as bar:
        task = bar.add_task("embed", total=left)
        for i in missing:
            _embed_part(encoder, parts[i], paths[i], model)
            bar.advance(task, len(parts[i]))
    report = _report(out, list(paths.values()), done, dropped if count == 1 else ())
    if count > 1:
        return report
    if not report.vectors:
        shutil.rmtree(folder)
        raise _none_usable(len(items), report.dropped)
    join(list(paths.values()), out, Header(encoder.dim, model, encoder.fingerprint, job, report.dropped, report.noted))
    shutil.rmtree(folder)
    return report


def _none_usable(count: int, dropped: Sequence[Dropped]) -> DataError:
    counts = ", ".join(f"{reason}: {n}" for reason, n in Counter(item.reason for item in dropped).most_common())
    return DataError(
        f"none of {count} inputs could be used ({counts}); the first: {dropped[0].id}: {dropped[0].detail}"
    )


def _key(encoder: SpeechTextEncoder, part: Sequence[Item]) -> str:
    rows = [[item.id, item.language, item.text, item.audio, *_version(item)] for item in part]
    return fingerprint([FORMAT, encoder.fingerprint, str(encoder.dtype), rows])


def _version(item: Item) -> tuple[int, ...]:
    try:
        status = os.stat((item.audio or "").split("::")[0])
    except (OSError, ValueError):
        return ()
    return status.st_size, status.st_mtime_ns


def _job(out: Path) -> str:
    try:
        return read_header(out).job
    except DataError:
        return ""


def _report(out: Path, files: Sequence[Path], reused: int, dropped: Sequence[Dropped] = ()) -> Report:
    headers = [read_header(path) for path in files]
    every = [*dropped, *(item for header in headers for item in header.dropped)]
    noted = [item for header in headers for item in header.noted]
    return Report(out, sum(pq.read_metadata(path).num_rows for path in files), reused, every, noted)


def _embed_part(encoder: SpeechTextEncoder, part: Sequence[Item], path: Path, model: str) -> None:
    made = embed(encoder, part)
    header = Header(encoder.dim, model, encoder.fingerprint, dropped=made.dropped, noted=made.noted)
    rows = [
        {"id": item.id, "kind": item.kind, "language": item.language, "text": item.text, "audio": item.audio,
         "seconds": seconds}
        for item, seconds in zip(made.items, made.seconds, strict=True)
    ]  # fmt: skip
    write_vectors(path, header, rows, made.vectors)


def _decoded(items: Sequence[Item], dropped: list[Dropped]) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Rows and waveforms of the clips that can be used, a bounded amount at a time."""
    rows: list[int] = []
    waveforms: list[np.ndarray] = []
    for row, item in enumerate(items):
        if item.audio is None:
            continue
        try:
            waveform = check_waveform(read_clip(item.audio), max_seconds=np.inf)
        except AudioError as error:
            dropped.append(Dropped(item.id, error.reason, error.detail))
            continue
        rows.append(row)
        waveforms.append(waveform)
        if sum(map(len, waveforms)) > HELD_SECONDS * SAMPLE_RATE:
            yield rows, waveforms
            rows, waveforms = [], []
    if rows:
        yield rows, waveforms


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
