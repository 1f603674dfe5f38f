"""The record of a run: what was trained on, from what, and how to do it again."""

from __future__ import annotations

import json

import pytest

from speechde.checkpoint.folder import TrainedModel, languages_heard
from speechde.errors import AssetError
from speechde.evaluation.speech import data_counts
from speechde.training.record import stored_record, training_record
from speechde.types import Corpus
from speechde.weights import weights_hash


def test_the_record_names_everything(tiny_run, clips, tiny_llm, tmp_path):
    config = tiny_run()
    seen = [u for u in clips if u.lang == "fr_fr"]
    corpora = [Corpus("clips", clips, ("fr_fr",), ("ro_ro",), licence="CC0"), Corpus("more", [], ("fr_fr",))]
    split = {name: data_counts([u for u in seen if u.split == name]) for name in ("train", "dev")}
    record = training_record(config, corpora, split, {"commit": "0123abc", "hardware": "a machine"}, 0.5)
    assert json.loads(json.dumps(record)) == record
    assert record["seen"] == ["fr_fr"] and record["zero_shot"] == ["ro_ro"] and record["dev_recall@1"] == 0.5
    assert record["data"]["licences"] == {"clips": "CC0", "more": ""}
    assert record["data"]["train"]["recordings"] == 5 and record["data"]["dev"]["transcripts"] == 3
    assert record["llm"]["sha256"] == weights_hash(tiny_llm("gemma3_text"))
    assert record["config"]["model"]["source"] == str(tiny_llm("gemma3_text"))
    assert "runs_dir" not in record["config"] and "cache_dir" not in record["config"]
    assert record["seen_synthetic"] == [] and languages_heard(record) == ("fr_fr",)
    corpora[1].seen = ("fr_fr", "de_de", "it_it")
    record = training_record(config, corpora, split, {"commit": "", "hardware": ""}, 0.5)
    assert record["seen"] == ["fr_fr"] and languages_heard(record) == ("fr_fr", "de_de", "it_it")
    learned = [Corpus("clips", [], ("de_de",))]
    after = training_record(config, learned, split, {"commit": "", "hardware": ""}, 0.5, record)
    assert after["seen"] == ["fr_fr", "de_de"] and after["seen_synthetic"] == ["it_it"]
    config.model.init = "random"
    assert training_record(config, corpora, split, {"commit": "", "hardware": ""}, 0.5)["llm"]["sha256"] is None


def test_a_model_that_is_there_keeps_its_record(tiny_model, tmp_path):
    assert stored_record(tmp_path / "model") is None
    with pytest.raises(AssetError, match=r"is not a trained model: it has no speechde\.json"):
        stored_record(tmp_path)
    folder = tiny_model("discrete")
    assert stored_record(folder) == TrainedModel.load(folder).settings.training
