"""Warnings of C libraries kept off the user's screen while a clip is decoded.

libmpg123, inside libsndfile, writes to C's ``stderr`` about damaged frames, and its caller has no way to turn that off.
What it says is in no error message and names no clip. Only C's stream is turned away, and only meanwhile: Python writes
to file descriptor 2 itself, so progress bars and messages of other threads are not lost.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_NAMES = ("stderr", "__stderrp")  # of the variable in C libraries of Linux and macOS


class _Stderr:
    """C's variable ``stderr``, and how many threads want it turned away."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._depth = 0
        self._variable: ctypes.c_void_p | None = None
        self._own = self._nowhere = None
        try:
            libc = ctypes.CDLL(None)
            libc.fopen.restype = ctypes.c_void_p
            libc.fopen.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
            name = next(name for name in _NAMES if hasattr(libc, name))
            self._nowhere = libc.fopen(os.devnull.encode(), b"w")
            if self._nowhere:
                self._variable = ctypes.c_void_p.in_dll(libc, name)
                self._own = self._variable.value
        except (OSError, TypeError, AttributeError, StopIteration):
            pass  # another C library, as on Windows: its warnings stay

    def shift(self, by: int) -> None:
        if self._variable is None:
            return
        with self._lock:
            self._depth += by
            self._variable.value = self._nowhere if self._depth else self._own

    def after_fork(self) -> None:
        # The lock may be held, and the stream turned away, by a thread that the child does not have.
        self._lock, self._depth = Lock(), 0
        self.shift(0)


_stderr = _Stderr()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_stderr.after_fork)


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, C libraries write nothing to ``stderr``. For any number of threads."""
    _stderr.shift(1)
    try:
        yield
    finally:
        _stderr.shift(-1)
