"""Speech features on disk: a store is a list of pieces, and a piece is a folder that is there whole or not at all.

A corpus of a thousand hours fits neither in memory nor in one file that a killed run could resume. Its clip list is
cut into pieces of at most ``PIECE`` clips of one language, each with one flat memory-mapped array (``values.npy``) and
an index (``index.json``). The name of a piece is a fingerprint of what produced it: encoder, view and its own clips. A
changed setting or clip makes new pieces and never reads stale ones, and what a killed run or another machine has
finished is found by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from speechde.cache import atomic_directory, fingerprint
from speechde.errors import AssetError
from speechde.types import Dropped

PIECE = 512  # clips; at 10 s each about 270 MB of frames (50 a second, 512 wide)
MAX_OPEN = 256  # memory maps kept, over all stores: each holds a file descriptor


class Piece:
    """One finished folder of a store."""

    def __init__(self, folder: Path) -> None:
        """Read the index of ``folder``.

        Raises:
            AssetError: its files are damaged.
            PermissionError: this user may not read them.
        """
        self.folder = Path(folder)
        try:
            self.index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            self.lengths = np.array(self.index["lengths"], dtype=np.int64)
            self.ids: list[str] = self.index["ids"]
            self.seconds: list[float] = self.index["seconds"]
            stored = len(self.map())
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(error) from error
        if self.rows != stored or not len(self.ids) == len(self.lengths) == len(self.seconds):
            raise self._damaged(f"{self.rows} rows of {len(self.ids)} clips indexed, {stored} stored")

    @staticmethod
    def finished(folder: Path) -> bool:
        """Whether ``folder`` is there: it appears whole, so its index says that its values are there too."""
        return (folder / "index.json").is_file()

    @staticmethod
    def write(folder: Path, parts: Sequence[np.ndarray], index: dict) -> None:
        """Make a piece of one array per clip, at least one array (an empty one where no clip could be used).

        Of several processes that write the same piece the first one wins, and the others drop theirs.
        """
        lengths = [len(part) for part in parts] if index["ids"] else []
        with atomic_directory(folder) as temporary:
            shape = (sum(lengths), *parts[0].shape[1:])
            values = np.lib.format.open_memmap(temporary / "values.npy", "w+", parts[0].dtype, shape)
            np.concatenate(parts, out=values)  # into the file: joined in memory they would be there twice
            values.flush()
            (temporary / "index.json").write_text(json.dumps(index | {"lengths": lengths}), encoding="utf-8")

    @property
    def key(self) -> str:
        """The fingerprint this piece is named by."""
        return self.folder.name

    @property
    def rows(self) -> int:
        """Frames or units of all clips together."""
        return int(self.lengths.sum())

    @property
    def starts(self) -> np.ndarray:
        """First row of each clip."""
        return np.cumsum(self.lengths) - self.lengths

    def map(self) -> np.memmap:
        """All rows, ``(rows, dim)`` float16 frames or ``(rows,)`` int32 units, memory-mapped anew."""
        return np.load(self.folder / "values.npy", mmap_mode="r")

    def parts(self) -> list[np.ndarray]:
        """The rows of each clip; one empty array where there is no clip, so that shape and type are known."""
        values = self.map()
        return [values[start : start + n] for start, n in zip(self.starts, self.lengths, strict=True)] or [values]

    def _damaged(self, what: object) -> AssetError:
        return AssetError(f"{self.folder} is damaged ({what}); delete it, and it will be made again")


_mapped = lru_cache(MAX_OPEN)(Piece.map)


class FeatureStore:
    """Arrays by utterance id: frames ``(time, dim)`` float16, or units ``(time,)`` int32; memory-mapped.

    Several pieces are read as one; where two hold an id, the first answers.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = list(pieces)
        self._span: dict[str, tuple[Piece, int, int]] = {}
        for piece in self.pieces:
            for id_, start, length in zip(piece.ids, piece.starts.tolist(), piece.lengths.tolist(), strict=True):
                self._span.setdefault(id_, (piece, start, start + length))

    @classmethod
    def open(cls, folders: Iterable[Path], quantiser: str | None = None) -> FeatureStore:
        """Open finished pieces as one store.

        Args:
            quantiser: the hash of the quantiser whose units are expected; None for frames.

        Raises:
            AssetError: a piece is damaged, or its units are those of another quantiser.
        """
        pieces = [Piece(folder) for folder in folders]
        for piece in pieces:
            if piece.index.get("quantiser") != quantiser:
                found, expected = (f"units of quantiser {hash_}" if hash_ else "frames"
                                   for hash_ in (piece.index.get("quantiser"), quantiser))  # fmt: skip
                raise AssetError(
                    f"{piece.folder} holds {found}, expected {expected}; use the quantiser of the model that the units "
                    "were made for, or delete the folder, and it will be made again"
                )
        return cls(pieces)

    @classmethod
    def merge(cls, stores: Iterable[FeatureStore]) -> FeatureStore:
        """Several stores read as one."""
        return cls(piece for store in stores for piece in store.pieces)

    def __getitem__(self, id_: str) -> np.ndarray:
        piece, start, stop = self._span[id_]
        return _mapped(piece)[start:stop]

    def __contains__(self, id_: str) -> bool:
        return id_ in self._span

    def __len__(self) -> int:
        return len(self._span)

    @property
    def ids(self) -> list[str]:
        """Every utterance, in the order of the rows."""
        return list(self._span)

    @property
    def key(self) -> str:
        """A fingerprint of what produced the store."""
        return fingerprint([piece.key for piece in self.pieces])

    @property
    def rows(self) -> int:
        """Frames or units of all clips together."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def dropped(self) -> list[Dropped]:
        """Clips that could not be used."""
        return [Dropped(*item) for piece in self.pieces for item in piece.index["dropped"]]

    @property
    def seconds(self) -> dict[str, float]:
        """Duration of each clip before trimming, by id."""
        return {i: s for piece in self.pieces for i, s in zip(piece.ids, piece.seconds, strict=True)}

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second when the pieces were made, one after another and decoding included."""
        made = [(sum(p.seconds), p.index["times_real_time"]) for p in self.pieces if p.index.get("times_real_time")]
        return sum(s for s, _ in made) / sum(s / speed for s, speed in made) if made else None

    def gather(self, ids: Iterable[str]) -> np.ndarray:
        """All rows of some utterances, one after another."""
        return np.concatenate([self[id_] for id_ in ids])

    def sample(self, count: int, seed: int) -> np.ndarray:
        """A seeded sample of ``count`` rows (or all), ``(count, dim)`` float32, in the order of the store.

        Rows are drawn over the whole store and read one memory map at a time; the cut into pieces does not matter.
        """
        chosen = np.random.default_rng(seed).choice(self.rows, min(count, self.rows), replace=False)
        chosen.sort()
        ends = np.cumsum([piece.rows for piece in self.pieces])
        parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
        return np.concatenate(
            [piece.map()[rows - (end - piece.rows)] for piece, rows, end in zip(self.pieces, parts, ends, strict=True)]
        ).astype(np.float32)
