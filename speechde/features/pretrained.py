"""Frames from any speech encoder that transformers runs: the wav2vec 2.0 family, w2v-BERT, Parakeet, Gemma's conformer.

An encoder is a *stem*, which turns samples into columns (log-mel, or learned convolutions), and transformer layers
over columns or groups of columns. The stem runs on each clip at its own length, so everything in it that looks along
time (zero-mean unit-variance scaling, mel statistics, the group norm of wav2vec2-base and HuBERT-base, which averages
over the whole signal) sees the clip and no padding. Columns of several clips are then padded and masked for the
layers. Where the layers of an architecture let padding through in spite of the mask, only clips with equally many
columns share a batch. Either way the frames of a clip do not depend on its batch, up to rounding: 2e-3 in float32
(tested), which is the step of the stored float16; bfloat16 rounds more coarsely.

Frame rates are computed, not tabled: from the strides of the convolutions, and the hop of a mel stem is measured on
its output. Clips longer than a window are cut so that frames go on at the same spacing across the cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoFeatureExtractor

from speechde.errors import AssetError
from speechde.features.loading import Tower, load_tower, settings_hash
from speechde.features.windows import encode_in_windows, fast_dtype, layer_number
from speechde.types import SAMPLE_RATE
from speechde.weights import weights_hash

TOWERS = ("audio_config", "encoder_config")  # where a larger model keeps the configuration of its speech encoder
TOWER_NAMES = {r"^(model\.)?(audio_tower|encoder)\.": ""}  # and how it names the weights
UNUSED = "masked_spec_embed"  # read in training only; many fine-tuned checkpoints lack it
TOWER = Tower("speech encoder", TOWERS, TOWER_NAMES, UNUSED)


class PretrainedFrames(ABC):
    """Hidden states of one layer of a speech encoder; see ``SpeechEncoder``.

    Args:
        folder: a checkpoint in transformers layout: the encoder alone, with a head, or inside a larger model.
        layer: 1 to the number of layers, negative from the end; the layers above are cut off.
        dtype: of the computation; ``None`` takes ``fast_dtype()``.
        device: where it runs; ``meta`` builds the shape alone, without reading weights.
        window_seconds: longer clips are cut into windows of this length, which bounds the memory of attention.
            Mel statistics and scaling are those of the window.

    Raises:
        AssetError: weights, feature extractor or (in a larger model) the encoder are missing.
        ConfigError: no such layer.
    """

    LAYERS = "layers"  # dotted name of the list of transformer layers
    EQUAL_LENGTHS = False  # padding would get through the layers in spite of the mask

    hop: int  # samples from one column to the next
    span: int  # samples of the first column
    factor = 1  # columns per frame

    def __init__(
        self,
        folder: str | Path,
        layer: int = -1,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        window_seconds: float = 30.0,
    ) -> None:
        folder = Path(folder)
        self.dtype, self.device = dtype or fast_dtype(), torch.device(device)
        self.extractor = _load_extractor(folder)
        meta = self.device.type == "meta"
        self.model = load_tower(folder, TOWER, self.dtype, meta)
        parent, _, name = self.LAYERS.rpartition(".")
        parent = self.model.get_submodule(parent)
        layers = getattr(parent, name)
        self.layer = layer_number(layer, len(layers), folder)
        setattr(parent, name, layers[: self.layer])
        self._prepare(whole=self.layer == len(layers))
        self.model.to(self.device).eval()
        stride = self.hop * self.factor
        # a mean and a variance need two columns, which are still one frame
        self.least = self.span if self.factor == 1 else self.span + self.hop
        self.step = max(1, int(window_seconds * SAMPLE_RATE) // stride) * stride
        self.window = self.step + max(0, self.span - self.hop)
        self.rate = SAMPLE_RATE / stride
        self.dim = self.model.config.hidden_size
        self._key = {"encoder": self.model.config.model_type, "weights": None if meta else weights_hash(folder),
                     "settings": settings_hash(folder)}  # fmt: skip

    def describe(self) -> dict:
        """See ``SpeechEncoder``."""
        return self._key | {"layer": self.layer, "window": self.step, "dtype": str(self.dtype)}

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``SpeechEncoder``. Callers should batch clips of similar length: the work grows with the longest.

        A clip under the samples of one frame is continued with silence. Values beyond float16 are clamped to it.
        """
        return encode_in_windows(waveforms, self.window, self.step, self.span, self._encode_windows)

    @abstractmethod
    def _prepare(self, whole: bool) -> None:
        """Set ``hop``, ``span`` and ``factor``, and take off what follows the layers, unless ``whole`` needs it."""

    @abstractmethod
    def _columns(self, waveform: np.ndarray) -> Tensor:
        """``(columns, bins)`` output of the stem for one clip."""

    @abstractmethod
    def _hidden(self, columns: Tensor, mask: Tensor) -> Tensor:
        """``(batch, columns, bins)`` and its bool mask → ``(batch, frames, dim)``."""

    @torch.inference_mode()
    def _encode_windows(self, windows: list[np.ndarray]) -> list[np.ndarray]:
        columns = [self._columns(np.pad(w, (0, max(0, self.least - len(w))))) for w in windows]
        batches = defaultdict(list)
        for i, item in enumerate(columns):
            batches[len(item) if self.EQUAL_LENGTHS else 0].append(i)
        frames = {}
        for members in batches.values():
            items = [columns[i].to(self.device, self.dtype) for i in members]
            lengths = torch.tensor([len(item) for item in items], device=self.device)
            mask = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
            hidden = self._hidden(pad_sequence(items, batch_first=True), mask).float()
            limit = torch.finfo(torch.float16).max
            arrays = hidden.clamp(-limit, limit).to("cpu", torch.float16).numpy()
            for i, item, array in zip(members, items, arrays, strict=True):
                frames[i] = array[: -(-len(item) // self.factor)].copy()
        return [frames[i] for i in range(len(windows))]


class Wav2Vec2Frames(PretrainedFrames):
    """wav2vec 2.0, XLS-R, MMS, HuBERT, WavLM: convolutions over samples, then a transformer."""

    LAYERS = "encoder.layers"

    def _prepare(self, whole: bool) -> None:
        config = self.model.config
        if getattr(config, "do_stable_layer_norm", False) and not whole:
            self.model.encoder.layer_norm = nn.Identity()  # the final norm of pre-norm layers
        self._measure()

    def _measure(self) -> None:
        config = self.model.config
        self.hop, self.span = prod(config.conv_stride), 1
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            self.span = (self.span - 1) * stride + kernel

    def _columns(self, waveform: np.ndarray) -> Tensor:
        values = self.extractor([waveform], sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        return self.model.feature_extractor(values.to(self.device, self.dtype))[0].T

    def _hidden(self, columns: Tensor, mask: Tensor) -> Tensor:
        projected = self.model.feature_projection(columns)
        projected = projected[0] if isinstance(projected, tuple) else projected
        return self.model.encoder(projected, attention_mask=mask).last_hidden_state


class Data2VecFrames(Wav2Vec2Frames):
    """data2vec audio: its position convolutions are stacked, and from the second on they read padding."""

    EQUAL_LENGTHS = True


class MelStem(PretrainedFrames):
    """Columns are the output of the feature extractor."""

    def _columns(self, waveform: np.ndarray) -> Tensor:
        out = self.extractor(
            [waveform], sampling_rate=SAMPLE_RATE, truncation=False, pad_to_multiple_of=None, return_tensors="np"
        )
        values, mask = (np.asarray(out[name])[0] for name in self.extractor.model_input_names)
        return torch.from_numpy(values[mask.astype(bool)])

    def _measure(self) -> None:
        """Hop: how many more columns a second adds. Span: from the length at which one more column appears."""
        noise = np.random.default_rng(0).normal(size=2 * SAMPLE_RATE).astype(np.float32)
        count = len(self._columns(noise[:SAMPLE_RATE]))
        self.hop = round(SAMPLE_RATE / (len(self._columns(noise)) - count))
        low, high = SAMPLE_RATE, SAMPLE_RATE + self.hop
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(self._columns(noise[:middle])) == count else (low, middle)
        self.span = high - count * self.hop
        self.factor = prod(module.stride[0] for module in self.model.modules() if isinstance(module, nn.Conv2d))


class Wav2Vec2BertFrames(MelStem, Wav2Vec2Frames):
    """w2v-BERT 2.0: stacked log-mel columns, then a conformer with causal convolutions."""


class ParakeetFrames(MelStem):
    """Parakeet's FastConformer: log-mel, eightfold sub-sampling by convolutions, conformer layers."""

    def _prepare(self, whole: bool) -> None:
        self._measure()

    def _hidden(self, columns: Tensor, mask: Tensor) -> Tensor:
        return self.model(columns, attention_mask=mask).last_hidden_state


class Gemma4Frames(ParakeetFrames):
    """The USM conformer of Gemma 4 and EmbeddingGemma 2, before its projection into the language model's space."""

    def _prepare(self, whole: bool) -> None:
        self.model.output_proj = nn.Identity()
        self._measure()


class Gemma3nFrames(MelStem):
    """The USM conformer of Gemma 3n, before it keeps one frame in four.

    Its sub-sampling convolutions take no mask and look ahead, so that the last frame would read padding.
    """

    LAYERS = "conformer"
    EQUAL_LENGTHS = True

    def _prepare(self, whole: bool) -> None:
        self.model.config.conf_reduction_factor = 1
        self._measure()

    def _hidden(self, columns: Tensor, mask: Tensor) -> Tensor:
        return self.model(columns, ~mask).last_hidden_state


def _load_extractor(folder: Path):
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{folder} holds no feature extractor; copy preprocessor_config.json of the model there"
        ) from error
    if extractor.sampling_rate != SAMPLE_RATE:
        raise AssetError(f"{folder} takes {extractor.sampling_rate} Hz audio; only {SAMPLE_RATE} Hz is read here")
    if getattr(extractor, "dither", 0.0):
        extractor.dither = 0.0  # random noise: frames would differ from run to run
    return extractor
