"""Synthetic speech: texts of the *seen* languages read by espeak-ng, in this process.

A few thousand real clips of a few hundred sentences are soon memorised. Machine-read text costs nothing and adds
sentences; what comes out is called synthetic wherever it is counted. espeak-ng is a formant synthesiser with one voice
a language, so voice variant, rate and pitch are drawn per sentence.

The shared library and its data come from the PyPI package ``espeakng-loader`` (GPL-3+) and are called through ctypes.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import torchaudio.transforms

from speechde.errors import AssetError, unknown_value
from speechde.types import SAMPLE_RATE

VOICES = {"ca_es": "ca", "es_419": "es-419", "fr_fr": "fr", "ru_ru": "ru"}
VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5")

_INSTALL = "run: pip install 'espeakng-loader>=0.2.4,<0.3'"
_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: the callback runs within the call, on its thread
_RETURN_ERRORS = 0x8000  # without it the library ends the process when it finds no data
_UTF8, _END_PAUSE = 1, 0x1000
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Speaker:
    """One way to read: espeak-ng variant, words per minute, pitch and pitch range (0 to 99)."""

    variant: str
    rate: int
    pitch: int
    pitch_range: int

    @classmethod
    def draw(cls, key: str) -> Speaker:
        """The speaker of a sentence, a function of ``key`` alone (so that a rerun reads alike)."""
        rng = random.Random(hashlib.sha256(key.encode()).digest())
        return cls(rng.choice(VARIANTS), rng.randint(120, 200), rng.randint(25, 75), rng.randint(30, 70))


class Espeak:
    """The synthesiser. A reading depends on text, language and speaker alone, never on what was read before.

    espeak-ng keeps its state (position in the pitch flutter, previous phonemes, random numbers) in globals that
    neither terminating nor initialising it resets, so the same call differs from one time to the next. The library
    is therefore loaded anew for each reading and its random numbers are seeded: some milliseconds, for audio that
    has the same bits in any order, in any number of processes.

    Raises:
        AssetError: the package is not installed, or its library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._path = espeakng_loader.get_library_path()
            self._data = str(Path(espeakng_loader.get_data_path()).parent).encode()
        except ImportError as error:
            raise AssetError(f"synthetic speech needs a package that is not installed; {_INSTALL}") from error
        except RuntimeError as error:
            raise AssetError(f"espeakng-loader holds no voices ({error}); {_INSTALL}") from error
        with self._library():
            pass

    @contextmanager
    def _library(self) -> Iterator[tuple[ctypes.CDLL, int]]:
        """The freshly started library and its sample rate."""
        try:
            library = ctypes.CDLL(self._path)
        except OSError as error:
            raise AssetError(f"espeak-ng cannot be loaded ({error}); {_INSTALL}") from error
        try:
            rate = library.espeak_Initialize(_SYNCHRONOUS, 0, self._data, _RETURN_ERRORS)
            if rate <= 0:
                raise AssetError(f"espeak-ng did not start with the data in {self._data.decode()}; {_INSTALL}")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            yield library, rate
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)

    def read(self, text: str, lang: str, speaker: Speaker) -> np.ndarray:
        """The text as 16 kHz mono float32 ``(samples,)``; empty when espeak-ng finds nothing to say.

        Raises:
            ConfigError: no voice for ``lang`` (a FLEURS code), or an unknown variant.
        """
        if lang not in VOICES:
            raise unknown_value("synthetic language", lang, VOICES)
        if speaker.variant not in VARIANTS:  # the library would quietly read without one
            raise unknown_value("voice variant", speaker.variant, VARIANTS)
        voice = VOICES[lang] + speaker.variant
        chunks: list[np.ndarray] = []

        def collect(samples, count: int, _events) -> int:
            if count > 0:
                chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
            return 0

        callback = _CALLBACK(collect)  # kept in a name: ctypes frees a callback that nobody refers to
        data = ctypes.create_string_buffer(text.encode())
        with self._library() as (library, rate):
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise AssetError(f"espeak-ng has no voice {voice!r}; {_INSTALL}")
            for parameter, value in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, speaker.pitch_range)):
                library.espeak_SetParameter(parameter, value, 0)
            flags = _UTF8 | _END_PAUSE
            library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, flags, None, None)
        samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
        if not samples.any():  # a text without words is answered with a short pause
            return np.zeros(0, np.float32)
        waveform = torch.from_numpy(samples.astype(np.float32) / 32768)
        return _resampler(rate)(waveform).numpy()


def installed_version() -> str:
    """The version of ``espeakng-loader``, part of the name of what it reads. Raises ``AssetError`` without it."""
    try:
        return version("espeakng-loader")
    except PackageNotFoundError as error:
        raise AssetError(f"synthetic speech needs a package that is not installed; {_INSTALL}") from error


@cache
def _resampler(rate: int) -> torchaudio.transforms.Resample:
    # Its filter costs as much as the reading itself: made once.
    return torchaudio.transforms.Resample(rate, SAMPLE_RATE)
