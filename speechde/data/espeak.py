"""Synthetic speech: texts of the *seen* languages read by espeak-ng, in this process.

A few thousand real clips of a few hundred sentences are soon memorised. Machine-read text costs nothing and adds
sentences; what comes out is called synthetic wherever it is counted. espeak-ng is a formant synthesiser with one voice
a language, so voice variant, rate and pitch are drawn per sentence.

The shared library and its data come from the PyPI package ``espeakng-loader`` (GPL-3+) and are called through ctypes.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from speechde.errors import AssetError, ConfigError, unknown_value
from speechde.types import SAMPLE_RATE

VOICES = {"ca_es": "ca", "es_419": "es-419", "fr_fr": "fr", "ru_ru": "ru"}
VARIANTS = ("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+f1", "+f2", "+f3", "+f4", "+f5")

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: the callback runs within the call, on its thread
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
    """The synthesiser. One instance per process: the library keeps its state in globals.

    Raises:
        AssetError: the package is not installed, or its library does not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise AssetError("synthetic speech needs the package espeakng-loader: pip install espeakng-loader") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(Path(espeakng_loader.get_data_path()).parent).encode()
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            raise AssetError(f"espeak-ng did not start with the data in {data.decode()}; reinstall espeakng-loader")
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # kept: ctypes frees a callback that nobody refers to
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples, count: int, _events) -> int:
        if count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def read(self, text: str, lang: str, speaker: Speaker) -> np.ndarray:
        """The text as 16 kHz mono float32 ``(samples,)``; empty when espeak-ng finds nothing to say.

        Raises:
            ConfigError: no voice for ``lang`` (a FLEURS code).
        """
        if lang not in VOICES:
            raise unknown_value("synthetic language", lang, VOICES)
        voice = VOICES[lang] + speaker.variant
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"espeak-ng has no voice {voice!r}; allowed variants: {', '.join(VARIANTS)}")
        for parameter, value in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, speaker.pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 0, 0, _UTF8 | _END_PAUSE, None, None)
        if not self._chunks:
            return np.zeros(0, np.float32)
        waveform = torch.from_numpy(np.concatenate(self._chunks).astype(np.float32) / 32768)
        return torchaudio.functional.resample(waveform, self.rate, SAMPLE_RATE).numpy()
