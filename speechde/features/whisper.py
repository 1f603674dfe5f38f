"""Frames from Whisper's encoder, without padding short clips to its window.

Whisper was trained on windows of exactly 30 s, and the reference pipelines pad every clip to that: for clips of 1.5 s
that is twenty times the work. Its encoder is a convolution stem, a table of absolute positions and ordinary
transformer layers, so it also runs on the real length: take the first T positions, keep padding out of the
convolutions and out of the attention, and the frames of a clip do not depend on what shares its batch (tested).
Clips longer than a window are cut into windows whose frames are concatenated; nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import WhisperFeatureExtractor

from speechde.features.windows import encode_in_windows, fast_dtype, layer_number
from speechde.types import SAMPLE_RATE
from speechde.weights import load_whisper_encoder, weights_hash


class WhisperFrames:
    """Hidden states of one layer of a Whisper encoder (supervised features: Whisper is trained on transcripts).

    Args:
        folder: a Whisper checkpoint in transformers layout, encoder alone or whole.
        layer: 1 to the number of layers; the last includes the final layer norm. Negative counts from the end.
        dtype: of the computation; ``None`` takes ``fast_dtype()``.
        device: where it runs; ``meta`` builds the shape alone, without reading weights.
        tail_seconds: silence kept after the clip, so that the last frames see the ending they saw in training.
    """

    STRIDE = 2 * 160  # samples per frame: the mel hop of 10 ms times the stride of the second convolution

    def __init__(
        self,
        folder: str | Path,
        layer: int = -1,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        tail_seconds: float = 0.1,
    ) -> None:
        self.dtype = dtype or fast_dtype()
        self.device = torch.device(device)
        meta = self.device.type == "meta"
        self.model = load_whisper_encoder(folder, self.dtype, meta).to(self.device).eval()
        self.layer = layer_number(layer, len(self.model.layers), folder)
        self.features = WhisperFeatureExtractor.from_pretrained(folder)
        self.mel_filters = torch.from_numpy(self.features.mel_filters.T.astype(np.float32))
        self.tail = round(tail_seconds * SAMPLE_RATE)
        self.window = self.model.config.max_source_positions * self.STRIDE
        self.rate = SAMPLE_RATE / self.STRIDE
        self.dim = self.model.config.d_model
        self._hash = None if meta else weights_hash(Path(folder))

    def describe(self) -> dict:
        """See ``SpeechEncoder``."""
        return {"encoder": "whisper", "weights": self._hash, "layer": self.layer, "tail": self.tail,
                "dtype": str(self.dtype)}  # fmt: skip

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``SpeechEncoder``. Callers should batch clips of similar length: the work grows with the longest."""
        waveforms = [np.pad(waveform, (0, self.tail)) for waveform in waveforms]
        return encode_in_windows(waveforms, self.window, self.window, 1, self._encode_windows)

    @torch.inference_mode()
    def _encode_windows(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        batch, lengths = self._mels(windows)
        hidden, mask = self._stem(batch.to(self.device, self.dtype), lengths.to(self.device))
        attention = mask[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
        for block in self.model.layers[: self.layer]:
            output = block(hidden, attention)
            hidden = output[0] if isinstance(output, tuple) else output
        if self.layer == len(self.model.layers):
            hidden = self.model.layer_norm(hidden)
        arrays = hidden.to("cpu", torch.float16).numpy()
        return [array[: (int(n) + 1) // 2].copy() for array, n in zip(arrays, lengths, strict=True)]

    def _mels(self, windows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Log-mels ``(windows, bins, time)``, 10 ms a column, zeros beyond each length; and the lengths ``(windows,)``.

        What the feature extractor gives for each window alone (tested), in one transform for all.
        """
        size, hop = self.features.n_fft, self.features.hop_length
        windows = [np.pad(w, (0, max(0, size - len(w)))) for w in windows]  # shorter ones cannot be transformed
        lengths = torch.tensor([len(window) // hop for window in windows])
        edged = [torch.from_numpy(np.pad(window, size // 2, mode="reflect").astype(np.float32)) for window in windows]
        waves = torch.nn.utils.rnn.pad_sequence(edged, batch_first=True)
        hann = torch.hann_window(size)
        power = torch.stft(waves, size, hop, window=hann, center=False, return_complex=True).abs().square_()
        mels = self.mel_filters @ power[..., : int(lengths.max())]
        outside = (torch.arange(mels.shape[2]) >= lengths[:, None])[:, None]
        mels = mels.clamp_(min=1e-10).log10_().masked_fill_(outside, -torch.inf)
        mels = torch.maximum(mels, mels.amax((1, 2), keepdim=True) - 8)  # 80 dB below the loudest of each window
        return mels.add_(4).div_(4).masked_fill_(outside, 0), lengths

    def _stem(self, mels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutions and positions, with padding kept at zero as the convolutions' own edge padding is."""
        columns = torch.arange(mels.shape[2], device=mels.device) < lengths[:, None]
        hidden = F.gelu(self.model.conv1(mels)) * columns[:, None]
        hidden = F.gelu(self.model.conv2(hidden)).transpose(1, 2)
        frames = torch.arange(hidden.shape[1], device=mels.device) < ((lengths + 1) // 2)[:, None]
        return hidden + self.model.embed_positions.weight[: hidden.shape[1]], frames
