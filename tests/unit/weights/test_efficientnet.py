"""The conversion of EfficientNet-Lite0, against a forward pass written from the paper in plain operations."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, EfficientNetModel

from speechde.cache import cache_root
from speechde.errors import AssetError
from speechde.weights.efficientnet import convert_efficientnet_lite0, read_pickled
from speechde.weights.packaged import converted_folder

# expansion, channels, repeats, stride and kernel of each stage (Tan and Le 2019, table 1)
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
          (6, 320, 1, 1, 3))  # fmt: skip


def blocks():
    """Of each block: channels in, out, expansion, stride, kernel."""
    channels = 32
    for expansion, out, repeats, stride, kernel in STAGES:
        for n in range(repeats):
            yield channels, out, expansion, stride if n == 0 else 1, kernel
            channels = out


def random_state():
    """Weights of the real layout; deviations keep the activations of sixteen blocks from vanishing."""
    draw = torch.Generator().manual_seed(0)
    state = {}

    def norm(name, width):
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=draw)
        state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=draw)
        state[f"{name}.running_mean"] = 0.3 * torch.randn(width, generator=draw)
        state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=draw)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def convolution(name, *shape):
        fan = shape[1] * shape[2] * shape[3]
        state[f"{name}.weight"] = torch.randn(shape, generator=draw) * (2 / fan) ** 0.5

    convolution("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for i, (channels, out, expansion, _, kernel) in enumerate(blocks()):
        here, inner = f"_blocks.{i}", channels * expansion
        if expansion > 1:
            convolution(f"{here}._expand_conv", inner, channels, 1, 1)
            norm(f"{here}._bn0", inner)
        convolution(f"{here}._depthwise_conv", inner, 1, kernel, kernel)
        norm(f"{here}._bn1", inner)
        convolution(f"{here}._project_conv", out, inner, 1, 1)
        norm(f"{here}._bn2", out)
    convolution("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    return state | {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}


def forward(state, pixels):
    """``(batch, 3, size, size)`` → ``(batch, 1280, size / 32, size / 32)``, with TensorFlow's "same" padding."""

    def convolve(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        for dim, size in ((3, x.shape[3]), (2, x.shape[2])):
            whole = max(0, (-(-size // stride) - 1) * stride + weight.shape[dim] - size)
            x = F.pad(x, (whole // 2, whole - whole // 2, 0, 0) if dim == 3 else (0, 0, whole // 2, whole - whole // 2))
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, weight, bias = (state[f"{name}.{part}"][:, None, None] for part in
                                   ("running_mean", "running_var", "weight", "bias"))  # fmt: skip
        return (x - mean) / torch.sqrt(var + 1e-3) * weight + bias

    x = norm(convolve(pixels, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for i, (channels, out, expansion, stride, _) in enumerate(blocks()):
        here, y = f"_blocks.{i}", x
        if expansion > 1:
            y = norm(convolve(y, f"{here}._expand_conv"), f"{here}._bn0").clamp(0, 6)
        y = norm(convolve(y, f"{here}._depthwise_conv", stride, channels * expansion), f"{here}._bn1").clamp(0, 6)
        y = norm(convolve(y, f"{here}._project_conv"), f"{here}._bn2")
        x = x + y if stride == 1 and channels == out else y
    return norm(convolve(x, "_conv_head"), "_bn1").clamp(0, 6)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A state dict of random weights, and the folder that it was converted to."""
    folder, state = tmp_path_factory.mktemp("lite0"), random_state()
    torch.save(state, folder / "weights.pth")
    (folder / "made").mkdir()
    convert_efficientnet_lite0(folder / "weights.pth", folder / "made")
    return state, folder / "made"


@pytest.mark.parametrize("size", [224, 64])
def test_the_converted_model_computes_what_the_paper_says(converted, size):
    state, folder = converted
    model, info = EfficientNetModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pixels = torch.rand(2, 3, size, size, dtype=torch.float64) * 2 - 1
    with torch.no_grad():  # in float64: through so many random layers rounding grows to 1e-3
        found = model.eval().double()(pixels).last_hidden_state
    expected = forward({name: value.double() for name, value in state.items()}, pixels)
    assert expected.shape[1:] == (1280, size // 32, size // 32) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_pixels_are_scaled_as_in_training(converted):
    processor = AutoImageProcessor.from_pretrained(converted[1], backend="pil")
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    (values,) = processor([picture], input_data_format="channels_last", return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(values, ((picture.astype(np.float32) - 127) / 128).transpose(2, 0, 1), atol=1e-6)
    wide = processor([picture[:50]], input_data_format="channels_last", return_tensors="np")["pixel_values"]
    assert wide.shape == (1, 3, 224, 224)


def test_gates_are_open_in_every_number_format():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.sigmoid(torch.tensor(40.0, dtype=dtype)) == 1


@pytest.mark.parametrize("change", ["missing", "shape", "further"])
def test_other_weights_are_refused(tmp_path, change):
    state = random_state()
    if change == "missing":
        del state["_blocks.3._bn1.bias"]
    elif change == "shape":
        state["_blocks.3._bn1.bias"] = torch.zeros(3)
    else:
        state["_blocks.16._bn1.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(AssetError, match=r"w\.pth does not hold an EfficientNet-Lite0: encoder\.blocks\."):
        convert_efficientnet_lite0(tmp_path / "w.pth", tmp_path)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(Harmful()), pickle.dumps([1, 2])])
def test_nothing_but_tensors_is_unpickled(tmp_path, content, capsys):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(AssetError, match=r"w\.pth"):
        read_pickled(tmp_path / "w.pth")
    assert "run" not in capsys.readouterr().out


def test_the_real_weights_compute_what_the_paper_says():
    folder = converted_folder("efficientnet-lite0", cache_root())
    if not folder.is_dir():
        pytest.skip(f"packaged:efficientnet-lite0 is not converted in {cache_root()}")
    model = EfficientNetModel.from_pretrained(folder).eval()
    names = {"embeddings.convolution": "_conv_stem", "embeddings.batchnorm": "_bn0", "encoder.top_conv": "_conv_head",
             "encoder.top_bn": "_bn1"}  # fmt: skip
    parts = {"expansion.expand_conv": "_expand_conv", "expansion.expand_bn": "_bn0",
             "depthwise_conv.depthwise_conv": "_depthwise_conv", "depthwise_conv.depthwise_norm": "_bn1",
             "projection.project_conv": "_project_conv", "projection.project_bn": "_bn2"}  # fmt: skip
    names |= {f"encoder.blocks.{i}.{new}": f"_blocks.{i}.{old}" for i in range(16) for new, old in parts.items()}
    state = {}
    for key, value in model.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if module in names:
            state[f"{names[module]}.{leaf}"] = value
    pixels = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        found = model(pixels).last_hidden_state
    torch.testing.assert_close(found, forward(state, pixels), rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1
