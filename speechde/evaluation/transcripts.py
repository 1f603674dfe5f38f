"""Transcripts of clips by a Whisper model, the first half of the ASR cascade; each clip is transcribed once.

As published: windows of 30 s padded with silence, greedy decoding without timestamps, the language given (detected
where Whisper has no token for it). Longer clips are cut into windows whose transcripts are joined. Nothing is trimmed.
Tokens are limited to ``32 + 32 · seconds``, above what the least compact scripts need, so that a clip that makes the
decoder repeat itself does not cost 448 steps. Clips under a condition have transcripts of their own.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from speechde.cache import atomic_write, fingerprint
from speechde.conditions import CLEAN, Condition
from speechde.errors import AssetError
from speechde.features.encoders import fast_dtype
from speechde.media import audio, degradations
from speechde.media.audio import load_audio
from speechde.media.content import content_keys
from speechde.progress import progress
from speechde.types import SAMPLE_RATE, Utterance
from speechde.weights import weights_hash

VERSION = 1  # raise it when the same waveform gets another transcript
HOP = 160  # samples per column of the mel spectrogram
TOKENS, TOKENS_PER_SECOND = 32, 32
BATCH = 16
# Whisper's language tokens where they are not the first part of the FLEURS code
TOKEN_OF = {"cmn_hans_cn": "zh", "nb_no": "no", "jv_id": "jw", "fil_ph": "tl"}


class Transcriber:
    """A Whisper model with its decoder.

    Args:
        folder: a whole checkpoint in transformers layout, with tokenizer and generation_config.json.
        dtype: of the computation; ``None`` takes ``fast_dtype()``.

    Raises:
        AssetError: the folder holds another model, or an encoder alone.
    """

    def __init__(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        config = AutoConfig.from_pretrained(folder)
        if config.architectures != ["WhisperForConditionalGeneration"]:
            raise AssetError(
                f"{folder} holds {config.architectures}; eval.asr needs a whole Whisper model to transcribe"
            )
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = dtype or fast_dtype()
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=self.dtype, use_safetensors=True)
        self.model.to(self.device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._special = {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.features = WhisperFeatureExtractor.from_pretrained(folder)
        self.window = 2 * HOP * config.max_source_positions  # samples
        self._hash = weights_hash(Path(folder))

    def describe(self) -> dict:
        """Everything that determines a transcript, JSON-able; part of the cache key."""
        return {"version": [VERSION, audio.VERSION], "weights": self._hash, "dtype": str(self.dtype),
                "decoding": "greedy", "tokens": TOKENS, "tokens_per_second": TOKENS_PER_SECOND}  # fmt: skip

    def language(self, lang: str) -> str | None:
        """Whisper's token of a language (a FLEURS code), None where it has none."""
        token = f"<|{TOKEN_OF.get(lang, lang.split('_')[0])}|>"
        return token if token in self.model.generation_config.lang_to_id else None

    def transcribe(self, waveforms: Sequence[np.ndarray], lang: str) -> list[str]:
        """16 kHz mono waveforms of one language → their transcripts. Batch clips of similar length."""
        windows = [w[start : start + self.window] for w in waveforms for start in range(0, max(1, len(w)), self.window)]
        texts = iter(self._windows(windows, self.language(lang)))
        counts = [-(-max(1, len(w)) // self.window) for w in waveforms]
        return [" ".join(filter(None, (next(texts) for _ in range(count)))) for count in counts]

    @torch.inference_mode()
    def _windows(self, windows: Sequence[np.ndarray], language: str | None) -> list[str]:
        padded = [np.pad(window, (0, self.window - len(window))) for window in windows]
        mels = self.features(padded, sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="pt")
        limits = [TOKENS + TOKENS_PER_SECOND * len(window) // SAMPLE_RATE for window in windows]
        ids = self.model.generate(
            mels.input_features.to(self.device, self.dtype),
            attention_mask=torch.ones_like(mels.input_features[:, 0], dtype=torch.long, device=self.device),
            language=language,
            task="transcribe",
            num_beams=1,
            do_sample=False,
            max_length=min(self.model.config.max_target_positions, 4 + max(limits)),  # with the tokens of the task
        )
        words = [[id_ for id_ in row if id_ not in self._special] for row in ids.tolist()]
        # each its own limit, so that a transcript does not depend on what shares its batch
        return [self.tokenizer.decode(row[:limit]).strip() for row, limit in zip(words, limits, strict=True)]


@dataclass
class Transcripts:
    """Transcripts by utterance id, the mean seconds that one took, and the languages that had to be detected."""

    texts: dict[str, str]
    seconds: float
    detected: list[str]


def transcribe_clips(
    utterances: Sequence[Utterance],
    durations: dict[str, float],
    transcriber: Transcriber,
    cache: Path,
    condition: Condition = CLEAN,
) -> Transcripts:
    """Transcripts of all clips; from the cache where it has them, which is written after every batch.

    Args:
        durations: seconds of each clip by id, to batch clips of similar length.
    """
    by_lang = defaultdict(list)
    for utterance in utterances:
        by_lang[utterance.lang].append(utterance)
    texts: dict[str, str] = {}
    seconds: list[float] = []
    for lang, clips in by_lang.items():
        described = transcriber.describe() | degradations.describe(condition)
        path = cache / "transcripts" / fingerprint(described) / f"{lang}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        contents = content_keys([u.audio for u in clips], cache)
        own = (content if condition == CLEAN else [u.id, *content] for u, content in zip(clips, contents, strict=True))
        keys = dict(zip((u.id for u in clips), map(fingerprint, own), strict=True))
        missing = sorted((u for u in clips if keys[u.id] not in known), key=lambda u: durations[u.id])
        done = len(clips) - len(missing)
        label = f"transcription, {lang}" + ("" if condition == CLEAN else f", {condition.name}")
        with progress(label, len(clips), "clips", done=done, enabled=bool(missing)) as advance:
            for start in range(0, len(missing), BATCH):
                batch, began = missing[start : start + BATCH], time.perf_counter()
                waveforms = [degradations.degrade(load_audio(u.audio), condition, u.id) for u in batch]
                made = transcriber.transcribe(waveforms, lang)
                each = (time.perf_counter() - began) / len(batch)
                known |= {keys[u.id]: [text, each] for u, text in zip(batch, made, strict=True)}
                with atomic_write(path) as temporary:
                    temporary.write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
                advance(len(batch))
        for u in clips:
            text, each = known[keys[u.id]]
            texts[u.id] = text
            seconds.append(each)
    detected = sorted(lang for lang in by_lang if transcriber.language(lang) is None)
    return Transcripts(texts, float(np.mean(seconds)), detected)
