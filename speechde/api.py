"""The library: embed speech and text with a trained model, without Lightning, Hydra or a configuration.

    from speechde import SpeechTextEncoder
    encoder = SpeechTextEncoder.from_pretrained("runs/quickstart/default-s0/model")
    speech = encoder.encode_speech(["a.ogg", "b.ogg"], language="ro")
    text = encoder.encode_text(["un autobuz cu etaj"], language="ro")
    encoder.similarity(speech, text)

Clips and texts go through the very steps of ``evaluate.py``, so the vectors are those that its numbers speak of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from speechde import languages
from speechde.data.audio import MAX_SECONDS, AudioError, check_waveform, trim_silence
from speechde.data.inputs import is_clip, read_clip
from speechde.errors import ConfigError, DataError
from speechde.export.folder import TrainedModel, find_model, speech_encoder
from speechde.frontends.encoders import SpeechEncoder, pool_frames, pooling_factor
from speechde.frontends.features import by_length, subtract_mean
from speechde.models.embed import embed_speech, embed_texts
from speechde.types import SAMPLE_RATE

CHUNK = 256  # clips decoded and held at once
log = logging.getLogger(__name__)


class SpeechTextEncoder:
    """A trained dual encoder: clips and texts → vectors whose dot product says how well they match.

    Args:
        trained: model, prompt, quantiser and settings.
        device: where the model and its speech encoder run; None takes the GPU when there is one.
        dtype: of the model's matrix products (autocast); None is float32, as in evaluation.
    """

    def __init__(
        self, trained: TrainedModel, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.trained = trained
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype
        trained.model.to(self.device).eval()
        self._encoder: SpeechEncoder | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> SpeechTextEncoder:
        """Load a model folder, a run directory that holds one, or a hub id (``org/name`` or ``org/name@revision``).

        The speech encoder is loaded when the first clip is embedded; text alone does not need it.

        Raises:
            AssetError: there is no such model, or it cannot be fetched.
        """
        return cls(TrainedModel.load(find_model(name)), device, dtype)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.trained.model.dim

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of what decides the vectors: those of equal fingerprints may be compared, and no others."""
        return self.trained.fingerprint

    @property
    def languages_seen(self) -> tuple[str, ...]:
        """FLEURS codes of the languages whose speech the model was trained on."""
        return tuple(self.trained.settings["training"]["seen"])

    @property
    def encoder(self) -> SpeechEncoder:
        """The speech encoder, checked to be the one that the model was trained with."""
        if self._encoder is None:
            self._encoder = speech_encoder(self.trained.settings, self.device)
        return self._encoder

    def encode_speech(
        self,
        clips: Any,
        language: str | Sequence[str | None] | None = None,
        *,
        sampling_rate: int | None = None,
        names: Sequence[str] | None = None,
        progress: bool = False,
        as_tensor: bool = False,
    ) -> np.ndarray | Tensor:
        """Clips → ``(clips, dim)`` float32, in order; one clip alone → ``(dim,)``.

        A clip is what ``data.inputs.read_clip`` reads: path, bytes, array, row of ``datasets``. Silence at its ends is
        cut. One longer than 240 s is embedded in equal parts, whose mean is its vector, and a warning says so.

        Args:
            language: any tag that ``speechde.languages`` knows (``ro``, ``ro_ro``), for all clips or one for each;
                None where it is not known.
            sampling_rate: of arrays that come without one, in Hz.
            names: what messages call the clips; None for their numbers.
            progress: show a bar.
            as_tensor: return a tensor on the CPU.

        Raises:
            AudioError: a clip cannot be used; the message has its name and why.
            ConfigError: an unknown language.
            DataError: something that is no clip.
        """
        single = is_clip(clips)
        clips = [clips] if single else list(clips)
        langs = _languages(language, len(clips), "clips")
        names = [f"clip {row}" for row in range(len(clips))] if names is None else names
        out = np.empty((len(clips), self.dim), np.float32)
        for start in _starts(len(clips), progress, "speech"):
            rows = range(start, min(start + CHUNK, len(clips)))
            parts = [self._parts(clips[row], sampling_rate, names[row]) for row in rows]
            flat = [(row, part) for row, some in zip(rows, parts, strict=True) for part in some]
            items = self.speech_items([part for _, part in flat])
            with self._autocast():
                vectors = embed_speech(self.trained.model, self.trained.prompt, items, [langs[row] for row, _ in flat])
            owners = np.array([row for row, _ in flat])
            for row, some in zip(rows, parts, strict=True):
                own = vectors[owners == row]
                out[row] = own[0] if len(some) == 1 else self._mean(own)
        return _returned(out, single, as_tensor)

    def encode_text(
        self,
        texts: str | Sequence[str],
        language: str | Sequence[str | None] | None = None,
        *,
        progress: bool = False,
        as_tensor: bool = False,
    ) -> np.ndarray | Tensor:
        """Texts → ``(texts, dim)`` float32, in order; one text alone → ``(dim,)``. See ``encode_speech``.

        Texts longer than 256 tokens, or than the model's positions, are cut, and a warning counts them.

        Raises:
            DataError: something that is no text, or an empty one.
        """
        single = isinstance(texts, str)
        texts = [texts] if single else list(texts)
        for row, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"text {row} is {text!r}; give a string that is not empty")
        langs = _languages(language, len(texts), "texts")
        prompt, out = self.trained.prompt, np.empty((len(texts), self.dim), np.float32)
        before = prompt.truncated
        for start in _starts(len(texts), progress, "text"):
            rows = slice(start, start + CHUNK)
            ids = [prompt.text_ids(text, lang) for text, lang in zip(texts[rows], langs[rows], strict=True)]
            with self._autocast():
                out[rows] = embed_texts(self.trained.model, ids)
        if cut := prompt.truncated - before:
            log.warning("%d of %d texts were cut at %d tokens", cut, len(texts), prompt.max_tokens)
        return _returned(out, single, as_tensor)

    def similarity(self, a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> np.ndarray:
        """Dot products of all vectors of ``a`` with all of ``b``: ``(n, m)``; the score that retrieval ranks by."""
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (a, b))
        return a @ b.T

    def units(self, clips: Any, *, sampling_rate: int | None = None) -> list[np.ndarray]:
        """The audio tokens of each clip, ``(time,)`` int32, as the model reads them.

        Raises:
            ConfigError: the model reads frames, not units.
        """
        if self.trained.quantiser is None:
            raise ConfigError("this model has a continuous frontend and no units; use one of frontend=discrete")
        clips = [clips] if is_clip(clips) else list(clips)
        waveforms = [self._read(clip, sampling_rate, f"clip {row}") for row, clip in enumerate(clips)]
        return self.speech_items(waveforms)

    def speech_items(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """16 kHz waveforms → stored speech items (frames or units), as training and evaluation make them."""
        speech, quantiser = self.trained.settings["speech"], self.trained.quantiser
        factor = pooling_factor(self.encoder.rate, speech["rate"])
        items: list[np.ndarray] = [np.empty(0)] * len(waveforms)
        trimmed = [(row, trim_silence(waveform, speech["trim_db"])) for row, waveform in enumerate(waveforms)]
        for batch in by_length(trimmed):
            for (row, _), frames in zip(batch, self.encoder.encode([w for _, w in batch]), strict=True):
                frames = pool_frames(frames, factor)
                if share := speech.get("mean_norm", 0.0):
                    frames = subtract_mean(frames, share)
                items[row] = frames if quantiser is None else quantiser.encode(frames)
        return items

    def _read(self, clip: Any, sampling_rate: int | None, name: str) -> np.ndarray:
        try:
            return check_waveform(read_clip(clip, sampling_rate), max_seconds=np.inf)
        except AudioError as error:
            raise AudioError(error.reason, f"{name}: {error.detail}") from error

    def _parts(self, clip: Any, sampling_rate: int | None, name: str) -> list[np.ndarray]:
        waveform = self._read(clip, sampling_rate, name)
        count = -(-len(waveform) // int(MAX_SECONDS * SAMPLE_RATE))
        if count > 1:
            log.warning("%s of %.0f s is embedded in %d parts", name, len(waveform) / SAMPLE_RATE, count)
        return np.array_split(waveform, count)

    def _mean(self, vectors: np.ndarray) -> np.ndarray:
        mean = vectors.mean(0)
        return mean / np.linalg.norm(mean) if self.trained.model.normalise else mean

    def _autocast(self) -> torch.autocast:
        wanted = self.dtype not in (None, torch.float32)
        return torch.autocast(self.device.type, self.dtype if wanted else torch.bfloat16, enabled=wanted)


def _languages(language: str | Sequence[str | None] | None, count: int, what: str) -> list[str | None]:
    """One FLEURS code (or None) for each of ``count`` items."""
    if language is None or isinstance(language, str):
        language = [language] * count
    if len(language) != count:
        raise ConfigError(f"{len(language)} languages were given for {count} {what}; give one, or one for each")
    codes = {tag: None if tag is None else languages.resolve(tag) for tag in set(language)}
    return [codes[tag] for tag in language]


def _starts(count: int, progress: bool, label: str) -> Iterator[int]:
    return iter(track(range(0, count, CHUNK), label, disable=not progress, transient=True))


def _returned(vectors: np.ndarray, single: bool, as_tensor: bool) -> np.ndarray | Tensor:
    vectors = vectors[0] if single else vectors
    return torch.from_numpy(vectors) if as_tensor else vectors
