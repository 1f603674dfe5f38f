"""Names and safe writes for everything that is computed once and kept on disk.

A cached file is addressed by *what produced it* (input hash + configuration + weights hash), never by a date or a run
name, so that a changed setting can only miss the cache and never read a stale entry. Writers go through a temporary
name in the same folder followed by a rename: a reader sees a whole file or none, also after a crash or with several
processes writing the same entry.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from speechde.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


def cache_root() -> Path:
    """Folder of all cached files: ``SPEECHDE_CACHE``, else ``XDG_CACHE_HOME/speechde``, else ``~/.cache/speechde``.

    Raises:
        ConfigError: it lies in the home directory of a user who has none.
    """
    if own := os.environ.get("SPEECHDE_CACHE"):
        return expanded(own)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "speechde"


def expanded(path: str | Path) -> Path:
    """A path with ``~`` or ``~USER`` at its start replaced by that home directory.

    Raises:
        ConfigError: there is none (``HOME`` is not set, in a container or a service, say).
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{path} begins with a home directory that is not known; give the whole path, or set HOME (the cache: "
            "SPEECHDE_CACHE=FOLDER, or cache_dir=FOLDER)"
        ) from error


def fingerprint(obj: object) -> str:
    """16 hex digits that name ``obj``: nested dicts (string keys), lists, strings, numbers, booleans and None.

    Key order does not matter; ``1`` and ``1.0`` differ. Raises ``TypeError`` for any other type and ``ValueError``
    for NaN or infinity, because a key that cannot be reproduced must not name a cache entry.
    """
    _check_keys(obj)
    canonical = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; it replaces ``path`` when the block succeeds.

    Parent folders are made. When the block raises, the temporary file is removed and ``path`` is untouched. The file
    gets the mode that ``open`` would give it, whatever wrote it: safetensors makes files that only their owner reads.
    """
    path = Path(path)
    if path.is_dir():  # said before the work and not after it
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = _temporary(path)
    mode = _mode_of_open(temporary)
    try:
        yield temporary
        _set_mode(temporary, path.stat().st_mode if path.exists() else mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``path``; it becomes ``path`` when the block succeeds.

    When ``path`` already holds files, those stay and the new ones are dropped: entries are addressed by what made
    them, so whichever process finished first wrote the same content. With ``replace`` they go, once the new ones are
    whole. When the block raises, nothing is left behind. Files get the mode that ``open`` would give them.
    """
    path = Path(path)
    temporary, before = _temporary(path), _temporary(path)
    mode = _mode_of_open(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for file in [file for file in temporary.rglob("*") if file.is_file()]:
            _set_mode(file, mode)
        try:
            if replace and path.is_dir():
                os.replace(path, before)
            os.replace(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        if before.is_dir() and not path.exists():
            os.replace(before, path)
        for folder in (temporary, before):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def atomic_rows(path: str | Path, dim: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends ``(n, dim)`` float32 rows to the file ``path``, an ordinary ``.npy``.

    The number of rows need not be known before, and no more of them than one call brings are in memory. Rows are
    written and not mapped, so that a full disk is an ``OSError`` and not a crash. As ``atomic_write`` otherwise.
    """
    import numpy as np  # the command line starts faster without

    count = 0

    def write_header() -> int:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()

    def append(rows: np.ndarray) -> None:
        nonlocal count
        np.ascontiguousarray(rows, "<f4").tofile(file)
        count += len(rows)

    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        start = write_header()
        yield append
        if write_header() != start:  # numpy leaves room for the number of rows to grow
            raise RuntimeError("the header of a .npy has changed its length")


def check_readable(*paths: str | Path) -> None:
    """Raise ``PermissionError`` for the first that is there and that this user may not read.

    For what is about to be called damaged: safetensors says of such a file that it does not exist, others that they
    cannot decode it.
    """
    for path in paths:
        with suppress(FileNotFoundError, IsADirectoryError):
            open(path, "rb").close()


def _mode_of_open(path: Path) -> int:
    # the umask cannot be read without setting it, for all threads
    with open(path, "xb") as file:
        mode = os.fstat(file.fileno()).st_mode
    path.unlink()
    return mode


def _set_mode(path: Path, mode: int) -> None:
    if path.stat().st_mode != mode:  # not every file system lets its modes be set
        path.chmod(stat.S_IMODE(mode))


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because some writers (numpy) append their own when it is missing.
    return path.with_name(f".tmp-{uuid.uuid4().hex[:12]}-{path.name}")


def _check_keys(obj: object) -> None:
    # json turns the key 1 into "1", which would give two different objects one fingerprint.
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"fingerprint: dictionary key {key!r} is not a string; convert it first")
            _check_keys(value)
    elif isinstance(obj, (list, tuple)):
        for item in obj:
            _check_keys(item)
