"""What makes the stored items of a model, frames or units and patches, as its folder states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """How clips become frames or units; those of training, and of everything a trained model hears.

    Args:
        encoder: name of the speech encoder (see ``speechde.weights.resolve``); the same one may lie elsewhere.
        encoder_key: what it is, whatever its name: ``SpeechEncoder.describe``.
        layer: of the encoder, whose output are the frames.
        rate: frames per second.
        trim_db: see ``View``.
        mean_norm: see ``View``.
        deduplicate: repeated units are merged (discrete models).
        bpe: tokens asked for of the byte-pair encoding of units; None: the units themselves.
    """

    medium: ClassVar[str] = "speech"
    rows: ClassVar[str] = "frames"  # that the encoder makes

    encoder: str
    encoder_key: dict
    layer: int
    rate: float
    trim_db: float
    deduplicate: bool
    mean_norm: float = 0.0
    bpe: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How pictures become patches.

    Args:
        encoder: name of the vision encoder; the same one may lie elsewhere.
        encoder_key: what it is, whatever its name: ``ImageEncoder.describe``.
    """

    medium: ClassVar[str] = "image"
    rows: ClassVar[str] = "patches"

    encoder: str
    encoder_key: dict


def less_dtype(encoder_key: Mapping[str, Any]) -> dict[str, Any]:
    """What an encoder is, but for the number format of its weights: features then differ by rounding."""
    return {key: value for key, value in encoder_key.items() if key != "dtype"}
