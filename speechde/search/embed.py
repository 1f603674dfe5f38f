"""Embedding many clips, texts and pictures into a file, in parts that survive a kill and may be shared among processes.

The inputs are cut into parts of ``PART`` items, each with a key: a fingerprint of what it is made from, the model, and
each item with the hash of its file's bytes. A part is made block by block, and a block ends where it has
``BLOCK_SECONDS`` of audio or ``BLOCK_PIXELS`` of pictures. It is a file of vectors in the folder ``OUT.parts``, named
by the key and by the items of the part that it covers. The same command started again finds what is finished, and goes
on to the same bits; when all blocks are there, they are joined to ``OUT`` and removed.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from speechde.api import SpeechTextEncoder
from speechde.cache import cache_root, fingerprint
from speechde.errors import DataError
from speechde.media import audio, image
from speechde.media.audio import AudioError, check_waveform
from speechde.media.content import content_keys
from speechde.media.image import ImageError, read_image
from speechde.media.inputs import read_clip
from speechde.models.embed import IN_PARTS
from speechde.progress import progress
from speechde.search.items import Item
from speechde.search.vectors import FORMAT, Header, join, read_header, write_vectors
from speechde.text import storable
from speechde.types import SAMPLE_RATE, Dropped, Image
from speechde.types import Item as Parts

PART = 256  # items; shards are made of whole parts
BLOCK_SECONDS = 240.0  # of decoded clips at once: 15 MB, and some seconds of work, which is what a kill can cost
BLOCK_PIXELS = 1 << 24  # of decoded pictures at once: 50 MB
BLIND = "the model reads no pictures"
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

    def __len__(self) -> int:
        """The items that it answers for."""
        return len(self.items) + len(self.dropped)


def embed(encoder: SpeechTextEncoder, items: Sequence[Item], prompt: str | None = None) -> Embedded:
    """Embed clips, texts and pictures, in order; files that cannot be used are left out and listed."""
    every = list(embed_blocks(encoder, items, prompt))
    vectors = np.concatenate([np.empty((0, encoder.dim), np.float32), *(block.vectors for block in every)])
    lists = {name: [one for block in every for one in getattr(block, name)] for name in
             ("items", "seconds", "dropped", "noted")}  # fmt: skip
    return Embedded(vectors=vectors, **lists)


def embed_blocks(encoder: SpeechTextEncoder, items: Sequence[Item], prompt: str | None = None) -> Iterator[Embedded]:
    """As ``embed``, block by block; where one ends depends on the items alone."""
    sees = "image" in encoder.trained.model.frontends
    for block, waveforms, pictures, dropped in _blocks(items, sees):
        vectors = np.empty((len(block), encoder.dim), np.float32)
        languages, names = [item.language for item in block], [item.id for item in block]
        noted = []
        if texts := [row for row, item in enumerate(block) if item.file is None]:
            written = [block[row].text for row in texts], [languages[row] for row in texts]
            vectors[texts] = encoder.encode_text(*written, prompt=prompt)
        if pictures:
            seen = [Parts(Image(pixels), lang=languages[row]) for row, pixels in pictures.items()]
            vectors[list(pictures)] = encoder.embed(seen, prompt=prompt)
        if rows := list(waveforms):
            own = [languages[row] for row in rows], [names[row] for row in rows]
            vectors[rows], parts = encoder.embed_waveforms(list(waveforms.values()), *own, prompt)
            noted = [
                Dropped(names[row], IN_PARTS, f"{len(waveforms[row]) / SAMPLE_RATE:.0f} s")
                for row, count in zip(rows, parts, strict=True)
                if count > 1
            ]
        seconds = {row: len(waveform) / SAMPLE_RATE for row, waveform in waveforms.items()}
        kept = sorted([*texts, *rows, *pictures])
        yield Embedded([block[row] for row in kept], vectors[kept], list(map(seconds.get, kept)), dropped, noted)


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
    for block, waveforms, _, bad in _blocks(items, sees=False):
        dropped += bad
        found += len(waveforms)
        units = encoder.units(list(waveforms.values()), sampling_rate=SAMPLE_RATE)
        yield from zip([block[row].id for row in waveforms], units, strict=True)
    if not found:
        raise _none_usable(len(items), dropped)


@dataclass(frozen=True)
class Part:
    """What is missing of a part: its items from number ``start`` on, and its key."""

    key: str
    items: Sequence[Item]
    start: int


# Parts, the folder of their files, and the model's name and prompt → the number of items done, as they are.
Make = Callable[[Sequence[Part], Path, str, str | None], Iterator[int]]


def make_parts(
    encoder: SpeechTextEncoder, parts: Sequence[Part], folder: Path, model: str, prompt: str | None
) -> Iterator[int]:
    """Embed parts in this process, a file for each block of theirs; yields the number of items of each."""
    for part in parts:
        start = part.start
        for made in embed_blocks(encoder, part.items, prompt):
            _write(encoder, made, folder / f"{part.key}-{start}-{start + len(made)}.parquet", model)
            start += len(made)
            yield len(made)


def embed_items(
    encoder: SpeechTextEncoder,
    items: Sequence[Item],
    out: Path,
    *,
    model: str,
    prompt: str | None = None,
    dropped: Sequence[Dropped] = (),
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    make: Make | None = None,
) -> Report:
    """Write the vectors of ``items`` to ``out``, going on with what an interrupted call left.

    Args:
        model: name of the model, to be shown.
        prompt: name of one of its prompts in the place of prefixes.
        dropped: what was left out before, to be listed with the rest.
        shard: (number, count): with a count above 1, only part i with i % count == number - 1, and ``out`` is not
            written. A call without it joins all, and embeds what is missing.
        overwrite: replace an ``out`` of other inputs.
        make: embeds the parts that are missing; None does so in this process.

    Raises:
        DataError: ``out`` was made from something else, or not one item can be used.
        OSError: a file cannot be written.
    """
    parts = [items[start : start + PART] for start in range(0, len(items), PART)]
    keys = []
    with progress("names", len(parts), "parts") as advance:  # the first time, every clip is read for its name
        for part in parts:
            keys.append(_key(encoder, part, prompt))
            advance(1)
    job = fingerprint([keys, [[item.id, item.reason] for item in dropped]])
    if out.exists() and not overwrite:
        if _job(out) != job:
            raise DataError(f"{out} is there, made from other inputs or another model; name another file, or overwrite")
        return _report(out, [out], len(items))
    number, count = shard
    folder = out.with_name(f"{out.name}.parts")
    chosen = range(number - 1, len(parts), count)
    files, covered = _there(folder, {i: keys[i] for i in chosen})
    done, total = sum(covered.values()), sum(len(parts[i]) for i in chosen)
    if done:
        log.info("%d of %d items are there from an earlier call", done, total)
    missing = [Part(keys[i], parts[i][covered[i] :], covered[i]) for i in chosen if covered[i] < len(parts[i])]
    if missing:
        with progress("embed", total, "items", done=done) as advance:
            for count_done in (make or partial(make_parts, encoder))(missing, folder, model, prompt):
                advance(count_done)
        files, covered = _there(folder, {i: keys[i] for i in chosen})
    if out.exists() and not folder.is_dir() and _job(out) == job:  # another process was the first to finish
        return _report(out, [out], done)
    paths = [path for i in chosen for path in files[i]]
    report = _report(out, paths, done, dropped if count == 1 else ())
    if count > 1:
        return report
    if not report.vectors:
        shutil.rmtree(folder)
        raise _none_usable(len(items), report.dropped)
    join(paths, out, Header(encoder.dim, model, encoder.fingerprint, job, report.dropped, report.noted))
    shutil.rmtree(folder)
    return report


def _none_usable(count: int, dropped: Sequence[Dropped]) -> DataError:
    counts = ", ".join(f"{reason}: {n}" for reason, n in Counter(item.reason for item in dropped).most_common())
    return DataError(
        f"none of {count} inputs could be used ({counts}); the first: {dropped[0].id}: {dropped[0].detail}"
    )


def _key(encoder: SpeechTextEncoder, part: Sequence[Item], prompt: str | None) -> str:
    contents = iter(content_keys([item.file for item in part if item.file is not None], cache_root()))
    rows = [
        [item.id, item.language, item.text, item.file, next(contents) if item.file is not None else None,
         *([] if item.image is None else [item.kind, image.VERSION])]
        for item in part
    ]  # fmt: skip
    asked = [prompt] if prompt else []
    return fingerprint([FORMAT, audio.VERSION, encoder.fingerprint, str(encoder.dtype), rows, *asked])


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


def _there(folder: Path, keys: Mapping[int, str]) -> tuple[dict[int, list[Path]], dict[int, int]]:
    """Of each part the files of its blocks, from its first item on, and the items that they cover."""
    blocks = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := re.fullmatch(r"(\w+)-(\d+)-(\d+)\.parquet", path.name):
            blocks[match[1], int(match[2])] = path, int(match[3])
    files: dict[int, list[Path]] = {part: [] for part in keys}
    covered = dict.fromkeys(keys, 0)
    for part, key in keys.items():
        while (key, covered[part]) in blocks:
            path, covered[part] = blocks[key, covered[part]]
            files[part].append(path)
    return files, covered


def _write(encoder: SpeechTextEncoder, made: Embedded, path: Path, model: str) -> None:
    header = Header(encoder.dim, model, encoder.fingerprint, dropped=made.dropped, noted=made.noted)
    rows = [
        {"id": item.id, "kind": item.kind, "language": item.language, "text": item.text,
         "audio": item.audio and storable(item.audio), "image": item.image and storable(item.image),
         "seconds": seconds}
        for item, seconds in zip(made.items, made.seconds, strict=True)
    ]  # fmt: skip
    write_vectors(path, header, rows, made.vectors)


def _blocks(
    items: Sequence[Item], sees: bool
) -> Iterator[tuple[Sequence[Item], dict[int, np.ndarray], dict[int, np.ndarray], list[Dropped]]]:
    """Consecutive items, the waveforms and the pixels of their files by row, and the files that cannot be used."""
    start, filled = 0, 0.0
    waveforms: dict[int, np.ndarray] = {}
    pictures: dict[int, np.ndarray] = {}
    dropped: list[Dropped] = []
    for row, item in enumerate(items):
        try:
            if item.audio is not None:
                waveforms[row - start] = waveform = check_waveform(read_clip(item.audio), max_seconds=np.inf)
                filled += len(waveform) / SAMPLE_RATE / BLOCK_SECONDS
            elif item.image is not None and sees:
                pictures[row - start] = pixels = read_image(item.image)
                filled += pixels.size / 3 / BLOCK_PIXELS
            elif item.image is not None:
                dropped.append(Dropped(item.id, BLIND))
        except (AudioError, ImageError) as error:
            dropped.append(Dropped(item.id, error.reason, storable(error.detail)))
        if filled >= 1 or row == len(items) - 1:
            yield items[start : row + 1], waveforms, pictures, dropped
            start, filled, waveforms, pictures, dropped = row + 1, 0.0, {}, {}, []
