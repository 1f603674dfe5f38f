"""Bounds-checked reading of little-endian binary files.

Checkpoint files come from outside, so every length in them is untrusted: a read past the end is an ``AssetError``
that names the file and the position, never a slice that is silently short.
"""

from __future__ import annotations

import struct
from pathlib import Path

from speechde.errors import AssetError


class Reader:
    """A cursor over the bytes of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = memoryview(path.read_bytes())
        self.position = 0

    def at(self, start: int, length: int) -> memoryview:
        """``length`` bytes from absolute position ``start``; the cursor does not move."""
        if start < 0 or length < 0 or start + length > len(self.data):
            raise self.error(f"{length} bytes at position {start} reach past the end ({len(self.data)} bytes)")
        return self.data[start : start + length]

    def take(self, length: int) -> memoryview:
        """The next ``length`` bytes."""
        block = self.at(self.position, length)
        self.position += length
        return block

    def unpack(self, layout: str) -> tuple:
        """The next values, packed little-endian without padding as ``struct`` codes say."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def text(self, length: int) -> str:
        """The next ``length`` bytes as UTF-8 text."""
        try:
            return bytes(self.take(length)).decode()
        except UnicodeDecodeError as error:
            raise self.error(f"the text at position {self.position - length} is not UTF-8") from error

    def error(self, problem: str) -> AssetError:
        """The error for a file that cannot be what it claims to be."""
        return AssetError(f"{self.path.name} is damaged or of another format: {problem}. Fetch it again.")
