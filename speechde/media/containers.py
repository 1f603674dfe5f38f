"""Clips inside other files: the locator ``CONTAINER::MEMBER`` stands wherever a corpus would name an audio file.

A container is a tar archive (``.tar``, ``.tar.gz``, ``.tgz``) and the member a path inside it, or a Parquet file and
the member a row: ``3`` is row 3 of the column ``audio``, ``speech/3`` of the column ``speech``. That column holds
bytes, or a struct with a field ``bytes`` (the layout of Hugging Face datasets). A few containers stay open; read the
members of one in their own order, because a compressed archive and a Parquet row group are decoded from the front.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from speechde.errors import DataError, unknown_value
from speechde.media import archives
from speechde.media.archives import CompressedTar, MissingMemberError, PlainTar, file_stamp, list_members, member_name

__all__ = ["SUFFIXES", "MissingMemberError", "list_members", "locator", "read_member", "split_locator"]

SUFFIXES = (*archives.SUFFIXES, ".parquet")
MAX_OPEN = 4  # containers
ROW_GROUPS = 2  # decoded ones kept: at a border, one thread still reads the first while another is in the second
COLUMN = "audio"

# The shortest left side that ends like a container; the member may hold "::" itself.
_LOCATOR = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, SUFFIXES))}))::(.+)", re.DOTALL)


def locator(container: str | Path, member: str) -> str:
    """The locator of a member.

    Raises:
        DataError: the container has an unknown suffix, or the two could not be told apart again.
    """
    joined = f"{container}::{member}"
    match = _LOCATOR.fullmatch(joined)
    if not match or match.groups() != (str(container), member):
        raise DataError(
            f"{joined!r} is no locator: CONTAINER::MEMBER needs a container that ends in {', '.join(SUFFIXES)}, with "
            "no '::' after such a suffix in its own path, and a member name; rename the container"
        )
    return joined


def split_locator(audio: str) -> tuple[str, str] | None:
    """``(container, member)`` of a locator; None for a plain path, which every file that exists by that name is."""
    match = _LOCATOR.fullmatch(audio)
    return None if match is None or os.path.isfile(audio) else (match[1], match[2])


def read_member(audio: str) -> bytes:
    """The bytes of the member that a locator names. Safe to call from several threads.

    Raises:
        MissingMemberError: the container or the member does not exist.
        DataError: it is no locator, the container is damaged before the member, or the member is refused.
        PermissionError: this user may not read the container.
    """
    located = split_locator(audio)
    if located is None:
        raise DataError(f"{audio!r} is no locator; expected CONTAINER::MEMBER, the container {', '.join(SUFFIXES)}")
    container, member = located
    if not container.endswith(".parquet"):
        member = member_name(member)
    return _reader(container).read(member)


class _Parquet:
    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = Lock()
        self._file: pq.ParquetFile | None = None
        self._groups: OrderedDict[tuple[str, int], pa.ChunkedArray] = OrderedDict()

    def read(self, member: str) -> bytes:
        column, _, row = member.rpartition("/")
        column = column or COLUMN
        if not row.isdecimal():
            raise DataError(f"{member!r} of {self._path} is no row; a Parquet member is ROW or COLUMN/ROW, as audio/17")
        try:
            with self._lock:
                value = self._value(column, int(row))
        except (MissingMemberError, PermissionError):
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path} is damaged or no Parquet file ({error}); fetch it again") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DataError(f"row {row} of {self._path} has no bytes in column {column!r}; embed the audio in the file")
        return data

    def _value(self, column: str, row: int) -> object:
        if self._file is None:
            self._file = pq.ParquetFile(self._path)
            metadata = self._file.metadata
            self._ends = list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
        if column not in self._file.schema_arrow.names:
            raise unknown_value(f"column of {self._path}", column, self._file.schema_arrow.names)
        group = bisect_right(self._ends, row)
        if group == len(self._ends):
            raise MissingMemberError(f"{self._path} has no row {row}; it has {self._file.metadata.num_rows} rows")
        if (column, group) not in self._groups:
            if len(self._groups) >= ROW_GROUPS:
                self._groups.popitem(last=False)
            self._groups[column, group] = self._file.read_row_group(group, columns=[column]).column(0)
        return self._groups[column, group][row - (self._ends[group - 1] if group else 0)].as_py()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None
            self._groups.clear()


_Reader = CompressedTar | PlainTar | _Parquet
# By path, size and time, so that a replaced file is opened anew; the most recently used last.
_readers: OrderedDict[tuple, _Reader] = OrderedDict()
_readers_lock = Lock()


def _reader(container: str) -> _Reader:
    path = os.path.abspath(container)
    key = (path, *file_stamp(path))
    closing = []
    with _readers_lock:
        reader = _readers.pop(key, None)
        if reader is None:
            tar = CompressedTar if path.endswith(archives.COMPRESSED) else PlainTar
            reader = (_Parquet if path.endswith(".parquet") else tar)(path)
        _readers[key] = reader
        while len(_readers) > MAX_OPEN:
            closing.append(_readers.popitem(last=False)[1])
    for old in closing:  # a thread that still holds one opens it again
        old.close()
    return reader


def _forget() -> None:
    # A forked process shares file positions with its parent, and may have inherited a lock that nobody will release.
    global _readers_lock
    _readers_lock = Lock()
    _readers.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
