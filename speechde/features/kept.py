"""What has been encoded of a piece that is not whole: kept beside it, so that a process that is killed loses little.

The parts of ``FOLDER`` are pieces named ``FOLDER-part0``, ``FOLDER-partN``, …, where N is the number of members before
them; they go when ``FOLDER`` is there. A part may have parts of its own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechde.errors import AssetError
from speechde.features.store import Piece


@dataclass
class Made:
    """Members of a piece that have been encoded, or dropped; its length is their number.

    ``parts`` are rows ``(n, dim)`` float16 of each of ``ids``, ``took`` the seconds that they took.
    """

    ids: list[str] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    dropped: list[list[str]] = field(default_factory=list)
    took: float = 0.0

    @classmethod
    def kept(cls, folder: Path) -> Made:
        """What other starts have kept of the piece ``folder``, from its first member on; rows are not read yet."""
        made = cls()
        while Piece.finished(next_part := part(folder, len(made))):
            try:
                piece = Piece(next_part)
            except AssetError:  # another process has just made the piece and removed its parts, or a disk was full
                shutil.rmtree(next_part, ignore_errors=True)
                break
            parts = piece.parts() if piece.ids else []
            made.add(cls(piece.ids, parts, piece.seconds, piece.index["dropped"], piece.index["took"]))
        return made

    def __len__(self) -> int:
        return len(self.ids) + len(self.dropped)

    def add(self, other: Made) -> None:
        """Append the members of ``other``."""
        for name in ("ids", "parts", "seconds", "dropped"):
            getattr(self, name).extend(getattr(other, name))
        self.took += other.took

    def write(self, folder: Path, dim: int) -> None:
        """Make a piece of it; nothing is written where the folder is there already."""
        index = {"ids": self.ids, "seconds": self.seconds, "dropped": self.dropped, "took": self.took,
                 "times_real_time": sum(self.seconds) / self.took if self.took else 0.0}  # fmt: skip
        Piece.write(folder, self.parts or [np.zeros((0, dim), np.float16)], index)


def part(folder: Path, start: int) -> Path:
    """Where the part of a piece that starts at member ``start`` is kept until the piece is whole."""
    return folder.with_name(f"{folder.name}-part{start}")


def remove_parts(folder: Path) -> None:
    """Remove the parts of a piece, and theirs."""
    for kept in folder.parent.glob(f"{folder.name}-part*"):
        shutil.rmtree(kept, ignore_errors=True)
