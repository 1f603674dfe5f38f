"""Speech encoders: one Protocol, an allow-list of architectures, and pooling of frames to a lower rate.

Any encoder that transformers can run is a row of ``ENCODERS`` away, but only architectures whose rows of the table in
tests/unit/features/test_pretrained.py pass are read: most of them let padding or neighbours leak into frames
somewhere, and a wrong frame looks like any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from speechde.errors import ConfigError, unknown_value
from speechde.features.pretrained import (
    Data2VecFrames,
    Gemma3nFrames,
    Gemma4Frames,
    ParakeetFrames,
    Wav2Vec2BertFrames,
    Wav2Vec2Frames,
)
from speechde.features.whisper import WhisperFrames
from speechde.features.windows import fast_dtype
from speechde.weights.folder import check_folder

__all__ = ["ENCODERS", "SpeechEncoder", "WhisperFrames", "fast_dtype", "load_speech_encoder", "pool_frames",
           "pooling_factor"]  # fmt: skip


class SpeechEncoder(Protocol):
    """What the feature stage needs from a speech encoder."""

    rate: float  # frames per second
    dim: int  # width of a frame

    def describe(self) -> dict:
        """Everything that determines the frames, JSON-able; part of the cache key."""
        ...

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """16 kHz mono waveforms → one ``(frames, dim)`` float16 array each."""
        ...


ENCODERS = {
    "whisper": WhisperFrames,
    "wav2vec2": Wav2Vec2Frames,  # XLS-R and MMS too
    "hubert": Wav2Vec2Frames,
    "wavlm": Wav2Vec2Frames,
    "data2vec-audio": Data2VecFrames,
    "wav2vec2-bert": Wav2Vec2BertFrames,  # w2v-BERT 2.0
    "parakeet_encoder": ParakeetFrames,
    "parakeet_ctc": ParakeetFrames,
    "parakeet_rnnt": ParakeetFrames,
    "parakeet_tdt": ParakeetFrames,
    "gemma3n": Gemma3nFrames,
    "gemma3n_audio": Gemma3nFrames,
    "gemma4": Gemma4Frames,
    "gemma4_audio": Gemma4Frames,
    "embedding_gemma2": Gemma4Frames,
}


def load_speech_encoder(
    folder: str | Path, layer: int = -1, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> SpeechEncoder:
    """The speech encoder in ``folder``, a checkpoint in transformers layout, alone or as part of a larger model.

    Args:
        folder: holds config.json, safetensors weights and the feature extractor's settings.
        layer: 1 to the number of layers, negative from the end; no layer above it is run. The last one includes the
            encoder's final layer norm, where it has one, and never a projection into the space of another model.
        dtype: of the computation; ``None`` takes ``fast_dtype()``.
        device: where it runs; ``meta`` builds the shape alone (rate, width, layers), without reading weights.

    Raises:
        ConfigError: an architecture that was not validated, or no such layer.
        AssetError: weights or feature extractor are missing.
    """
    folder = check_folder(Path(folder), weights=torch.device(device).type != "meta")
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type not in ENCODERS:
        fix = "To add one: a row in features/encoders.py, and one that passes in features/test_pretrained.py."
        raise unknown_value(f"frontend.encoder: model type of {folder}", model_type, ENCODERS, fix)
    return ENCODERS[model_type](folder, layer=layer, dtype=dtype, device=device)


def pool_frames(frames: np.ndarray, factor: int) -> np.ndarray:
    """Average groups of ``factor`` consecutive frames: ``(time, dim)`` → ``(ceil(time / factor), dim)``."""
    if factor == 1 or len(frames) == 0:
        return frames
    starts = np.arange(0, len(frames), factor)
    counts = np.diff(np.append(starts, len(frames)))[:, None]
    return (np.add.reduceat(frames.astype(np.float32), starts, axis=0) / counts).astype(frames.dtype)


def pooling_factor(rate: float, target: float) -> int:
    """How many frames to average to go from ``rate`` to ``target`` frames per second.

    Raises:
        ConfigError: the target is not a whole fraction of the encoder's rate.
    """
    factor = round(rate / target) if target > 0 else 0
    if factor < 1 or abs(rate / factor - target) > 1e-6:
        allowed = ", ".join(f"{rate / k:g}" for k in (1, 2, 4, 8))
        raise ConfigError(
            f"frontend.rate={target:g} Hz does not divide the encoder's {rate:g} Hz; use one of {allowed}"
        )
    return factor
