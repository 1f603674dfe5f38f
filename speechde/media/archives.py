"""Tar archives read in place: listed once, and read member by member without extracting anything to disk.

Gzip cannot be sought in. A compressed archive is read forward through one open stream that all threads share, and
the members it passed lately are kept, up to ``RECENT_BYTES``. Reading in archive order, also by several threads
at once, therefore decompresses the archive once; asking for a member further back starts again from the front.

Names that would leave a folder, links, devices and sparse files are refused. ``tarfile`` ends silently at a damaged
header or a missing end marker; here these, a cut-off gzip stream and a wrong checksum are errors, and the members
before them stay usable.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from types import SimpleNamespace
from typing import BinaryIO, NamedTuple

from speechde.cache import atomic_write, fingerprint
from speechde.errors import DataError

COMPRESSED = (".tar.gz", ".tgz")
SUFFIXES = (".tar", *COMPRESSED)
RECENT_BYTES = 64 << 20  # members kept of one compressed archive; far more than threads run ahead of each other
_READ_BYTES = 1 << 18

_log = logging.getLogger(__name__)


class MissingMemberError(DataError, FileNotFoundError):
    """There is no such container, or no such member in it."""


@dataclass(frozen=True)
class ArchiveIndex:
    """What a tar archive holds.

    ``members`` maps the usable files, all of whose bytes are there, to their sizes in bytes, in archive order.
    ``refused`` maps the other names to the reason. ``damage`` says where a damaged archive ends; empty for a whole one.
    """

    members: dict[str, int]
    refused: dict[str, str]
    damage: str = ""


def list_members(archive: str | Path, cache_dir: str | Path) -> dict[str, int]:
    """``{name: size in bytes}`` of the usable members of a tar archive, in archive order; see ``index_archive``."""
    return index_archive(archive, cache_dir).members


def index_archive(archive: str | Path, cache_dir: str | Path) -> ArchiveIndex:
    """List a tar archive, reading all of it once; the list is kept in ``cache_dir`` until the archive changes.

    Raises:
        MissingMemberError: the archive does not exist.
        DataError: it is not a tar archive at all. A damaged one is listed as far as it goes.
    """
    path = Path(archive).absolute()
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{archive} is no archive that can be listed; allowed: {', '.join(SUFFIXES)}")
    key = fingerprint({"archive": str(path), "stamp": list(file_stamp(path))})
    cached = Path(cache_dir) / "archives" / f"{key}.json"
    try:
        return ArchiveIndex(**json.loads(cached.read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError) as error:
        _log.warning("%s is damaged (%s); %s is listed again", cached, error, path)
    index = _index(path)
    with atomic_write(cached) as temporary:
        temporary.write_text(json.dumps(asdict(index)), encoding="utf-8")
    return index


def file_stamp(path: str | Path) -> tuple[int, int, int]:
    """Size in bytes and the times of modification and of change in ns: the last tells of a file that was replaced.

    Raises ``MissingMemberError`` for a file that is not there.
    """
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        raise MissingMemberError(f"{path} cannot be read ({error})") from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def member_name(name: str) -> str:
    """A member's name as this module knows it, without ``./``; ``DataError`` for one that leaves the archive."""
    if refusal := _name_refusal(name):
        raise DataError(f"member {name!r} is {refusal}; members have relative names")
    return str(PurePosixPath(name))


class _Member(NamedTuple):
    name: str
    refusal: str  # why it is not read; empty for a file that can be
    offset: int  # where its bytes are in an uncompressed archive
    size: int
    data: bytes  # of a compressed archive's member


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged header, and the end of the file, for the end of the archive; only zeros mark that."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(f"damaged header: {error}") from error
        except tarfile.EmptyHeaderError as error:
            raise tarfile.ReadError("no end-of-archive marker") from error


def _walk(path: str | Path) -> Generator[_Member, None, None]:
    """Complete members in archive order, without directories. Raises ``DataError`` at the damage."""
    compressed = str(path).endswith(COMPRESSED)
    count = 0
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            end = 0 if compressed else os.fstat(file.fileno()).st_size
            # read1 hands out what was decompressed before the damage; read would lose it.
            source = SimpleNamespace(read=file.read1) if compressed else file
            mode = "r|" if compressed else "r:"
            with tarfile.open(fileobj=source, mode=mode, tarinfo=_StrictTarInfo, bufsize=_READ_BYTES) as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # tarfile keeps every header it has seen
                    if info.isdir():
                        continue
                    name, refusal, data = str(PurePosixPath(info.name)), _refusal(info), b""
                    if not refusal and compressed:
                        data = tar.extractfile(info).read()
                    elif not refusal and info.offset_data + info.size > end:
                        raise tarfile.ReadError(f"{name} is cut short")
                    count += 1
                    yield _Member(name, refusal, info.offset_data, info.size, data)
            while compressed and file.read(_READ_BYTES):  # gzip's checksum comes last
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path} is damaged or cut short after {count} members ({error}); fetch it again") from error


def _index(path: str | Path) -> ArchiveIndex:
    members: dict[str, int] = {}
    refused: dict[str, str] = {}
    damage = ""
    try:
        for member in _walk(path):
            if member.name in members:
                refused[member.name] = "a second file of this name, the first is used"
            elif member.refusal:
                refused[member.name] = member.refusal
            else:
                members[member.name] = member.size
    except DataError as error:
        if not members and not refused:
            raise
        damage = str(error)
    return ArchiveIndex(members, refused, damage)


def _refusal(info: tarfile.TarInfo) -> str:
    if not info.isreg():
        return "a link" if info.issym() or info.islnk() else "not a regular file"
    return "a sparse file" if info.issparse() else _name_refusal(info.name)


def _name_refusal(name: str) -> str:
    path = PurePosixPath(name)
    return "a path that leaves the archive" if path.is_absolute() or ".." in path.parts else ""


def _not_found(path: str, member: str, refusal: str, damage: DataError | None) -> DataError:
    if refusal:
        return DataError(f"{member!r} of {path} is {refusal}, which is not read; pack the file itself")
    if damage is not None:
        return DataError(f"{member!r}: {damage}")
    return MissingMemberError(f"{path} has no member {member!r}")


class PlainTar:
    """An uncompressed archive; members are sought. Safe to share between threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = Lock()
        self._file: BinaryIO | None = None

    def read(self, member: str) -> bytes:
        """The bytes of a member; ``MissingMemberError`` or ``DataError`` when it cannot be had."""
        with self._lock:
            if self._file is None:
                self._open()
            if member not in self._places:
                raise _not_found(self._path, member, self._refused.get(member, ""), self._damage)
            offset, size = self._places[member]
            self._file.seek(offset)
            return self._file.read(size)

    def _open(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._refused: dict[str, str] = {}
        self._damage: DataError | None = None
        try:
            for member in _walk(self._path):
                if member.refusal:
                    self._refused[member.name] = member.refusal
                else:
                    self._places.setdefault(member.name, (member.offset, member.size))
        except DataError as error:
            self._damage = error
        self._file = open(self._path, "rb")

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


class CompressedTar:
    """A gzip-compressed archive, read forward (see the module's text). Safe to share between threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = Lock()
        self._pass: _Pass | None = None
        self._passes = 0

    def read(self, member: str) -> bytes:
        """The bytes of a member; ``MissingMemberError`` or ``DataError`` when it cannot be had."""
        with self._lock:
            if self._pass is None or self._pass.is_beyond(member):
                self._close()
                self._pass = _Pass(self._path)
                self._passes += 1
                if self._passes == 3:
                    _log.warning("%s is read out of order, which is slow; sort the clips in archive order", self._path)
            return self._pass.read(member)

    def close(self) -> None:
        """Close the stream; the next read starts from the front."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._pass is not None:
            self._pass.stream.close()
        self._pass = None


class _Pass:
    """One pass over a compressed archive from its front, as far as it has been read."""

    def __init__(self, path: str) -> None:
        self.stream = _walk(path)
        self._path = path
        self._passed: dict[str, str] = {}  # name → refusal
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._damage: DataError | None = None

    def is_beyond(self, member: str) -> bool:
        """Whether the member's bytes were passed and are not kept any more."""
        return self._passed.get(member) == "" and member not in self._recent

    def read(self, member: str) -> bytes:
        if member in self._recent:
            return self._recent[member]
        if member not in self._passed and (data := self._advance(member)) is not None:
            return data
        raise _not_found(self._path, member, self._passed.get(member, ""), self._damage)

    def _advance(self, member: str) -> bytes | None:
        """Read on up to a member; None when it cannot be read or there is no more."""
        try:
            for name, refusal, _, _, data in self.stream:
                if name not in self._passed:  # of two files with one name, the first counts
                    self._passed[name] = refusal
                    if not refusal:
                        self._keep(name, data)
                    if name == member:
                        return None if refusal else data
        except DataError as error:
            self._damage = error
        return None

    def _keep(self, name: str, data: bytes) -> None:
        self._recent[name] = data
        self._recent_bytes += len(data)
        while self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])
