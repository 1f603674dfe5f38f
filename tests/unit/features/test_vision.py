"""Every vision architecture that may be read, as a tiny random model of the real class, against transformers' own."""

from __future__ import annotations

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModel

from speechde.errors import AssetError, ConfigError
from speechde.features.vision import ARCHITECTURES, VisionEncoder
from speechde.weights import resolve
from speechde.weights.packaged import converted_folder

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "image_size": 16, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9}
NET = {"image_size": 64, "hidden_dim": 320, "width_coefficient": 0.25, "depth_coefficient": 0.1}
SQUARE = {"size": {"height": 16, "width": 16}}
CROP = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
# model type → its config, image processor and the processor's settings, tokens of a picture
TINY = {
    "vit": (SHAPE, "ViT", SQUARE, 4),
    "clip": ({"vision_config": SHAPE, "text_config": TEXT, "projection_dim": 8}, "CLIP", CROP, 4),
    "clip_vision_model": (SHAPE, "CLIP", CROP, 4),
    "siglip": ({"vision_config": SHAPE, "text_config": TEXT}, "Siglip", SQUARE, 4),
    "siglip_vision_model": (SHAPE, "Siglip", SQUARE, 4),
    "dinov2": (SHAPE | {"image_size": 40}, "Bit", CROP, 4),
    "efficientnet": (NET, "EfficientNet", {"size": {"height": 64, "width": 64}, "include_top": False}, 4),
}
each_architecture = pytest.mark.parametrize("name", TINY)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """``folder_of(model_type)`` → folder of a random checkpoint, weights wide enough to tell pictures apart."""

    @cache
    def build(name):
        torch.manual_seed(1)
        folder = tmp_path_factory.mktemp(name)
        config, processor, settings, _ = TINY[name]
        model = AutoModel.from_config(CONFIG_MAPPING[name](**json.loads(json.dumps(config))))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        if name == "efficientnet":  # or nothing is left of a picture behind so many layers
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.reset_parameters()
            model.train()(pixel_values=torch.randn(8, 3, 64, 64))
        model.save_pretrained(folder)
        getattr(transformers, f"{processor}ImageProcessorPil")(**settings).save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="module")
def pictures():
    draw = np.random.default_rng(0)
    sizes = ((40, 30), (16, 90), (2, 3), (64, 64), (3, 200))
    return [draw.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def encode(encoder, pictures):
    return encoder.encode([encoder.prepare(picture) for picture in pictures])


def test_the_table_names_every_architecture():
    assert TINY.keys() == ARCHITECTURES.keys()


@each_architecture
def test_tokens_equal_transformers(folder_of, pictures, name):
    folder, encoder = folder_of(name), VisionEncoder(folder_of(name), torch.float32)
    whole = AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    for picture, found in zip(pictures, encode(encoder, pictures), strict=True):
        pixels = processor([picture], input_data_format="channels_last", return_tensors="pt")
        with torch.no_grad():
            if name in ("clip", "siglip"):
                states = whole.vision_model(**pixels).last_hidden_state[0]
            else:
                states = whole(**pixels).last_hidden_state[0]
        if name == "efficientnet":
            states = torch.stack([states[:, row, column] for row in range(2) for column in range(2)])
        elif not name.startswith("siglip"):
            states = states[1:]
        assert found.dtype == np.float16 and found.shape == (TINY[name][3], encoder.dim) and found.std() > 0.05
        np.testing.assert_allclose(found, states.numpy(), rtol=2e-3, atol=2e-3)


@each_architecture
def test_tokens_do_not_depend_on_the_batch(folder_of, pictures, name):
    encoder = VisionEncoder(folder_of(name), torch.float32)
    many = [pictures[i % len(pictures)] for i in range(37)]
    for picture, together in zip(many, encode(encoder, many), strict=True):
        np.testing.assert_allclose(encode(encoder, [picture])[0], together, rtol=2e-3, atol=2e-3)
    assert np.abs(encode(encoder, pictures[:1])[0] - encode(encoder, pictures[1:2])[0]).max() > 0.02


@each_architecture
def test_the_shape_is_known_without_weights(folder_of, name):
    encoder, shape = VisionEncoder(folder_of(name), torch.float32), VisionEncoder(folder_of(name), device="meta")
    assert shape.dim == encoder.dim
    assert {**shape.describe(), "weights": None, "dtype": ""} == {**encoder.describe(), "weights": None, "dtype": ""}


def test_what_decides_the_tokens_is_described(folder_of, tmp_path):
    copy = shutil.copytree(folder_of("vit"), tmp_path / "copy")
    same = VisionEncoder(folder_of("vit"), torch.float32).describe()
    assert VisionEncoder(copy, torch.float32).describe() == same
    assert VisionEncoder(copy, torch.bfloat16).describe() != same
    processor = transformers.AutoImageProcessor.from_pretrained(copy, backend="pil")
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(copy)
    assert VisionEncoder(copy, torch.float32).describe() != same


def test_other_architectures_are_refused_with_the_list(tmp_path, tiny_llm):
    with pytest.raises(ConfigError, match=r"image\.encoder: model type of .*'gemma3_text' is not known.*efficientnet"):
        VisionEncoder(tiny_llm())


def test_what_is_missing_is_named(folder_of, tmp_path):
    copy = shutil.copytree(folder_of("vit"), tmp_path / "copy")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(AssetError, match=r"no image processor; copy preprocessor_config\.json"):
        VisionEncoder(copy)
    weights = load_file(folder_of("vit") / "model.safetensors")
    name = next(name for name in weights if name.endswith("attention.q_proj.weight") or "query.weight" in name)
    shutil.copy(folder_of("vit") / "preprocessor_config.json", copy)
    save_file(
        {key: value for key, value in weights.items() if key != name}, copy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(AssetError, match="lacks 1 weights of a vit"):
        VisionEncoder(copy)


@pytest.mark.parametrize(
    "settings", [{"size": {"height": 24, "width": 24}}, {"size": {"shortest_edge": 16}, "do_center_crop": False}]
)
def test_pre_processing_that_does_not_fit_the_encoder_is_refused(folder_of, tmp_path, settings):
    copy = shutil.copytree(folder_of("clip"), tmp_path / "copy")
    transformers.CLIPImageProcessorPil(**{"crop_size": {"height": 24, "width": 24}} | settings).save_pretrained(copy)
    with pytest.raises(AssetError, match=r"the encoder reads one size, 16×16; set its size"):
        VisionEncoder(copy)


def test_the_packaged_encoder_tells_pictures_apart():
    from speechde.cache import cache_root

    if not converted_folder("efficientnet-lite0", cache_root()).is_dir():
        pytest.skip("packaged:efficientnet-lite0 is not converted")
    encoder = VisionEncoder(resolve("packaged:efficientnet-lite0"), torch.float32)
    disc = np.hypot(*np.mgrid[-60:60, -60:60])[..., None] < 40
    red, blue = (np.where(disc, colour, 255).astype(np.uint8) for colour in ((200, 30, 30), (30, 30, 200)))
    stripes = np.broadcast_to((np.arange(120) // 6 % 2 * 255)[:, None, None], (120, 120, 3)).astype(np.uint8)
    found = [tokens.astype(np.float32).mean(0) for tokens in encode(encoder, [red, blue, stripes])]
    assert encoder.dim == 1280 and encode(encoder, [red])[0].shape == (49, 1280)
    assert np.corrcoef(found)[0, 1] > np.corrcoef(found)[0, 2] + 0.1
