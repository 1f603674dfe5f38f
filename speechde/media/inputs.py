"""What people hand to a library, read or refused with what would do.

A clip is a path, bytes, an array, a row of ``datasets``, a decoder of torchcodec; texts, languages and vectors come as
lists, columns of pandas, arrays of any kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import repeat
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechde.errors import ConfigError, DataError
from speechde.languages import resolve
from speechde.media.audio import MAX_RATE, MIN_RATE, AudioError, check_samples, load_audio, resample
from speechde.types import SAMPLE_RATE

MAX_CHANNELS = 64
KINDS = (
    "a path, the bytes of a file, a file object, a pair (samples, sampling rate), an array with sampling_rate=…, a row "
    "of datasets' Audio column, or a decoder of torchcodec"
)


def is_clip(item: Any) -> bool:
    """Whether ``item`` is one clip rather than a list of clips; an array of strings or objects is a list."""
    array = isinstance(item, torch.Tensor) or (isinstance(item, np.ndarray) and item.dtype.kind not in "OUS")
    pair = isinstance(item, tuple) and len(item) == 2 and not isinstance(item[0], str | Path | bytes)
    pair = pair and not _may_be_clip(item[1])
    return (
        isinstance(item, str | Path | bytes | Mapping)
        or array
        or pair
        or hasattr(item, "get_all_samples")
        or hasattr(item, "read")
    )


def _may_be_clip(item: Any) -> bool:
    if isinstance(item, str):  # a rate by mistake, for ``read_clip`` to refuse, or a path
        return not item.strip().isdecimal()
    return not isinstance(item, Real) and not (isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 0)


def read_clip(item: Any, sampling_rate: int | None = None) -> np.ndarray:
    """Any of ``KINDS`` → float32 ``(samples,)``, mono, 16 kHz.

    Args:
        sampling_rate: in Hz, of arrays and tensors that come without one: ``(samples,)``, ``(channels, samples)`` or
            ``(samples, channels)``, floats within ±1 or integers over the whole range of their type.

    Raises:
        AudioError: it cannot be decoded, is empty, not finite or on another scale than ±1, or its samples or sampling
            rate are none.
        DataError: it is none of ``KINDS``, or comes without a sampling rate.
    """
    if isinstance(item, tuple) and len(item) == 2:
        return _array(*item)
    if isinstance(item, Mapping):
        if item.get("array") is not None:
            return _array(item["array"], item.get("sampling_rate", sampling_rate))
        if (source := item.get("bytes") or item.get("path")) is not None:
            return _loaded(source)
        raise DataError(f"a clip with the keys {', '.join(map(str, item))} has neither array, bytes nor path")
    if hasattr(item, "get_all_samples"):  # torchcodec.decoders.AudioDecoder, which datasets 4 and later hand out
        samples = item.get_all_samples()
        return _array(samples.data, samples.sample_rate)
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return _array(item, sampling_rate)
    if isinstance(item, (str, Path, bytes)) or hasattr(item, "read"):
        return _loaded(item)
    raise DataError(f"a {type(item).__name__} is not a clip; give {KINDS}")


def as_list(items: Any, what: str) -> Iterable[Any]:
    """``items`` where they are any number of things in order.

    Raises:
        DataError: a mapping, a table, a set, or something that is no collection; ``what`` says of what a list is.
    """
    if isinstance(items, Mapping) or hasattr(items, "columns"):
        keys = ", ".join(map(str, items if isinstance(items, Mapping) else items.columns))
        raise DataError(f"a {type(items).__name__} with {keys} is not a list of {what}; give one of its columns")
    if isinstance(items, Set):
        raise DataError(f"a {type(items).__name__} has no order to answer in; give a list of {what}")
    if not isinstance(items, Iterable):
        raise DataError(f"a {type(items).__name__} is not a list of {what}; give one, or the name of its column")
    return items


def check_texts(texts: Sequence[Any], first: int = 0) -> None:
    """Refuse what a tokenizer cannot read; ``first`` is the number of the first text.

    Raises:
        DataError: something that is no string, or an empty one, or one that is not Unicode.
    """
    for row, text in enumerate(texts, first):
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text {row} is {text!r}; give a string that is not empty")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"text {row} holds a lone surrogate at {error.start}: decode it anew, as UTF-8") from error


def language_codes(language: Any, count: int | None, what: str) -> Iterator[str | None]:
    """A FLEURS code (or None) for each of ``count`` items, or of unknown many; one tag is that of all.

    Raises:
        ConfigError: an unknown language, something that is no tag, or another number of them.
    """
    if language is None or isinstance(language, str):
        return repeat(None if language is None else resolve(language))
    if not isinstance(language, Iterable) or isinstance(language, bytes | Mapping | Set):
        raise ConfigError(f"language {language!r} is no tag; give a string, None, or one for each of a list")
    tags = list(language)
    if len(tags) != count:
        counted = f"{what} of unknown number" if count is None else f"{count} {what}"
        raise ConfigError(f"{len(tags)} languages were given for {counted}; give one, or one for each of a list")
    if bad := [tag for tag in tags if not (tag is None or isinstance(tag, str))]:
        raise ConfigError(f"language {bad[0]!r} is no tag; give a string, or None where it is not known")
    codes = {tag: None if tag is None else resolve(tag) for tag in set(tags)}
    return iter([codes[tag] for tag in tags])


def as_vectors(values: Any) -> np.ndarray:
    """Vectors from any kind of array, tensor or list → ``(n, dim)`` float32; one vector is ``(1, dim)``.

    Raises:
        DataError: it is not numbers in rows of one length.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    try:
        vectors = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"a {type(values).__name__} is not vectors ({error}); give (n, dim) numbers") from error
    if vectors.ndim not in (1, 2):
        raise DataError(f"an array of shape {vectors.shape} is not vectors; give (n, dim)")
    return np.atleast_2d(vectors)


def _loaded(source: Any) -> np.ndarray:
    try:
        return load_audio(source)
    except (ValueError, IsADirectoryError) as error:
        if isinstance(error, DataError):
            raise
        raise AudioError("unreadable", f"{source!r:.200}: {error}") from error  # a NUL, or no Unicode, in a name


def _array(samples: Any, rate: Any) -> np.ndarray:
    rate = _whole_rate(rate)
    if isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.dtype is torch.bfloat16 else samples).numpy()  # numpy has no bfloat16
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise AudioError(
            "unreadable", f"samples are not an array ({error}); give (samples,) or (channels, samples)"
        ) from error
    if samples.dtype.kind in "iu":
        samples = _scaled(samples)
    elif samples.dtype.kind != "f":
        raise AudioError(
            "unreadable", f"samples of type {samples.dtype} are not audio; give floats within ±1, or integers"
        )
    if samples.ndim == 2 and min(samples.shape) <= MAX_CHANNELS and samples.size:
        samples = samples.mean(axis=int(samples.shape[1] <= samples.shape[0]), dtype=np.result_type(samples, "f4"))
    if samples.ndim != 1:
        raise AudioError(
            "unreadable", f"an array of shape {samples.shape} is not a clip; give (samples,) or (channels, samples)"
        )
    return resample(check_samples(samples), rate, SAMPLE_RATE)


def _whole_rate(rate: Any) -> int:
    if rate is None:
        raise DataError("an array has no sampling rate of its own; give sampling_rate=… in Hz")
    if isinstance(rate, (np.ndarray, torch.Tensor)) and rate.ndim == 0:
        rate = rate.item()
    if isinstance(rate, bool) or not isinstance(rate, Real) or rate != rate // 1 or not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(
            "unreadable", f"sampling rate {rate!r} is not possible; give whole Hz from {MIN_RATE} to {MAX_RATE}"
        )
    return int(rate)


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Integers over the whole range of their type → floats within ±1."""
    bounds = np.iinfo(samples.dtype)
    middle = 0 if bounds.min else (bounds.max + 1) // 2
    spread = int(samples.max()) - int(samples.min()) if samples.size else 0
    # Nobody records 64 bits, and what fills 1/32768 of 32 bits is 16-bit samples in a wider type.
    if samples.size and (bounds.bits == 64 or (bounds.bits == 32 and 0 < spread < 1 << 17)):
        raise AudioError(
            "out of range",
            f"samples of type {samples.dtype} from {samples.min()} to {samples.max()} have an unknown full scale; "
            "convert them to the type that they were recorded in, such as int16, or to floats within ±1",
        )
    wide = samples.astype(np.float32 if bounds.bits <= 16 else np.float64)  # exact
    return ((wide - middle) / (bounds.max + 1 - middle)).astype(np.float32)
