"""The model card says what the run's own files say, in a form that hubs read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from speechde.checkpoint.card import FILE, model_card, write_card
from speechde.checkpoint.folder import TrainedModel


@pytest.fixture
def trained(tiny_model):
    trained = TrainedModel.load(tiny_model("discrete"))
    trained.settings.training.update({
        "overrides": "x:1", "dev_recall@1": 0.5, "hardware": "a machine",
        "llm": {"source": "packaged:multilingual-e5-small", "sha256": "a" * 64},
        "data": {"corpus": "made up", "licences": {"made up": "CC0-1.0", "cldr": ""}},
        "config": {"trainer": {"max_seconds": 4.0}},
    })  # fmt: skip
    return trained


@pytest.fixture
def metrics(write_run, tmp_path):
    folder = write_run(tmp_path / "run")
    metrics = json.loads((folder / "results/metrics.json").read_text("utf-8"))
    metrics["data"]["train"] |= {"languages": 2, "transcripts": 18}
    metrics["data"]["dropped"] = {"no transcript": 3, "silent": 0}
    return metrics


def test_metadata_is_what_hubs_read(trained, metrics):
    card = ModelCard(model_card(trained, metrics))
    assert card.data.language == ["es", "fr", "ro"] and card.data.license == "other" and card.data.license_name
    assert card.data.library_name == "speechde" and "sentence-transformers" in card.data.tags
    assert card.data.base_model == ["intfloat/multilingual-e5-small"]
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    for role, name in (("seen", "mean over 2 seen"), ("zero_shot", "mean over 1 zero-shot")):
        expected = round(100 * metrics["audio_to_text"][role]["recall@1"], 2)
        assert found[f"recall@1, {name} languages"] == expected


def test_everything_of_the_run_is_there(trained, metrics):
    text = model_card(trained, metrics)
    for role in ("seen", "zero_shot"):
        row = metrics["audio_to_text"][role]
        low, high = (f"{100 * bound:.1f}" for bound in row["ci95"])
        assert f"| {100 * row['chance']:.1f} | {100 * row['recall@1']:.1f} [{low}, {high}] |" in text
    for lang in ("Catalan (ca_es) | seen | 12 | 12 |", "Romanian (ro_ro) | zero-shot | 12 | 12 |"):
        assert lang in text
    assert "| train | 2 | 20 | 5 | 18 |" in text and "Synthetic speech is machine-made" in text
    assert "Left out: 3 no transcript." in text, "and no reason that dropped nothing"
    assert "Zero-shot, never trained on: Romanian (ro_ro)." in text
    assert "at most 4.0 s long" in text and "8 k-means units" in text
    for licence in ("| MIT |", "| CC0-1.0 |", "| training data | cldr | not stated here |"):
        assert licence in text
    hashed = trained.settings.speech.encoder_key["weights"]
    assert f"SHA-256 `{'a' * 64}`" in text and f"SHA-256 `{hashed}`" in text
    assert "overrides `x:1`, seed 3, commit `0123abc`, a machine" in text and metrics["command"] in text
    assert "2404.01616" in text
    assert trained.settings.speech.encoder not in text, "no path of this machine is published"


def test_languages_of_synthetic_speech_alone_are_told_apart(trained, metrics):
    assert "speech alone" not in model_card(trained, metrics)
    trained.settings.training["seen_synthetic"] = ["de_de", "cy_gb"]
    card = ModelCard(model_card(trained, metrics))
    assert card.data.language == ["cy", "de", "es", "fr", "ro"]
    assert "On *synthetic* speech alone of 2 more: German (de_de), Welsh (cy_gb).\n" in str(card)


def test_a_language_without_an_interval_and_a_role_without_languages(trained, metrics):
    rows = metrics["audio_to_text"]
    rows["zero_shot"] = {"languages": 0, "recall@1": None, "ci95": None}
    rows["per_language"]["ca_es"]["ci95"] = None
    card = ModelCard(model_card(trained, metrics))
    assert len(card.data.eval_results) == 1
    assert "| Catalan (ca_es) | seen | 12 | 12 | 8.3 | " in str(card)


def test_a_record_of_an_earlier_version(trained, metrics):
    """It names neither the LLM nor the configuration; the results of the run do."""
    del trained.settings.training["llm"], trained.settings.training["config"]
    metrics["config"] = {"model": {"source": "packaged:gemma-3-270m"}, "trainer": {"max_seconds": 6.0}}
    text = model_card(trained, metrics)
    assert "Its LLM (packaged:gemma-3-270m: google/gemma-3-270m" in text and "at most 6.0 s long" in text
    assert "| Gemma Terms of Use |" in text


def test_a_model_that_was_not_evaluated_and_one_without_a_record(trained):
    text = model_card(trained)
    assert "before its model was evaluated" in text and ModelCard(text).data.eval_results is None
    trained.settings.training.clear()
    text = model_card(trained)
    assert "no training record" in text and "| LLM | not stated here |" in text
    assert ModelCard(text).data.language is None


def test_the_card_of_a_folder_is_replaced_and_kept(trained, metrics, tmp_path):
    trained.card = None
    trained.save(tmp_path / "m")
    assert "before its model was evaluated" in (tmp_path / "m" / FILE).read_text("utf-8")
    write_card(tmp_path / "m", trained, metrics)
    loaded = TrainedModel.load(tmp_path / "m")
    assert loaded.card == trained.card == model_card(trained, metrics)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_text("utf-8") == trained.card


def test_sizes_of_the_vectors(trained, metrics):
    assert "several sizes" not in model_card(trained, metrics) and "| size |" not in model_card(trained, metrics)
    trained.settings = replace(trained.settings, dims=(16, 8))
    rows = {role: metrics["audio_to_text"][role] for role in ("seen", "zero_shot")}
    text = model_card(trained, metrics | {"sizes": {"8": {"audio_to_text": rows}, "16": {"audio_to_text": rows}}})
    assert "`from_pretrained(…, dim=8)`" in text and "the sizes are 16, 8." in text
    table = text[text.index("| size |") :].splitlines()[2:6]
    assert [line.split(" | ")[:2] for line in table] == [
        ["| 16", "seen"], ["| 16", "zero-shot"], ["| 8", "seen"], ["| 8", "zero-shot"]
    ]  # fmt: skip
