"""ONNX files of both sides of a model, checked against onnxruntime.

    text.onnx     input_ids, attention_mask                       → sentence_embedding
    speech.onnx   speech, speech_mask, prefix_ids, prefix_mask    → sentence_embedding
    image.onnx    image, image_mask, prefix_ids, prefix_mask      → sentence_embedding

``speech`` is what the frontend reads: int64 units ``(batch, time)`` of a discrete model, float32 frames
``(batch, time, dim)`` of a continuous one; ``image`` is float32 patches ``(batch, patches, dim)``. Masks are bool, true
where real. Batch and time are free. Prefixes and special tokens are in the ids: ``prefixes.json`` and
``tokenizer.json``, written beside, say how. The encoders of speech and pictures and k-means are not in the graph. Nor
are items of several media, and the splitting of long clips: speech (divided by the frontend's stride) and prefix
together, and a text, may have as many positions as the LLM has, beyond which a graph fails or gives poor vectors.

Weights are float32. A file is only kept when its vectors are those of PyTorch within ``TOLERANCE`` on batches of other
sizes than the ones it was traced with.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from speechde.cache import atomic_directory
from speechde.checkpoint.folder import TrainedModel
from speechde.errors import AssetError, ConfigError, DataError
from speechde.install import install_command
from speechde.models.dual_encoder import DualEncoder
from speechde.models.lora import merge_lora
from speechde.types import Inputs, Sequences

TOLERANCE = 1e-4  # largest difference of a component, in units of the longest vector of the batch
OPSET = 18
SIZES = ((2, 5, 3), (3, 17, 6), (1, 2, 1))  # batch, positions and prefix: the first is traced, all are compared
log = logging.getLogger(__name__)


class TextSide(nn.Module):
    """``encode`` of texts, on plain tensors."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode(Inputs([("text", Sequences(input_ids, attention_mask))]))


class MediumSide(nn.Module):
    """``encode`` of speech, or of a picture, behind its prefix, on plain tensors."""

    def __init__(self, model: DualEncoder, modality: str) -> None:
        super().__init__()
        self.model, self.modality = model.entered_at(modality), modality

    def forward(self, values: Tensor, mask: Tensor, prefix_ids: Tensor, prefix_mask: Tensor) -> Tensor:
        columns = [("text", Sequences(prefix_ids, prefix_mask)), (self.modality, Sequences(values, mask))]
        return self.model.encode(Inputs(columns))


@dataclass(frozen=True)
class Side:
    """One file: what it computes, and inputs of a given batch, length and prefix length to try it with."""

    file: str
    module: nn.Module
    inputs: Callable[[int, int, int], dict[str, Tensor]]


def export_onnx(trained: TrainedModel, folder: str | Path) -> dict[str, float]:
    """Write a file for each modality into a new folder; returns the largest difference of each to PyTorch.

    A model of text alone has ``text.onnx`` alone.

    Raises:
        AssetError: the packages of the extra ``onnx`` are missing, or a file gives other vectors than the model.
        ConfigError: the model cannot be exported: its LLM computes what ONNX, or PyTorch's exporter, cannot express.
        DataError: the folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; delete it, or export to another folder")
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise AssetError(f"{error}; install what is needed with: {install_command('onnx')}") from error
    merge_lora(trained.model.backbone)
    model = trained.model.cpu().float().eval()
    with atomic_directory(folder) as temporary:
        differences = {side.file: _export(side, model, temporary) for side in _sides(trained)}
        trained.write_inputs(temporary)
    return differences


def _sides(trained: TrainedModel) -> list[Side]:
    """Text and, where the model hears or sees, speech and pictures."""
    model = trained.model
    tokens = model.backbone.embedding.text_tokens
    draw = torch.Generator().manual_seed(0)
    settings = trained.settings

    def ids(batch: int, time: int, high: int = tokens) -> Tensor:
        return torch.randint(0, high, (batch, time), generator=draw)

    def mask(batch: int, time: int) -> Tensor:
        """Rows of different lengths, the longest of which is whole."""
        lengths = torch.linspace(time, max(1, time // 2), batch).long()
        return torch.arange(time) < lengths[:, None]

    def text(batch: int, time: int, _: int) -> dict[str, Tensor]:
        return {"input_ids": ids(batch, time), "attention_mask": mask(batch, time)}

    def medium(modality: str, drawn: Callable[[int, int], Tensor]) -> Side:
        def inputs(batch: int, time: int, prefix: int) -> dict[str, Tensor]:
            return {modality: drawn(batch, time), f"{modality}_mask": mask(batch, time),
                    "prefix_ids": ids(batch, prefix), "prefix_mask": mask(batch, prefix)}  # fmt: skip

        return Side(f"{modality}.onnx", MediumSide(model, modality), inputs)

    def speech(batch: int, time: int) -> Tensor:
        if settings.discrete:
            return ids(batch, time, settings.frontend.units)
        return torch.randn(batch, time, settings.frontend.frame_dim, generator=draw)

    def image(batch: int, patches: int) -> Tensor:
        return torch.randn(batch, patches, settings.patches.patch_dim, generator=draw)

    ways = {"speech": speech, "image": image}
    return [Side("text.onnx", TextSide(model), text), *(medium(name, ways[name]) for name in model.frontends)]


@torch.no_grad()
def _export(side: Side, model: DualEncoder, folder: Path) -> float:
    inputs = side.inputs(*SIZES[0])
    axes = tuple({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for _ in inputs)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel that ONNX does not have
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                side.module, tuple(inputs.values()), dynamo=True, dynamic_shapes=axes, opset_version=OPSET,
                input_names=list(inputs), output_names=["sentence_embedding"], verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever its many passes raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{side.file}: a model over {model.backbone.config.model_type!r} with attention="
            f"{model.backbone.attention!r} cannot be exported to ONNX ({reason})"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    program.save(folder / side.file, external_data=True)
    difference = max(_difference(side, folder, sizes) for sizes in SIZES)
    if not difference <= TOLERANCE:
        raise AssetError(
            f"{side.file} differs from the model by {difference:.1e}, more than {TOLERANCE:g}; not written"
        )
    log.info("%s: at most %.1e from PyTorch", side.file, difference)
    return difference


def _difference(side: Side, folder: Path, sizes: tuple[int, int, int]) -> float:
    import onnxruntime

    inputs = side.inputs(*sizes)
    expected = side.module(*inputs.values()).numpy()
    session = onnxruntime.InferenceSession(folder / side.file, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return float(np.abs(found - expected).max() / np.linalg.norm(expected, axis=1).max())
