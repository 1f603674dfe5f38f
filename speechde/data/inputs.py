"""What people hand to a library as "a clip": paths, bytes, arrays, rows of ``datasets``, decoders of torchcodec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechde.data.audio import AudioError, load_audio, resample
from speechde.errors import DataError
from speechde.types import SAMPLE_RATE

MAX_CHANNELS = 64
KINDS = (
    "a path, the bytes of a file, a file object, a pair (samples, sampling rate), an array with sampling_rate=…, a row "
    "of datasets' Audio column, or a decoder of torchcodec"
)


def is_clip(item: Any) -> bool:
    """Whether ``item`` is one clip rather than a list of clips."""
    pair = isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int)
    plain = isinstance(item, (str, Path, bytes, Mapping, np.ndarray, torch.Tensor))
    return plain or pair or hasattr(item, "get_all_samples") or hasattr(item, "read")


def read_clip(item: Any, sampling_rate: int | None = None) -> np.ndarray:
    """Any of ``KINDS`` → float32 ``(samples,)``, mono, 16 kHz.

    Args:
        sampling_rate: in Hz, of arrays and tensors that come without one: ``(samples,)``, ``(channels, samples)`` or
            ``(samples, channels)``, floats within ±1 or integers over the whole range of their type.

    Raises:
        AudioError: it cannot be decoded, is empty or not finite.
        DataError: it is none of ``KINDS``, or has no sampling rate.
    """
    if isinstance(item, tuple) and len(item) == 2:
        return _array(*item)
    if isinstance(item, Mapping):
        if item.get("array") is not None:
            return _array(item["array"], item.get("sampling_rate", sampling_rate))
        if (source := item.get("bytes") or item.get("path")) is not None:
            return load_audio(source)
        raise DataError(f"a clip with the keys {', '.join(map(str, item))} has neither array, bytes nor path")
    if hasattr(item, "get_all_samples"):  # torchcodec.decoders.AudioDecoder, which datasets 4 and later hand out
        samples = item.get_all_samples()
        return _array(samples.data, samples.sample_rate)
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return _array(item, sampling_rate)
    if isinstance(item, (str, Path, bytes)) or hasattr(item, "read"):
        return load_audio(item)
    raise DataError(f"a {type(item).__name__} is not a clip; give {KINDS}")


def _array(samples: Any, rate: int | None) -> np.ndarray:
    if rate is None:
        raise DataError("an array has no sampling rate of its own; give sampling_rate=… in Hz")
    if isinstance(rate, bool) or not float(rate).is_integer() or not 1000 <= rate <= 768_000:
        raise DataError(f"sampling rate {rate!r} is not possible; give whole Hz from 1000 to 768000")
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu().numpy()
    samples = np.asarray(samples)
    if samples.dtype.kind in "iu":
        bounds = np.iinfo(samples.dtype)
        middle = 0 if bounds.min else (bounds.max + 1) / 2
        samples = (samples.astype(np.float32) - middle) / ((bounds.max + 1) - middle)
    elif samples.dtype.kind != "f":
        raise DataError(f"samples of type {samples.dtype} are not audio; give floats within ±1, or integers")
    samples = samples.astype(np.float32)
    if samples.ndim == 2 and min(samples.shape) <= MAX_CHANNELS:
        samples = samples.mean(axis=int(samples.shape[1] <= samples.shape[0]))
    if samples.ndim != 1:
        raise DataError(f"an array of shape {samples.shape} is not a clip; give (samples,) or (channels, samples)")
    if not samples.size:
        raise AudioError("empty", "no samples")
    if not np.isfinite(samples).all():
        raise AudioError("not finite", "NaN or infinite samples")
    return resample(samples, int(rate), SAMPLE_RATE)
