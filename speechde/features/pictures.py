"""Patch tokens of pictures, made once per (picture, encoder); see ``pieces`` for how, and ``store`` for where.

A picture is known by its locator, and counts as its bytes, whatever its path and dates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechde.features.pieces import Contents, make_missing, refuse_empty
from speechde.features.store import PIECE, FeatureStore
from speechde.features.vision import ImageEncoder
from speechde.media import image
from speechde.media.image import ImageError, read_image

VERSION = 1  # raise it when encoders make other patches of the same pixels
CHUNK = 64  # pictures prepared ahead: 40 MB where they have 224 × 224 pixels


@dataclass(frozen=True)
class Picture:
    """A picture to encode; its id is its path, or its locator."""

    id: str


@dataclass(frozen=True)
class Pictures:
    """Pictures as a ``Medium``: decoded and prepared by threads, and encoded together."""

    encoder: ImageEncoder

    folder, called = "patches", "pictures"

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.encoder.dim

    @property
    def ahead(self) -> int:
        """See ``Medium``."""
        return CHUNK

    def describe(self) -> dict:
        """See ``Medium``."""
        return {"version": [VERSION, image.VERSION], "encoder": self.encoder.describe()}

    def locator(self, member: Picture) -> str:
        """See ``Medium``."""
        return member.id

    def read(self, member: Picture) -> Contents:
        """A picture as the encoder takes it, or why it is none; it has no seconds."""
        try:
            return member, self.encoder.prepare(read_image(member.id)), 0.0
        except ImageError as error:
            return member, error, 0.0

    def is_full(self, chunk: Sequence[Contents]) -> bool:
        """See ``Medium``."""
        return len(chunk) == CHUNK

    def batches(self, contents: list[Contents]) -> Iterator[list[Contents]]:
        """See ``Medium``; the encoder makes its own batches of a chunk."""
        yield contents

    def encode(self, batch: list[Contents]) -> list[np.ndarray]:
        """See ``Medium``."""
        return self.encoder.encode([prepared for _, prepared, _ in batch])


def extract_patches(
    pictures: Sequence[str], encoder: ImageEncoder, cache_dir: Path, label: str = "pictures"
) -> FeatureStore:
    """Patch tokens ``(patches, dim)`` of every readable picture, by its locator; from the cache when they are there.

    Args:
        pictures: paths or locators.
        label: of the progress bar.

    Raises:
        DataError: none of the pictures could be used; the message lists the first reasons.
    """
    members = [Picture(locator) for locator in dict.fromkeys(pictures)]
    medium, cut = Pictures(encoder), [members[start : start + PIECE] for start in range(0, len(members), PIECE)]
    folders = make_missing(medium, cut, cache_dir, label)
    refuse_empty(medium, folders, len(members))
    return FeatureStore.open(folders)


def patches_in_memory(pictures: Iterable[np.ndarray], encoder: ImageEncoder) -> list[np.ndarray]:
    """Pictures ``(height, width, 3)`` uint8 → patch tokens, those of a store of the same pictures."""
    return encoder.encode([encoder.prepare(picture) for picture in pictures])
