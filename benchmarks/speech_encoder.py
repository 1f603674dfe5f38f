"""Frames per second of Whisper's encoder on short clips, log-mel included.

``speech_encoder_transformers``: the reference pipeline, which pads every clip to a window of 30 s.
``speech_encoder_ctranslate2``: the encoder of faster-whisper. ``padded`` is how faster-whisper runs it; ``unpadded``
is the best it can do, clip after clip at its own length: it has no mask, and so clips of two lengths share no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from benchmarks.harness import Result, check_equal, matrix_rate, paired, timed
from benchmarks.inputs import Inputs
from speechde.features.frames import by_length
from speechde.features.whisper import WhisperFrames
from speechde.media.audio import load_audio, trim_silence
from speechde.training.plan.costs import encoder_stack
from speechde.types import SAMPLE_RATE

# float16 frames of states rounded to bfloat16, relative to the largest: 8 bits, through all layers
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 5e-2}


def run(inputs: Inputs) -> Iterator[Result]:
    """The rows; those of CTranslate2 where it is installed."""
    clips = [trim_silence(load_audio(u.audio), 40.0) for u in inputs.clips[: 6 if inputs.tiny else 128]]
    yield _transformers(inputs, clips)
    try:
        import ctranslate2  # noqa: F401
    except ImportError:
        return
    yield from _ctranslate2(inputs, clips)


def encode(encoder: WhisperFrames, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of all clips, in order, as the feature stage makes them."""
    out: list[np.ndarray] = [np.empty(0)] * len(clips)
    for batch in by_length(list(enumerate(clips))):
        for (row, _), frames in zip(batch, encoder.encode([w for _, w in batch]), strict=True):
            out[row] = frames
    return out


def _transformers(inputs: Inputs, clips: list[np.ndarray]) -> Result:
    encoder = WhisperFrames(inputs.encoder, dtype=inputs.dtype, tail_seconds=0.0)
    clips = clips[:32]
    features = WhisperFeatureExtractor.from_pretrained(inputs.encoder)
    samples, frames = encoder.window, [-(-len(clip) // encoder.STRIDE) for clip in clips]

    @torch.inference_mode()
    def padded(batch: list[np.ndarray]) -> np.ndarray:
        mels = features(batch, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="max_length", max_length=samples)
        return encoder.model(mels["input_features"].to(inputs.dtype)).last_hidden_state.half().numpy()

    def ours() -> float:
        return sum(frames) / timed(lambda: encode(encoder, clips))[0]

    def peer() -> float:
        batches = [clips[start : start + 8] for start in range(0, len(clips), 8)]
        return sum(frames) / timed(lambda: [padded(batch) for batch in batches])[0]

    # with one clip that fills the window there is no padding, and both are the same computation
    whole = np.resize(np.concatenate(clips), samples)
    difference = check_equal("frames", encoder.encode([whole])[0], padded([whole])[0], TOLERANCE[inputs.dtype])
    runs = paired(ours, peer, rounds=1 if inputs.tiny else 2)
    result = Result("speech_encoder_transformers", f"Whisper frames of clips, {inputs.dtype_name}",
                    "transformers, clips padded to 30 s", "frames/s", runs, 8.0)  # fmt: skip
    result.facts = _facts(inputs, encoder, result, frames) | {"largest difference, relative": difference}
    return result


def _ctranslate2(inputs: Inputs, clips: list[np.ndarray]) -> Iterator[Result]:
    encoder = WhisperFrames(inputs.encoder, dtype=inputs.dtype, tail_seconds=0.0)
    frames = [-(-len(clip) // encoder.STRIDE) for clip in clips]
    modes = [("unpadded", "float32", 1.0), ("unpadded", "int8_float32", None), ("padded", "float32", None)]
    for way, compute, target in modes:
        encode_peer, padding = ctranslate2_encoder(inputs, compute), encoder.window if way == "padded" else 0
        used = clips[:8] if padding else clips

        def ours(used=used) -> float:
            return sum(frames[: len(used)]) / timed(lambda: encode(encoder, used))[0]

        def peer(used=used, encode_peer=encode_peer, padding=padding) -> float:
            seconds, _ = timed(lambda: [encode_peer(encoder, clip, padding) for clip in used])
            return sum(frames[: len(used)]) / seconds

        exact = WhisperFrames(inputs.encoder, dtype=torch.float32, tail_seconds=0.0)
        pair = exact.encode([clips[0]])[0], encode_peer(encoder, clips[0], 0)
        tolerance = TOLERANCE[torch.float32] if compute == "float32" else 0.2  # 8-bit weights
        difference = check_equal("frames of CTranslate2", *pair, tolerance)
        runs = paired(ours, peer, rounds=1 if inputs.tiny else 2)
        name = f"speech_encoder_ctranslate2_{way}_{compute.split('_')[0]}"
        result = Result(name, f"Whisper frames of clips, {inputs.dtype_name}",
                        f"CTranslate2 encoder (faster-whisper), {way}, {compute}", "frames/s", runs,
                        target)  # fmt: skip
        result.facts = _facts(inputs, encoder, result, frames[: len(used)])
        result.facts["largest difference, relative"] = difference
        yield result


def ctranslate2_encoder(inputs: Inputs, compute: str):
    """``encode(ours, clip, samples)`` → ``(time, dim)`` frames of CTranslate2; mel by our extractor on both sides."""
    import ctranslate2

    folder = inputs.scratch / "ctranslate2"
    if not folder.is_dir():
        converted(inputs.asr, folder)
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type=compute, intra_threads=1)

    def encode_one(ours: WhisperFrames, clip: np.ndarray, samples: int) -> np.ndarray:
        mel, _ = ours._mels([np.pad(clip, (0, max(0, samples - len(clip))))])
        out = model.encode(ctranslate2.StorageView.from_array(mel.contiguous().numpy()), to_cpu=True)
        return np.asarray(out)[0]

    return encode_one


def converted(folder: Path, out: Path) -> Path:
    """A Whisper model in CTranslate2's own format."""
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(out))
    return out


def _facts(inputs: Inputs, encoder: WhisperFrames, result: Result, frames: list[int]) -> dict:
    layers, _ = encoder_stack(encoder)
    flops, rate = sum(map(layers.forward, frames)) / sum(frames), matrix_rate(inputs.dtype)
    return {
        "clips": len(frames), "mean seconds a clip": sum(frames) / len(frames) / encoder.rate,
        "matrix rate, GFLOP/s": rate / 1e9, "share of matrix rate": result.ours * flops / rate,
    }  # fmt: skip
