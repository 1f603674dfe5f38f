"""The bytes of a file of any medium: from a path, a locator, a file object, or as they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, ClassVar

from speechde.errors import DataError, unknown_value
from speechde.media.containers import read_member, split_locator


class MediaError(DataError):
    """A file of a medium that cannot be used; ``reason`` is one of ``REASONS``, made to be counted.

    A medium has a subclass, whose ``REASONS`` hold "missing file", "unreadable", "empty" and ``LARGE``.
    """

    REASONS: ClassVar[tuple[str, ...]] = ()
    MEDIUM: ClassVar[str] = ""  # what its files are called: "audio"
    LARGE: ClassVar[str] = ""  # the reason of a file of more than ``MAX_BYTES``
    MAX_BYTES: ClassVar[int] = 0

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in self.REASONS:
            raise unknown_value(f"{type(self).__name__}.reason", reason, self.REASONS)
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


def read_source(source: str | Path | bytes | BinaryIO, error: type[MediaError]) -> tuple[bytes, str]:
    """The bytes of a file, at least one, and what to call it.

    Args:
        source: a path, a locator ``CONTAINER::MEMBER`` (``media.containers``), the bytes, or a binary file object.
        error: what is raised, with the reason "missing file", "unreadable", "empty" or ``error.LARGE``.
    """
    if isinstance(source, bytes):
        data, name = source, f"{error.MEDIUM} bytes"
    elif isinstance(source, str | Path):
        data, name = _read_file(str(source), error), str(source)
    else:
        name = str(getattr(source, "name", f"{error.MEDIUM} file object"))
        data = source.read(error.MAX_BYTES + 1)
        if not isinstance(data, bytes):
            raise error("unreadable", f"{name} gives {type(data).__name__}; open the file with mode 'rb'")
    if not data:
        raise error("empty", f"{name} has no bytes")
    if len(data) > error.MAX_BYTES:
        raise _too_large(name, len(data), error)
    return data, name


def _read_file(name: str, error: type[MediaError]) -> bytes:
    try:
        if split_locator(name):
            return read_member(name)
        if (size := os.stat(name).st_size) > error.MAX_BYTES:
            raise _too_large(name, size, error)
        return Path(name).read_bytes()
    except FileNotFoundError as missing:
        raise error("missing file", name) from missing
    except MediaError:
        raise
    except (OSError, ValueError) as problem:  # ValueError: no possible name, and every DataError
        raise error("unreadable", str(problem)) from problem


def _too_large(name: str, size: int, error: type[MediaError]) -> MediaError:
    return error(error.LARGE, f"{name} has {size:,} bytes; at most {error.MAX_BYTES:,}")
