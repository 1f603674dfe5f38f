"""Settings of a model folder come back as they were written, and what is none of them is refused by name."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import MISSING, fields, replace
from inspect import signature

import pytest

from speechde.checkpoint.folder import read_settings
from speechde.checkpoint.settings import FrameSettings, HeadSettings, PrefixSettings, Settings, UnitSettings
from speechde.errors import AssetError
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.models.prompt import Prompt

OPTIONAL = [("frontend", "downsample"), ("frontend", "mask_features"), ("head", "projection_gain"),
            ("head", "speech_layer"), ("speech", "mean_norm"), ("speech", "bpe")]  # fmt: skip
PATCHES = {"patch_dim": 6, "embedding_std": 1.0, "hidden": 8, "layers": 0, "heads": 2, "dropout": 0.1, "drop": 0.0,
           "entry_layer": 0}  # fmt: skip
SEEING = {
    "patches": PATCHES,
    "image": {"encoder": "a", "encoder_key": {"weights": "x"}},
    "prefix": {"image": "[Image] "},
}


@pytest.fixture
def stated(tiny_settings):
    """Everything that a folder of today states, none of it the default."""
    return tiny_settings(
        "continuous", frontend={"downsample": "attention", "mask_features": 2},
        head={"projection_gain": 2.0, "speech_layer": 1}, max_tokens=40, dims=[8, 5],
        training={"seen": ["fr_fr"], "of": 1.5},
    ).to_json()  # fmt: skip


def test_json_comes_back_as_it_was(stated):
    read = Settings.from_json(json.loads(json.dumps(stated)), "a file")
    assert read.to_json() == stated and not read.discrete
    assert read == Settings.from_json(deepcopy(stated), "another")
    assert (read.frontend.downsample, read.head.speech_layer, read.max_tokens) == ("attention", 1, 40)
    assert read.dims == (8, 5) and stated["dims"] == [8, 5]
    stated["speech"]["rate"] = 25  # a whole number stays one: json.dumps, and so a fingerprint, tells it from 25.0
    assert repr(Settings.from_json(stated, "a file").to_json()["speech"]["rate"]) == "25"


def test_a_model_that_does_not_see_says_nothing_of_pictures(tiny_settings):
    """So that older versions read its folder, and its fingerprint is theirs."""
    blind, seeing = tiny_settings().to_json(), tiny_settings(**SEEING).to_json()
    assert not {"patches", "image"} & blind.keys() and "image" not in blind["prefix"]
    assert seeing["prefix"]["image"] == "[Image] " and seeing["patches"] == PATCHES
    assert Settings.from_json(deepcopy(seeing), "a file").to_json() == seeing
    assert {key: value for key, value in seeing.items() if key not in ("patches", "image", "prefix")} == {
        key: value for key, value in blind.items() if key != "prefix"
    }
    other = tiny_settings(**SEEING | {"image": {"encoder": "b", "encoder_key": {"weights": "x"}}})
    assert other.decisive() == tiny_settings(**SEEING).decisive()
    weights = tiny_settings(**SEEING | {"image": {"encoder": "a", "encoder_key": {"weights": "y"}}})
    assert weights.decisive() != other.decisive()


def test_what_a_folder_leaves_out_is_the_default_and_stays_out(stated):
    for group, key in OPTIONAL:
        del stated[group][key]
    del stated["max_tokens"], stated["training"], stated["dims"]
    read = Settings.from_json(stated, "a file")
    assert (read.frontend.downsample, read.head.speech_layer, read.speech.bpe) == ("conv", 0, None)
    assert (read.speech.mean_norm, read.max_tokens, read.training, read.dims) == (0.0, 256, {}, ())
    assert read.to_json() == stated
    changed = replace(read, frontend=replace(read.frontend, mask_features=3), max_tokens=40, training={"seed": 1})
    stated["frontend"]["mask_features"] = 3
    assert changed.to_json() == stated | {"max_tokens": 40, "training": {"seed": 1}}


def test_a_path_a_record_and_the_sizes_decide_no_vector(tiny_settings):
    one = tiny_settings(speech={"encoder": "a"}, training={"seed": 1}, dims=[8, 5])
    assert one.decisive() == tiny_settings(speech={"encoder": "b"}, max_tokens=256).decisive()
    assert one.decisive() != tiny_settings(max_tokens=40).decisive()
    assert one.decisive() != tiny_settings(speech={"rate": 12.5}).decisive()


@pytest.mark.parametrize(
    ("schema", "taker"),
    [(UnitSettings, UnitFrontend), (FrameSettings, ContinuousFrontend), (HeadSettings, DualEncoder),
     (PrefixSettings, Prompt)],
)  # fmt: skip
def test_they_are_arguments_with_the_same_defaults(schema, taker):
    taken = signature(taker).parameters
    for each in fields(schema):
        if each.name != "speech_layer":  # of the head in a folder, and an argument of the frontend
            assert each.default in (MISSING, taken[each.name].default), each.name


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        (None, "head", None, "lacks head; fetch the folder again"),
        ("head", "normalise", None, "lacks head.normalise; fetch the folder again"),
        ("speech", "encoder_key", None, "lacks speech.encoder_key; fetch"),
        ("frontend", "kind", None, "lacks frontend.kind; fetch"),
        ("frontend", "kind", "mel", "frontend.kind: 'mel' is not known; allowed: continuous, discrete. A newer"),
        (None, "heads", {}, "the key: 'heads' is not known; allowed: .* Did you mean 'head'. A newer version may"),
        ("speech", "mean_nrom", 0.5, "'speech.mean_nrom' is not known; allowed: .* Did you mean 'speech.mean_norm'"),
        (None, "unstated", [], "the key: 'unstated' is not known"),
        ("frontend", "hidden", "8", "is damaged: frontend.hidden='8' is not of type int; fetch"),
        ("frontend", "layers", True, "frontend.layers=True is not of type int"),
        ("speech", "rate", "fast", "speech.rate='fast' is not of type float"),
        ("speech", "bpe", 1.5, r"speech.bpe=1.5 is not of type int \| None"),
        ("head", "normalise", 1, "head.normalise=1 is not of type bool"),
        (None, "dims", 8, r"dims=8 is not of type tuple\[int, \.\.\.\]"),
        (None, "dims", [8, 2.5], r"dims=\[8, 2\.5\] is not of type tuple"),
        (None, "training", [], r"training=\[\] is not of type dict"),
        (None, "prefix", "none", "is damaged: prefix holds no settings"),
    ],
)  # fmt: skip
def test_refused_by_name(stated, tmp_path, group, key, value, message):
    target = stated[group] if group else stated
    if value is None:
        del target[key]
    else:
        target[key] = value
    (tmp_path / "speechde.json").write_text(json.dumps(stated | {"format": 2}), "utf-8")
    with pytest.raises(AssetError, match=message) as error:
        read_settings(tmp_path)
    assert str(tmp_path / "speechde.json") in str(error.value) and "fetch the folder again" in str(error.value)
