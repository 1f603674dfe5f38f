"""``recipe=adapt``: a trained model learns a language, keeps what defines it, and is compared with itself before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechde.checkpoint.folder import TrainedModel, read_settings
from speechde.config import build
from speechde.corpora.manifest import write_manifest
from speechde.errors import AssetError, ConfigError, DataError
from speechde.features.sets import build_encoder
from speechde.scoring import evaluate
from speechde.training import features, fit, run, stage
from speechde.training.features import Features
from speechde.training.stage import inherit
from speechde.training.tasks import mixture, task_examples

STEPS = {"trainer__steps": 2, "trainer__eval_every": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Run directories of the models trained so far, by what was asked for."""
    return tmp_path_factory.mktemp("base"), {}


@pytest.fixture
def base(trained, tiny_run):
    """``base(recipe, **overrides)`` → run directory of a model trained on Spanish alone, once for all tests."""
    folder, known = trained

    def train(recipe="quickstart_narrow", **overrides):
        key = (recipe, *overrides.items())
        if key not in known:
            config = tiny_run(recipe, data__seen=["es_419"], runs_dir=str(folder / str(len(known))), **overrides)
            run.train(config)
            known[key] = run.run_directory(config)
        return known[key]

    return train


@pytest.fixture
def adapting(tiny_run):
    """``adapting(directory, **overrides)`` → configuration that teaches its model Romanian; French stays zero-shot."""

    def make(directory, **overrides):
        options = {"init": str(directory), "data__seen": ["ro_ro"], "data__zero_shot": []}
        if json.loads((directory / "model/speechde.json").read_text("utf-8"))["frontend"]["kind"] == "discrete":
            options |= {"loss__similarity": "dot", "model__freeze": ["embedding.text.*"]}
        return tiny_run("adapt", **options | STEPS | overrides)

    return make


def read(path):
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [("stamps", {}), ("stamps", {"frontend__bpe": 12, "frontend__unit_layers": 1}), ("quickstart_narrow", {})],
)
def test_adapts_and_compares(base, adapting, recipe, options, monkeypatch):
    source = base(recipe, **options)
    config = adapting(source)
    monkeypatch.setattr(features, "fit_kmeans", lambda *_, **__: pytest.fail("k-means was fitted again"))
    monkeypatch.setattr(features, "train_bpe", lambda *_: pytest.fail("the BPE was trained again"))
    metrics = run.train(config)
    directory = run.run_directory(config)
    before, after = (TrainedModel.load(folder / "model") for folder in (source, directory))

    roles = {lang: row["role"] for lang, row in metrics["audio_to_text"]["per_language"].items()}
    assert roles == {"es_419": "seen", "ro_ro": "seen", "fr_fr": "zero_shot"}
    lengths = {f"{q} %": 0.3 for q in (5, 50, 95)}
    known = {"recordings": 10, "synthetic": 0, "transcripts": 10, "languages": 2, "seconds": lengths}
    assert metrics["data"]["train"] == known
    record = after.settings.training
    assert (record["seen"], record["zero_shot"]) == (["es_419", "ro_ro"], ["fr_fr"])
    assert record["adapted_from"] == before.settings.training
    assert after.settings.speech == before.settings.speech and after.settings.prefix == before.settings.prefix
    if recipe == "stamps":
        assert after.quantiser.hash == before.quantiser.hash
    else:
        new, old = (each.model.frontends["speech"] for each in (after, before))
        assert torch.equal(new.frame_mean, old.frame_mean)
        assert torch.equal(new.frame_std, old.frame_std)
    assert not torch.equal(after.model.projection.weight, before.model.projection.weight)

    # what the comparison calls "before" is what evaluation of the model that it started from says
    own = evaluate(adapting(source, data__seen=["es_419"], data__zero_shot=None), source)
    old = read(directory / "before/results/metrics.json")["audio_to_text"]["per_language"]
    assert old == own["audio_to_text"]["per_language"]
    table = read(directory / "results/before_after.json")
    assert [(row["name"], row["role"]) for row in table["languages"]] == [
        ("ro_ro", "new"), ("es_419", "old"), ("fr_fr", "zero-shot")]  # fmt: skip
    for row in table["languages"]:
        new = metrics["audio_to_text"]["per_language"][row["name"]]["recall@1"]
        assert (row["recall_a"], row["recall_b"]) == pytest.approx((new, old[row["name"]]["recall@1"]))
    text = (directory / "results/before_after.md").read_text("utf-8")
    assert "| new | 1 | 3 |" in text and f"before: {source}" in text and "after − before [95 % CI]" in text


def test_no_steps_in_effect_change_nothing(base, adapting):
    """With a rate too small to matter, the model stays the same: weights really come from the folder.

    Adam moves a weight by about the rate however small its gradient is, and a key's bias, whose gradient is what
    rounding leaves of zero, may be moved or not, as the processor rounds.
    """
    source = base()
    config = adapting(source, optim__lr=1e-30, optim__backbone_lr=1e-30)
    run.train(config)
    before, after = (
        TrainedModel.load(folder / "model").model.state_dict() for folder in (source, run.run_directory(config))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-25)
    table = read(run.run_directory(config) / "results/before_after.json")
    assert [row["difference"] for row in table["languages"]] == [0, 0, 0]
    assert [(row["won"], row["lost"]) for row in table["languages"]] == [(0, 0)] * 3


@pytest.mark.parametrize(("replay", "langs"), [(0.5, {"ro_ro", "es_419"}), (0.0, {"ro_ro"})])
def test_what_training_and_the_choice_of_the_checkpoint_are_given(base, adapting, clips, monkeypatch, replay, langs):
    source, pairs, dev = base(), [], []

    class Examples(fit.ExampleDataset):
        def __init__(self, tasks, *rest):
            pairs.extend(u for task in tasks for stream in task.streams for u in stream.utterances)
            super().__init__(tasks, *rest)

    class Recall(fit.DevRecall):
        def __init__(self, prompt, utterances, *rest):
            dev.extend(utterances)
            super().__init__(prompt, utterances, *rest)

    monkeypatch.setattr(fit, "ExampleDataset", Examples)
    monkeypatch.setattr(fit, "DevRecall", Recall)
    config = adapting(source, adapt__replay=replay)
    run.train(config)
    assert {u.lang for u in pairs} == langs and {u.split for u in pairs} == {"train"}
    assert {u.lang for u in dev} == {"ro_ro", "es_419"} and {u.split for u in dev} == {"dev"}
    assert len(pairs) == 5 * len(langs) and len(dev) == 6


def test_an_adapted_model_is_adapted_again_and_resumes(base, adapting, tmp_path):
    first = adapting(base())
    run.train(first)
    config = adapting(run.run_directory(first), data__seen=["fr_fr"], runs_dir=str(tmp_path / "again"))
    run.train(config)
    record = read(run.run_directory(config) / "model/speechde.json")["training"]
    assert record["seen"] == ["es_419", "ro_ro", "fr_fr"] and record["zero_shot"] == []
    assert record["adapted_from"]["adapted_from"]["seen"] == ["es_419"]
    weights = run.run_directory(config) / "checkpoints/best.ckpt"
    before = weights.stat().st_mtime_ns
    assert run.train(config)["recipe"] == "adapt" and weights.stat().st_mtime_ns == before


def test_without_a_corpus_of_the_old_languages(base, adapting):
    config = adapting(base(), adapt__old=None)
    metrics = run.train(config)
    assert set(metrics["audio_to_text"]["per_language"]) == {"ro_ro"}
    table = read(run.run_directory(config) / "results/before_after.json")
    assert [row["role"] for row in table["languages"]] == ["new"]
    assert read(run.run_directory(config) / "model/speechde.json")["training"]["seen"] == ["es_419", "ro_ro"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"frontend__rate": 50.0}, r"frontend\.rate=50\.0 \(it has 25\.0\): decided by the trained model"),
        ({"frontend__kind": "discrete", "frontend__layer": 1}, r"frontend\.kind=discrete \(it has continuous\)"),
        ({"frontend__trim_db": 30.0, "frontend__layer": 1}, r"frontend\.layer=1 .*frontend\.trim_db=30\.0 \("),
        ({"model__source": "packaged:gemma-3-270m"}, r"model\.source=packaged:gemma-3-270m \(it has .*model\)"),
        ({"model__prefix__mode": "none"}, r"model\.prefix\.mode=none \(it has name\)"),
        ({"loss__similarity": "dot"}, r"loss\.similarity=dot, .* compares by cosine; add loss=modern"),
    ],
)
def test_another_model_is_refused(base, adapting, overrides, message):
    with pytest.raises(ConfigError, match=message):
        adapting(base(), **overrides)


def next_model(config):
    """The model that a stage starts to train; nothing of it is new, so that no features are needed."""
    encoder = build_encoder(config.frontend)
    return stage.next_model(config, stage.initial_model(config, encoder), encoder, Features.none())


def test_what_only_training_reads_may_be_changed(base, adapting):
    source = base()
    config = adapting(source, frontend__drop=0.9, frontend__dropout=0.3, model__lora={"rank": 2})
    assert adapting(source).frontend.drop == 0.2
    trained = next_model(config)
    frontend = trained.model.frontends["speech"]
    assert frontend.drop == 0.9 and frontend.dropout.p == 0.3
    assert [name for name, p in trained.model.named_parameters() if "lora_" in name and p.requires_grad]


def test_a_folder_that_leaves_settings_out(recipe_values):
    """It was written by an earlier version; what it leaves out is what that version did."""
    folder = Path(__file__).resolve().parents[1] / "data/format1/continuous"
    own = inherit(recipe_values("adapt", f"init={folder}", "loss.similarity=dot"))
    assert (own["frontend"]["downsample"], own["frontend"]["mask_features"], own["frontend"]["stride"]) == (
        "conv",
        0,
        2,
    )
    assert own["model"]["max_tokens"] == 256 and own["model"]["speech_layer"] == 1
    assert "downsample" not in read_settings(folder).to_json()["frontend"]


def test_sizes_of_the_vectors_are_kept_unless_others_are_asked_for(base, adapting):
    directory = base(model__dim=8, loss__dims=(8, 4))
    kept = adapting(directory)
    assert kept.loss.dims == [8, 4] and next_model(kept).settings.dims == (8, 4)
    assert next_model(adapting(directory, loss__dims=[8, 2])).settings.dims == (8, 2)
    with pytest.raises(ConfigError, match=r"loss\.dims=\[16,4\] begins with 16"):
        next_model(adapting(directory, loss__dims=[16, 4]))


def test_not_a_model(recipe_values, tmp_path):
    with pytest.raises(ConfigError, match=r"init is not set; name a trained model"):
        inherit(recipe_values("adapt"))
    with pytest.raises(AssetError, match="is not a trained model"):
        inherit(recipe_values("adapt", f"init={tmp_path}"))
    with pytest.raises(ConfigError, match=r"adapt\.replay=1\.0 is outside"):
        build({"adapt": {"replay": 1.0}})


def test_another_encoder_is_refused(base, adapting, tiny_speech_encoder):
    config = adapting(base(), frontend__encoder=str(tiny_speech_encoder("hubert")))
    with pytest.raises(AssetError, match="the model was trained on frames of"):
        run.train(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__seen": []}, r"data\.seen=\[\] names no language"),
        ({"data__seen": ["es_419"]}, "the model was trained on es_419 already"),
        ({"adapt__old__seen": ["fr_fr"]}, "fr_fr is new to the model"),
    ],
)
def test_roles_that_make_no_sense(base, adapting, overrides, message):
    source = base()
    manifest = adapting(source).data.path
    old = {"adapt__old": {"name": "manifest", "path": manifest, "seen": []}} if "adapt__old__seen" in overrides else {}
    with pytest.raises(ConfigError, match=message):
        run.train(adapting(source, **old, **overrides))


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_new_language_without_clips(base, adapting, clips, tmp_path, split):
    source, path = base(), tmp_path / "new.jsonl"
    write_manifest([u for u in clips if (u.lang, u.split) != ("ro_ro", split)], path)
    with pytest.raises(DataError, match=f"new has no {split} clip in ro_ro"):
        run.train(adapting(source, data__path=str(path)))


def test_two_corpora_must_fit_together(base, adapting, clips, tmp_path):
    source = base()
    old, new = tmp_path / "same/corpus.jsonl", tmp_path / "corpus.jsonl"
    paths = {"adapt__old": {"name": "manifest", "path": str(old)}, "data__path": str(new)}
    write_manifest(clips, old)
    write_manifest(
        [replace(u, id=u.id.replace("ro_ro", "es_419")) if u.lang == "ro_ro" else u for u in clips[10:]], new
    )
    with pytest.raises(DataError, match=r"11 ids are in corpus and in corpus \(first: 'es_419-"):
        run.train(adapting(source, **paths))
    write_manifest([replace(u, sentence_id=u.sentence_id.replace("ro_ro train", "es_419 test")) for u in clips], new)
    with pytest.raises(DataError, match=r"3 sentences of corpus are in train of one language and held out in another"):
        run.train(adapting(source, **paths))


def test_replay_shares_the_batches(base, adapting, clips):
    config = adapting(base(), adapt__replay=0.25)
    training = [u for u in clips if u.split == "train"]
    batches = mixture(config, task_examples(config, training), steps=1)
    (task,) = batches.tasks
    shares = dict(zip(task.strata, task.probabilities, strict=True))
    assert shares == pytest.approx({"es_419": 0.125, "fr_fr": 0.125, "ro_ro": 0.75})
    drawn = [training[batches.batch(step)[0].example].lang for step in range(400)]
    np.testing.assert_allclose(drawn.count("ro_ro") / 400, 0.75, atol=0.06)


@pytest.mark.parametrize(("overrides", "limit"), [([], None), (["debug=smoke"], 40)])
def test_a_trial_run_is_one_of_the_old_languages_too(recipe_values, overrides, limit):
    """Or two steps would wait for the frames of a whole corpus."""
    data = recipe_values("adapt", "init=x", *overrides)
    assert data["data"]["limit"] == data["adapt"]["old"]["limit"] == limit
