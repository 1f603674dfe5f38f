"""``init=MODEL``: a run of any recipe that starts from a trained model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from speechde import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel, assemble
from speechde.config import build
from speechde.errors import AssetError, ConfigError
from speechde.training import features, run, stage
from speechde.training.identity import asked_before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("first"), {}


@pytest.fixture
def first(trained, tiny_run):
    """``first(recipe)`` → run directory of a model trained on Spanish alone, once for all tests."""
    folder, known = trained

    def train(recipe="quickstart_narrow"):
        if recipe not in known:
            config = tiny_run(recipe, data__seen=["es_419"], runs_dir=str(folder / recipe))
            run.train(config)
            known[recipe] = run.run_directory(config)
        return known[recipe]

    return train


@pytest.fixture
def second(first, tiny_run):
    """``second(recipe, …)`` → configuration of the same recipe that goes on from its model, on French alone."""

    def make(recipe="quickstart_narrow", source=None, **overrides):
        options = {"init": str(source or first(recipe)), "data__seen": ["fr_fr"]}
        return tiny_run(recipe, **options | overrides)

    return make


def model(directory):
    return TrainedModel.load(directory / "model")


@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_without_training_in_effect_the_vectors_are_those_of_the_model(first, second, recipe):
    """Adam moves a weight by about the rate, however small its gradient is."""
    config = second(recipe, optim__lr=1e-30, optim__backbone_lr=1e-30, optim__weight_decay=0.0)
    metrics = run.train(config)
    before, after = (model(folder) for folder in (first(recipe), run.run_directory(config)))
    torch.testing.assert_close(after.model.state_dict(), before.model.state_dict(), rtol=0, atol=1e-25)
    assert after.settings.decisive() == before.settings.decisive()
    own = json.loads((first(recipe) / "results/metrics.json").read_text("utf-8"))["audio_to_text"]["per_language"]
    for lang, row in metrics["audio_to_text"]["per_language"].items():
        assert row["recall@1"] == own[lang]["recall@1"] and row["mrr"] == own[lang]["mrr"]


@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_the_folder_decides_the_model_and_the_configuration_the_rest(first, second, monkeypatch, recipe):
    config = second(recipe, model__freeze=["*"], frontend__drop=0.4, seed=5)
    monkeypatch.setattr(features, "fit_kmeans", lambda *_, **__: pytest.fail("k-means was fitted again"))
    metrics = run.train(config)
    before, after = (model(folder) for folder in (first(recipe), run.run_directory(config)))
    assert after.quantiser is None or after.quantiser.hash == before.quantiser.hash
    assert after.settings.frontend.drop == 0.4 and after.settings.speech == before.settings.speech
    frozen = before.model.backbone.embedding.text.weight
    assert torch.equal(after.model.backbone.embedding.text.weight, frozen)
    assert not torch.equal(after.model.projection.weight, before.model.projection.weight)
    record = after.settings.training
    assert (record["seen"], record["zero_shot"]) == (["es_419", "fr_fr"], ["ro_ro"])
    assert record["adapted_from"] == before.settings.training and record["llm"] == before.settings.training["llm"]
    assert record["seed"] == 5 and metrics["data"]["train"]["languages"] == 1
    roles = {lang: row["role"] for lang, row in metrics["audio_to_text"]["per_language"].items()}
    assert roles == {"es_419": "seen", "fr_fr": "seen", "ro_ro": "zero_shot"}, "what was heard once stays heard"
    assert not (run.run_directory(config) / "before").exists()


def test_what_is_open_is_filled_in(first, recipe_values):
    values = recipe_values("adapt", f"init={first()}", "adapt.enabled=false", "data.seen=[fr_fr]")
    config = build(stage.inherit(values))
    assert config.model.source == str(first() / "model") and config.frontend.kind == "continuous"


def test_a_model_folder_without_its_run_is_started_from(first, second, tmp_path):
    folder = shutil.copytree(first() / "model", tmp_path / "m")
    config = second(source=folder)
    assert run.train(config)["recipe"] == "quickstart_narrow"
    assert model(run.run_directory(config)).settings.training["seen"] == ["es_419", "fr_fr"]


@pytest.fixture
def hearing(tiny_run, tmp_path):
    """``hearing(**overrides)`` → model of texts, and configuration of a run of ``quickstart`` that gives it speech."""

    def make(**overrides):
        lines = [{"query": f"question {n}", "positive": f"answer {n}"} for n in range(8)]
        (tmp_path / "qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        qa = {"examples": str(tmp_path / "qa.jsonl"), "query": "ask: {item}"}
        read = tiny_run("texts", data={"name": "none"}, tasks={"qa": qa})
        run.train(read)
        source = run.run_directory(read)
        llm = {"model__source": None, "model__speech_layer": 1}
        return source, tiny_run("quickstart_narrow", init=str(source), **llm | overrides)

    return make


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_model_of_texts_learns_to_hear(hearing, kind):
    still = {"optim__lr": 1e-30, "optim__backbone_lr": 1e-30, "optim__weight_decay": 0.0}
    layer = {} if kind == "continuous" else {"model__speech_layer": 0}
    source, config = hearing(frontend__kind=kind, model__prefix__speech="heard: ", **still | layer)
    metrics = run.train(config)
    before, after = model(source), model(run.run_directory(config))
    assert after.settings.frontend.kind == kind and after.settings.head.speech_layer == (kind == "continuous")
    assert after.prompt.prefix("speech", "fr_fr") == "heard: " and after.prompt.named == before.prompt.named
    assert (after.quantiser is not None) == (kind == "discrete")
    assert after.settings.training["seen"] == ["es_419", "fr_fr"] and metrics["audio_to_text"]["per_language"]
    folders = source, run.run_directory(config)
    encoders = [SpeechTextEncoder.from_pretrained(folder, device="cpu") for folder in folders]
    vectors = [encoder.encode_text(["a text", "another"], language="fr_fr") for encoder in encoders]
    np.testing.assert_allclose(*vectors, atol=1e-6)


def test_weights_that_a_model_should_have_are_missed(hearing, monkeypatch):
    """What is begun has none yet; all else has to be there."""
    _, config = hearing()
    monkeypatch.setattr(stage, "assemble", lambda llm, settings: with_another_part(assemble(llm, settings)))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*another"):
        run.train(config)


def with_another_part(model):
    model.another = torch.nn.Linear(1, 1)
    return model


def test_a_model_of_texts_stays_one_unless_it_is_asked(hearing, recipe_values):
    source, _ = hearing()
    own = stage.inherit(recipe_values("texts", f"init={source}", "model=trained"))
    assert own["frontend"]["kind"] == "none" and own["model"]["speech_layer"] == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model__source": "packaged:multilingual-e5-small"},
            r"model\.source=packaged:multilingual-e5-small \(it has ",
        ),
        ({"model__num_layers": 1}, r"model\.num_layers=1 \(it has None\)"),
        ({"model__init": "random"}, r"model\.init=random \(it has pretrained\)"),
        ({"model__dropout": 0.3}, r"model\.dropout=0\.3 "),
        ({"frontend__hidden": 16, "mode": "faithful"}, r"mode=faithful .*frontend\.hidden=16 \(it has 8\): decided by"),
        (
            {"frontend__kind": "discrete"},
            r"frontend\.kind=discrete \(it has continuous\): decided by the trained model",
        ),
        ({"loss__similarity": "dot"}, r"loss\.similarity=dot, .* compares by cosine; add loss=modern"),
    ],
)
def test_another_model_is_refused(second, overrides, message):
    with pytest.raises(ConfigError, match=message):
        second(**overrides)


def test_the_number_of_layers_may_be_stated(second):
    assert second(model__num_layers=2).model.num_layers is None


def test_a_run_that_is_not_done(second, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(AssetError, match=r"run is not done: it has no model yet; start its command again"):
        second(source=tmp_path / "run")
    with pytest.raises(AssetError, match="none does not exist"):
        second(source=tmp_path / "none")


def test_another_encoder_is_refused(second, tiny_speech_encoder):
    config = second(frontend__encoder=str(tiny_speech_encoder("hubert")))
    with pytest.raises(AssetError, match="the model was trained on frames of"):
        run.train(config)


def test_a_run_goes_on_only_from_the_model_it_started_from(first, second, tmp_path):
    folder = shutil.copytree(first() / "model", tmp_path / "m")
    config = second(source=folder, model__freeze=[])
    run.train(config)
    directory = run.run_directory(config)
    shutil.rmtree(directory / "results")
    shutil.rmtree(folder)
    other = TrainedModel.load(first() / "model")
    with torch.no_grad():
        other.model.projection.weight += 1
    other.save(folder)
    with pytest.raises(ConfigError, match=r"initial model: \w{16} → \w{16}"):
        run.train(config)


def test_the_split_is_compared_with_that_of_the_model(first, second, monkeypatch):
    config, checked = second(), []
    monkeypatch.setattr(stage, "check_split", lambda data, record: checked.append((data, record)))
    run.train(config)
    assert checked[0] == (config.data, model(first()).settings.training)


def test_a_stage_is_what_it_says_when_it_is_asked_again(second):
    config = second()
    run.train(config)
    stored = json.loads((run.run_directory(config) / "results/metrics.json").read_text("utf-8"))
    assert asked_before(stored["config"])["init"] == config.init
    before = (run.run_directory(config) / "checkpoints/best.ckpt").stat().st_mtime_ns
    run.train(config)
    assert (run.run_directory(config) / "checkpoints/best.ckpt").stat().st_mtime_ns == before
