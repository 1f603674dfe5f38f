"""Clips and pictures as a trained model reads them: decoded, and encoded by the frozen encoders of its training.

An encoder is loaded when the first clip, or picture, needs it: texts need none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from speechde.checkpoint.encoders import image_encoder, speech_encoder
from speechde.checkpoint.folder import TrainedModel
from speechde.errors import ConfigError, DataError
from speechde.features.encoders import SpeechEncoder
from speechde.features.frames import items_in_memory
from speechde.features.pictures import patches_in_memory
from speechde.features.vision import ImageEncoder
from speechde.media.audio import MAX_SECONDS, AudioError, check_waveform
from speechde.media.image import ImageError, read_image
from speechde.media.inputs import read_clip
from speechde.types import SAMPLE_RATE, Item, Part

LOADING = Lock()  # of encoders; not in the reader, which datasets pickles


class Reader:
    """What a trained model is given → what it has stored of training clips and pictures. Any number of threads may use
    one.

    Args:
        trained: the model, its quantiser and settings.
        device: where the encoders run.
        speech_encoder, image_encoder: where they are found, when not where they were at training.
    """

    def __init__(
        self,
        trained: TrainedModel,
        device: torch.device,
        speech_encoder: str | Path | None = None,
        image_encoder: str | Path | None = None,
    ) -> None:
        self.trained, self.device = trained, device
        self.speech_encoder, self.image_encoder = speech_encoder, image_encoder
        self._encoder: SpeechEncoder | None = None
        self._vision: ImageEncoder | None = None

    @property
    def encoder(self) -> SpeechEncoder:
        """The speech encoder, checked to be the one that the model was trained with.

        Raises:
            ConfigError: the model does not hear.
        """
        self.check_hears()
        with LOADING:
            if self._encoder is None:
                self._encoder = speech_encoder(self.trained.settings.speech, self.device, self.speech_encoder)
            return self._encoder

    @property
    def vision(self) -> ImageEncoder:
        """The vision encoder, checked to be the one that the model was trained with.

        Raises:
            ConfigError: the model does not see.
        """
        if self.trained.settings.image is None:
            raise ConfigError("this model has no frontend for pictures; give it texts or clips, or another model")
        with LOADING:
            if self._vision is None:
                self._vision = image_encoder(self.trained.settings.image, self.device, self.image_encoder)
            return self._vision

    def check_hears(self) -> None:
        """Refuse a model without a frontend for speech.

        Raises:
            ConfigError: it has none.
        """
        if self.trained.settings.speech is None:
            known = "text alone" if self.trained.settings.image is None else "text and pictures"
            raise ConfigError(f"this model reads {known} and has no frontend for speech; give it texts")

    def waveform(self, clip: Any, sampling_rate: int | None = None, name: str = "the clip") -> np.ndarray:
        """A clip as a 16 kHz waveform.

        Raises:
            AudioError: it cannot be used; the message begins with ``name``.
        """
        try:
            return check_waveform(read_clip(clip, sampling_rate), max_seconds=np.inf)
        except AudioError as error:
            raise AudioError(error.reason, f"{name}: {error.detail}") from error
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def picture(self, content: Any, name: str = "the picture") -> np.ndarray:
        """A picture as ``(height, width, 3)`` uint8 RGB.

        Raises:
            ImageError: it cannot be used; the message begins with ``name``.
        """
        try:
            return read_image(content)
        except ImageError as error:
            raise ImageError(error.reason, f"{name}: {error.detail}") from error
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def speech_items(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """16 kHz waveforms → stored speech items (frames or units), as training and evaluation make them."""
        return items_in_memory(waveforms, self.encoder, self.trained.quantiser, self.trained.settings.speech)

    def pieces(self, waveforms: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """16 kHz waveforms → stored speech items of each: one, or several of a waveform longer than 240 s.

        Those are cut before they are encoded, which bounds memory.
        """
        cut = [np.array_split(w, max(1, -(-len(w) // int(MAX_SECONDS * SAMPLE_RATE)))) for w in waveforms]
        items = iter(self.speech_items([piece for some in cut for piece in some]))
        return [[next(items) for _ in some] for some in cut]

    def read_parts(self, media: Sequence[tuple[Item, Part]]) -> list[list[np.ndarray]]:
        """The media of items → what is stored of them (``models.embed.Read``)."""
        ways: dict[str, Callable[[Sequence[tuple[Item, Part]]], list[list[np.ndarray]]]] = {
            "speech": self._read_clips, "image": self._read_pictures,
        }  # fmt: skip
        found: dict[int, list[np.ndarray]] = {}
        for modality, read in ways.items():
            rows = [row for row, (_, part) in enumerate(media) if part.modality == modality]
            if rows:
                found |= zip(rows, read([media[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(media))]

    def _read_clips(self, media: Sequence[tuple[Item, Part]]) -> list[list[np.ndarray]]:
        clips = [(part.content, part.sampling_rate, item.id or "a clip") for item, part in media]
        return self.pieces([self.waveform(*clip) for clip in clips])

    def _read_pictures(self, media: Sequence[tuple[Item, Part]]) -> list[list[np.ndarray]]:
        encoder = self.vision
        pictures = (self.picture(part.content, item.id or "a picture") for item, part in media)
        return [[patches] for patches in patches_in_memory(pictures, encoder)]
