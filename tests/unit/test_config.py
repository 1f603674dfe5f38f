"""The typed configuration: what is refused names what is allowed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from speechde.config import RunConfig, build
from speechde.config.earlier import as_today
from speechde.errors import ConfigError
from speechde.losses.contrastive import SIMILARITIES
from speechde.models.backbone import INITS
from speechde.models.dual_encoder import PROJECTION_INITS
from speechde.models.prompt import MODES
from speechde.models.vocabulary import AUDIO_INITS
from speechde.types import SPLITS

ROOT = Path(__file__).resolve().parents[2]


def allowed(schema, name):
    return set(type(schema).__dataclass_fields__[name].metadata["allowed"])


def test_nothing_given_is_the_defaults():
    assert build({}) == RunConfig()
    assert build(asdict(RunConfig())) == RunConfig()


def test_a_group_that_may_be_missing():
    assert build({"adapt": {"old": None}}).adapt.old is None
    assert build({"adapt": {"old": {"name": "fleurs"}}}).adapt.old.name == "fleurs"
    with pytest.raises(ConfigError, match=r"adapt\.old\.limit='x' is a str"):
        build({"adapt": {"old": {"limit": "x"}}})


def test_values_reach_their_fields():
    config = build({"seed": 3, "data": {"seen": ["fr_fr"], "train_share": 1}, "model": {"dim": 8}})
    assert (config.seed, config.data.seen, config.data.train_share, config.model.dim) == (3, ["fr_fr"], 1.0, 8)
    assert type(config.data.train_share) is float and config.model.num_layers is None


@pytest.mark.parametrize(("text", "pair"), [(None, None), ("1/1", (1, 1)), ("3/16", (3, 16)), ("16/16", (16, 16))])
def test_a_shard_is_read_as_a_pair(text, pair):
    assert build({"frontend": {"shard": text}}).frontend.share == pair


def test_ends_of_an_interval():
    build(
        {"data": {"train_share": 1}, "frontend": {"drop": 0}, "optim": {"warmup_share": 1}}
        | {"tasks": {"speech": {"examples": "clips", "shares": {"synthetic": 0}}}}
    )
    assert build({"trainer": {"micro_batch": None}}).trainer.micro_batch is None


def test_defaults_are_not_shared_between_configurations():
    build({}).data.seen.append("fr_fr")
    assert build({}).data.seen == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sead": 1}, r"config key of the run: 'sead' is not known; allowed: .*seed.*Did you mean 'seed'"),
        ({"model": {"dimm": 1}}, r"config key model: 'dimm' is not known; allowed: .*dim.*Did you mean 'dim'"),
        ({"data": {"synthetic": {"limt": 1}}}, r"config key data\.synthetic: 'limt'.*Did you mean 'limit'"),
        ({"mode": "faithfull"}, r"mode: 'faithfull' is not known; allowed: faithful, modern"),
        ({"trainer": {"precision": "16"}}, r"trainer\.precision: '16'.*allowed: 32-true, auto, bf16-mixed"),
        ({"trainer": {"steps": 1.5}}, r"trainer\.steps=1\.5 is a float; it must be a int"),
        ({"trainer": {"steps": True}}, r"trainer\.steps=True is a bool; it must be a int"),
        ({"trainer": {"steps": None}}, r"trainer\.steps=None"),
        ({"optim": {"lr": "1e-3"}}, r"optim\.lr='1e-3' is a str; it must be a float"),
        ({"optim": {"lr": True}}, r"optim\.lr=True is a bool"),
        ({"trainer": {"resume": 1}}, r"trainer\.resume=1 is a int; it must be a bool"),
        ({"data": {"seen": "fr_fr"}}, r"data\.seen='fr_fr' is not a list; write data\.seen=\[a,b\]"),
        ({"data": {"seen": [1]}}, r"data\.seen\[0\]=1 is a int; it must be a str"),
        ({"data": {"zero_shot": "fr_fr"}}, r"data\.zero_shot='fr_fr' is not a list"),
        ({"frontend": {"speeds": ["fast"]}}, r"frontend\.speeds\[0\]='fast'"),
        ({"frontend": {"kind": "continuous", "bpe": 4096}}, r"frontend\.bpe=4096 needs units; set .*kind=discrete"),
        ({"frontend": {"units": 1024, "bpe": 1023}}, r"frontend\.bpe=1023 is below frontend\.units=1024, .*raise"),
        ({"trainer": {"eval_every": 0}}, r"trainer\.eval_every=0 is outside \[1, ∞\)"),
        ({"trainer": {"batch_size": 1}}, r"trainer\.batch_size=1 is outside \[2, ∞\)"),
        ({"frontend": {"drop": 1.0}}, r"frontend\.drop=1\.0 is outside \[0, 1\)"),
        ({"frontend": {"speeds": [1.0, 0.0]}}, r"frontend\.speeds\[1\]=0\.0 is outside \(0, ∞\)"),
        ({"optim": {"lr": float("nan")}}, r"optim\.lr=nan is outside"),
        ({"data": {"train_share": 1.5}}, r"data\.train_share=1\.5 is outside \(0, 1\]"),
        ({"tasks": {"speech": {"examples": "clips", "shares": {"synthetic": 2}}}},
         r"tasks\.speech\.shares\.synthetic=2\.0 is outside \[0, 1\]"),
        ({"optim": {"lr": -1}}, r"optim\.lr=-1\.0 is outside"),
        ({"frontend": {"speeds": [1, 0]}}, r"frontend\.speeds\[1\]=0\.0 is outside \(0, ∞\)"),
        ({"seed": -1}, r"seed=-1 is outside"),
        ({"frontend": {"ray_workers": -1}}, r"frontend\.ray_workers=-1 is outside \[0, ∞\)"),
        *(({"frontend": {"shard": text}}, rf"frontend\.shard='{text}' is not I/N with 1 ≤ I ≤ N; write .*shard=3/16")
          for text in ("3", "0/4", "5/4", "a/b", "1/0", "-1/4", "1/4/2", "1.0/2", "", " 1/2")),
        ({"image": {"kind": "pixels"}}, r"image\.kind: 'pixels' is not known; allowed: none, patches"),
        ({"model": {"image_layer": -1}}, r"model\.image_layer=-1 is outside \[0, ∞\)"),
        ({"model": "gemma"}, r"model='gemma' is not a group of settings; .*model\.source=…"),
    ],
)  # fmt: skip
def test_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(values)


def test_closed_sets_are_those_of_the_library():
    config = RunConfig()
    assert allowed(config.model, "init") == set(INITS)
    assert allowed(config.model, "projection_init") == set(PROJECTION_INITS)
    assert allowed(config.model, "audio_init") == set(AUDIO_INITS)
    assert allowed(config.model.prefix, "mode") == set(MODES)
    assert allowed(config.loss, "similarity") == set(SIMILARITIES)
    assert allowed(config.eval, "split") < set(SPLITS)


def test_adapting_needs_a_model():
    with pytest.raises(ConfigError, match=r"adapt\.enabled=true adapts a trained model; name it: init="):
        build({"adapt": {"enabled": True}})


@pytest.mark.parametrize("name", ["adapt/greek", "quickstart/default-s0"])
def test_settings_of_earlier_results_have_todays_names(name):
    stored = json.loads((ROOT / "results" / name / "metrics.json").read_text("utf-8"))["config"]
    config = build(as_today(stored))
    assert config.init == stored.get("adapt", {}).get("checkpoint") and config.adapt.enabled == (
        config.init is not None
    )
    assert as_today(asdict(config)) == asdict(config)
