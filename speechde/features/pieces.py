"""Making the pieces of a store, whatever medium they are of; see ``store`` for how they are kept.

A piece is named by what its members, clips or pictures, hold: their bytes (``media.content``) and never their paths'
dates. Members are read by threads while the encoder works, chunk by chunk, so memory is bounded. A start makes the
pieces that are missing and no other. A chunk is kept beside its piece until the piece is whole, and of a slow encoder
the batches of a chunk until the chunk is (``kept``), so that a kill costs some seconds and not a piece; both are the
same however often a piece was started, and so are its bits. Pieces are independent of each other, so several processes
or machines that see one cache folder can share them out, and another engine than this process can make them
(``ray_extraction``).
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from speechde.cache import fingerprint
from speechde.errors import DataError
from speechde.features.kept import Made, part, remove_parts
from speechde.features.store import FeatureStore, Piece
from speechde.media.content import content_keys, is_known
from speechde.media.sources import MediaError
from speechde.progress import progress

KEEP_SECONDS = 20.0  # of encoding within a chunk after which its batches are kept: with one batch, what a kill can cost


class Member(Protocol):
    """What a piece is of: an utterance, or a picture."""

    id: str


Contents = tuple[Any, Any, float]  # a member, what it holds (or the MediaError that says why not), its seconds


@dataclass(frozen=True)
class Job:
    """A piece to make: its folder and its members."""

    folder: Path
    members: Sequence[Member]


class Medium(Protocol):
    """How the members of a piece are read and encoded."""

    folder: str  # below the cache
    called: str  # what its members are called
    dim: int  # width of a row

    def describe(self) -> dict:
        """Everything that determines the rows but for the members, JSON-able."""
        ...

    def locator(self, member: Any) -> str:
        """The path or locator of a member."""
        ...

    def read(self, member: Any) -> Contents:
        """Read one member; several threads do at once."""
        ...

    def is_full(self, chunk: Sequence[Contents]) -> bool:
        """Whether a chunk ends here; ``ahead`` members at most are one."""
        ...

    @property
    def ahead(self) -> int:
        """Members that are read before they are encoded."""
        ...

    def batches(self, contents: list[Contents]) -> Iterator[list[Contents]]:
        """What was read of a chunk as what is encoded together, in any order that depends on the chunk alone."""
        ...

    def encode(self, batch: list[Contents]) -> list[np.ndarray]:
        """Rows ``(n, dim)`` float16 of each member of a batch."""
        ...


# Makes pieces; yields the number of members done, as they are.
Make = Callable[[Sequence[Job]], Iterator[int]]


def make_missing(
    medium: Medium, cut: Sequence[Sequence[Member]], cache_dir: Path, label: str, make: Make | None = None
) -> list[Path]:
    """Folders of the pieces that have these members; those that are missing are made.

    Args:
        label: of the progress bar.
        make: makes the pieces that are missing; None makes them in this process.
    """
    jobs = _jobs(medium, cut, Path(cache_dir), label)
    missing = [job for job in jobs if not Piece.finished(job.folder)]
    if missing:
        total = sum(len(job.members) for job in jobs)
        left = sum(len(job.members) - len(Made.kept(job.folder)) for job in missing)
        with progress(label, total, medium.called, done=total - left) as advance:
            for done in make(missing) if make else make_pieces(medium, missing):
                advance(done)
    return [job.folder for job in jobs]


def refuse_empty(medium: Medium, folders: Sequence[Path], count: int) -> None:
    """Refuse pieces in which not one of ``count`` members could be used, and forget them.

    Raises:
        DataError: with the first reasons.
    """
    if any(Piece(folder).ids for folder in folders):
        return
    dropped = FeatureStore.open(folders).dropped
    for folder in folders:  # a repaired installation would find them and not try again
        shutil.rmtree(folder)
    reasons = "; ".join(f"{d.id}: {d.reason} {d.detail}" for d in dropped[:3])
    raise DataError(f"none of {count} {medium.called} could be used ({reasons}); check their paths and files")


def make_pieces(medium: Medium, jobs: Sequence[Job]) -> Iterator[int]:
    """Make pieces in this process; yields the number of members done, chunk by chunk.

    What an earlier start has kept of a piece is neither encoded nor counted again.
    """
    kept = deque(Made.kept(job.folder) for job in jobs)
    left = [(job, member) for job, made in zip(jobs, kept, strict=True) for member in job.members[len(made) :]]
    chunks = _read(medium, left)
    for job in jobs:
        made = kept.popleft()
        while len(made) < len(job.members):
            chunk, folder = next(chunks), part(job.folder, len(made))
            new = _encoded(medium, chunk, folder)
            if len(made) + len(new) < len(job.members):
                new.write(folder, medium.dim)
                remove_parts(folder)
            made.add(new)
            yield len(chunk)
        made.write(job.folder, medium.dim)
        remove_parts(job.folder)


def _encoded(medium: Medium, chunk: Sequence[Contents], folder: Path) -> Made:
    """Encode a chunk, batch by batch; what took ``KEEP_SECONDS`` is kept beside ``folder``, and not encoded again."""
    made, new, start = Made.kept(folder), Made(), time.perf_counter()
    before = len(made)
    batches = deque(medium.batches([one for one in chunk if not isinstance(one[1], MediaError)]))
    while batches:
        batch = batches.popleft()
        if before:  # batches depend on the chunk alone, and are kept whole
            before -= len(batch)
            continue
        new.parts += medium.encode(batch)
        new.ids += [member.id for member, _, _ in batch]
        new.seconds += [seconds for _, _, seconds in batch]
        new.took = time.perf_counter() - start
        if not batches or new.took >= KEEP_SECONDS:
            if batches:
                new.write(part(folder, len(made)), medium.dim)
            made.add(new)
            new, start = Made(), time.perf_counter()
    made.dropped = [[member.id, e.reason, e.detail] for member, e, _ in chunk if isinstance(e, MediaError)]
    return made


def _jobs(medium: Medium, cut: Sequence[Sequence[Member]], cache_dir: Path, label: str) -> list[Job]:
    """A job for each piece; its name needs the bytes of its members, which a first run reads and later ones know."""
    located = [[medium.locator(member) for member in members] for members in cut]
    unread = [locators for locators in located if not is_known(locators, cache_dir)]
    if unread:
        with progress(f"{label}: names", len(cut), "pieces", done=len(cut) - len(unread)) as advance:
            for locators in unread:
                content_keys(locators, cache_dir)
                advance(1)
    described = medium.describe()
    jobs = []
    for members, locators in zip(cut, located, strict=True):
        contents = zip(members, content_keys(locators, cache_dir), strict=True)
        key = fingerprint(described | {medium.called: [[member.id, *content] for member, content in contents]})
        jobs.append(Job(cache_dir / medium.folder / key, members))
    return jobs


def _read(medium: Medium, members: Iterable[tuple[Job, Member]]) -> Iterator[list[Contents]]:
    """Members of each chunk, as they are read; those that follow are read meanwhile.

    A chunk has members of one job, in order. Where it ends depends on them alone.
    """
    with ThreadPoolExecutor(2) as pool:
        ahead = ((job, pool.submit(medium.read, member)) for job, member in members)
        pending, chunk = deque(islice(ahead, medium.ahead)), []
        while pending:
            job, future = pending.popleft()
            pending.extend(islice(ahead, 1))
            chunk.append(future.result())
            ends = not pending or pending[0][0] is not job
            if ends or medium.is_full(chunk):
                yield chunk
                chunk = []
