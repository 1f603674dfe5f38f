"""Patch tokens from vision encoders that transformers runs: ViT, CLIP's and SigLIP's towers, DINOv2, EfficientNet.

A picture becomes one token for each patch of a grid, row by row: the last hidden states of a transformer without its
class token, or the last map of a convolutional network. What pools or projects them further belongs to what the encoder
was trained for, and is left out.

Pictures are prepared as the folder's own preprocessor_config.json says, by Pillow and numpy: with torchvision, where it
is installed, transformers would compute slightly other pixels, and features would depend on what else is installed.
Only architectures whose rows of the table in tests/unit/features/test_vision.py pass are read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor

from speechde.errors import AssetError, unknown_value
from speechde.features.loading import Tower, load_tower, settings_hash
from speechde.features.windows import fast_dtype
from speechde.weights import weights_hash
from speechde.weights.folder import check_folder

BATCH = 16  # pictures encoded at once
TOWER = Tower("vision encoder", ("vision_config",), {}, options={"vit": {"add_pooling_layer": False}})


class ImageEncoder(Protocol):
    """What the feature stage needs from a vision encoder."""

    dim: int  # width of a token

    def describe(self) -> dict:
        """Everything that determines the tokens, JSON-able; part of the cache key."""
        ...

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """``(height, width, 3)`` uint8 RGB → what ``encode`` takes, of a size that does not depend on the picture."""
        ...

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Prepared pictures → ``(patches, dim)`` float16 each."""
        ...


@dataclass(frozen=True)
class Architecture:
    """How the tokens of a model type are found.

    Args:
        before: tokens of something else before those of the patches.
        grid: the tokens are a map ``(dim, height, width)``.
        any_size: it reads pictures of other sizes than its configuration states.
    """

    before: int = 0
    grid: bool = False
    any_size: bool = False


ARCHITECTURES = {
    "vit": Architecture(before=1),
    "clip": Architecture(before=1),  # its vision tower
    "clip_vision_model": Architecture(before=1),
    "siglip": Architecture(),
    "siglip_vision_model": Architecture(),
    "dinov2": Architecture(before=1, any_size=True),
    "efficientnet": Architecture(grid=True, any_size=True),
}


class VisionEncoder:
    """An ``ImageEncoder`` of a checkpoint in transformers layout, alone or inside a larger model.

    Args:
        folder: holds config.json, safetensors weights and preprocessor_config.json.
        dtype: of the computation; ``None`` takes ``fast_dtype()``.
        device: where it runs; ``meta`` builds the shape alone, without reading weights.

    Raises:
        ConfigError: an architecture that was not validated.
        AssetError: weights or pre-processing are missing, or the latter gives pictures of several sizes.
    """

    def __init__(
        self, folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> None:
        self.dtype, self.device = dtype or fast_dtype(), torch.device(device)
        meta = self.device.type == "meta"
        folder = check_folder(Path(folder), weights=not meta)
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if model_type not in ARCHITECTURES:
            fix = "To add one: a row in features/vision.py, and one that passes in features/test_vision.py."
            raise unknown_value(f"image.encoder: model type of {folder}", model_type, ARCHITECTURES, fix)
        self.architecture = ARCHITECTURES[model_type]
        self.processor = _load_processor(folder)
        self.model = load_tower(folder, TOWER, self.dtype, meta).to(self.device).eval()
        config = self.model.config
        self.dim = config.hidden_dim if self.architecture.grid else config.hidden_size
        self._key = {"encoder": config.model_type, "weights": None if meta else weights_hash(folder),
                     "settings": settings_hash(folder)}  # fmt: skip
        self._check_size(folder)

    def describe(self) -> dict:
        """See ``ImageEncoder``."""
        return self._key | {"dtype": str(self.dtype)}

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """``(height, width, 3)`` uint8 RGB → ``(3, size, size)`` float32."""
        made = self.processor([picture], input_data_format="channels_last", return_tensors="np")
        return np.asarray(made["pixel_values"][0], np.float32)

    @torch.inference_mode()
    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``ImageEncoder``. Values beyond float16 are clamped to it."""
        out: list[np.ndarray] = []
        limit = torch.finfo(torch.float16).max
        for start in range(0, len(prepared), BATCH):
            pixels = torch.from_numpy(np.stack(prepared[start : start + BATCH])).to(self.device, self.dtype)
            tokens = self._tokens(self.model(pixel_values=pixels).last_hidden_state)
            out.extend(tokens.float().clamp(-limit, limit).to("cpu", torch.float16).numpy())
        return out

    def _tokens(self, states: Tensor) -> Tensor:
        """``(batch, patches, dim)``."""
        return states.flatten(2).transpose(1, 2) if self.architecture.grid else states[:, self.architecture.before :]

    def _check_size(self, folder: Path) -> None:
        """Pictures of every form have to become one size, and most encoders have position embeddings of one alone."""
        shapes = {self.prepare(np.zeros((*size, 3), np.uint8)).shape for size in ((40, 20), (20, 40))}
        size = getattr(self.model.config, "image_size", None)
        if len(shapes) > 1 or not (self.architecture.any_size or shapes == {(3, size, size)}):
            made = " and ".join("×".join(map(str, shape[1:])) for shape in sorted(shapes))
            raise AssetError(
                f"{folder}/preprocessor_config.json makes pictures of {made} pixels, and the encoder reads one size, "
                f"{size}×{size}; set its size, or do_center_crop and crop_size"
            )


def _load_processor(folder: Path):
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil")
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{folder} holds no image processor; copy preprocessor_config.json of the model there"
        ) from error
