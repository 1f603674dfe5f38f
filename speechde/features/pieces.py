"""Making the pieces of a store, whatever medium they are of; see ``store`` for how they are kept.

A piece is named by what its members, clips or pictures, hold: their bytes (``media.content``) and never their paths'
dates. Members are read by threads while the encoder works, chunk by chunk, so memory is bounded. A start makes the
pieces that are missing and no other. A chunk is kept beside its piece until the piece is whole, so that a kill costs
some seconds and not a piece; the chunks of a piece are the same however often it was started, and so are its bits.
Pieces are independent of each other, so several processes or machines that see one cache folder can share them out, and
another engine than this process can make them (``ray_extraction``).
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from speechde.cache import fingerprint
from speechde.errors import AssetError, DataError
from speechde.features.store import FeatureStore, Piece
from speechde.media.content import content_keys, is_known
from speechde.media.sources import MediaError
from speechde.progress import progress


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

    def encode(self, contents: list[Contents]) -> Iterator[tuple[Any, np.ndarray, float]]:
        """Member, rows ``(n, dim)`` float16 and seconds of each, in any order that depends on them alone."""
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
        left = sum(len(job.members) - len(_Made.kept(job.folder)) for job in missing)
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
    kept = deque(_Made.kept(job.folder) for job in jobs)
    left = [(job, member) for job, made in zip(jobs, kept, strict=True) for member in job.members[len(made) :]]
    chunks = _read(medium, left)
    for job in jobs:
        made = kept.popleft()
        while len(made) < len(job.members):
            new, start = _Made(), time.perf_counter()
            chunk = next(chunks)
            good = [one for one in chunk if not isinstance(one[1], MediaError)]
            new.dropped = [[member.id, e.reason, e.detail] for member, e, _ in chunk if isinstance(e, MediaError)]
            for member, rows, seconds in medium.encode(good):
                new.ids.append(member.id)
                new.parts.append(rows)
                new.seconds.append(seconds)
            new.took = time.perf_counter() - start
            if len(made) + len(new) < len(job.members):
                new.write(_part(job.folder, len(made)), medium.dim)
            made.add(new)
            yield len(chunk)
        made.write(job.folder, medium.dim)
        for folder in job.folder.parent.glob(f"{job.folder.name}-part*"):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Made:
    """Members of a piece that have been encoded, or dropped; its length is their number."""

    ids: list[str] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: list[list[str]] = field(default_factory=list)
    took: float = 0.0

    @classmethod
    def kept(cls, folder: Path) -> _Made:
        """What other starts have kept of the piece ``folder``, from its first member on; rows are not read yet."""
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
    """Where the chunk of a piece that starts at member ``start`` is kept until the piece is whole."""
    return folder.with_name(f"{folder.name}-part{start}")


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
