"""Every recipe composes, passes the typed configuration, and runs end to end offline on generated clips."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

from speechde.api import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.config import build
from speechde.evaluation.speech import DIRECTIONS
from speechde.features.store import FeatureStore, Piece
from speechde.models.embed import embed_items
from speechde.scoring import evaluate
from speechde.training import data, run
from speechde.training.run import run_directory, train
from speechde.training.tasks import mixture, task_examples
from speechde.types import Audio, Corpus, Item, Text

ROOT = Path(__file__).resolve().parents[2]
# which start from a model, or train on files: they have tests of their own
OWN = ("ablation_ateb", "adapt", "ateb", "ateb_all", "emoji", "stamps_images", "texts")
RECIPES = sorted(path.stem for path in (ROOT / "conf/recipe").glob("*.yaml") if path.stem not in OWN)
WANDB_BLOCK = 32768
MEANS = {"languages", "ci95", "recall@1", "recall@1_micro", "recall@5", "mrr", "chance", "recall@1_fixed"}
ROW = {"role", "queries", "gallery", "chance", "recall@1", "ci95", "recall@5", "mrr", "recall@1_fixed"}


def check_metrics(metrics):
    """The stable keys of docs/protocol.md."""
    top = {"recipe", "mode", "seed", "commit", "hardware", "data", "wall_seconds", "fixed_gallery", *DIRECTIONS}
    top.add("bleu_signature")
    assert top <= set(metrics)
    assert set(metrics["wall_seconds"]) == {"fetch", "frames", "kmeans", "train", "evaluate", "total"}
    assert set(metrics["fixed_gallery"]) == {"size", "draws", "seed"}
    for split in ("train", "dev", "test"):
        assert {"recordings", "synthetic"} <= set(metrics["data"][split])
    for direction in DIRECTIONS:
        extra = {"audio_to_text": {"wer"}, "audio_to_english_text": {"bleu"}}.get(direction, set())
        assert set(metrics[direction]["per_language"]) == {"es_419", "fr_fr", "ro_ro"}
        for row in metrics[direction]["per_language"].values():
            assert set(row) == ROW | extra
        for region in metrics[direction]["per_region"].values():
            assert set(region) == {"seen", "zero_shot"}
        for role, count in (("seen", 2), ("zero_shot", 1)):
            assert MEANS | extra <= set(metrics[direction][role])
            assert metrics[direction][role]["languages"] == count


@pytest.mark.parametrize("name", RECIPES)
def test_composes_into_the_typed_configuration(recipe_values, name):
    values = recipe_values(name)
    config = build(values)
    assert config.recipe_name == name
    assert config.trainer.steps % config.trainer.eval_every == 0
    assert build(asdict(config)) == config


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("fleurs21")])
@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        ([], {"name": "fleurs"}),
        (["data.root=f"], {"name": "fleurs", "root": "f"}),
        (["data=covost", "data.covost=c"], {"name": "covost", "covost": "c"}),
        (["data=breadth"], {"name": "breadth"}),
    ],
)
def test_fleurs21_needs_nothing_and_takes_each_corpus(recipe_values, name, overrides, settings):
    data = build(recipe_values(name, *overrides)).data
    found = {key: getattr(data, key) for key in ("name", "root", "covost", "seen", "zero_shot")}
    assert found == {"root": None, "covost": None, "seen": [], "zero_shot": None} | settings


def test_sentences_are_read_aloud(recipe_values):
    """Not names alone, as a recipe below it once had it."""
    assert build(recipe_values("sentences")).data.synthetic.texts == "names+sentences+messages"


def test_breadth_is_fleurs21_on_other_data(recipe_values):
    breadth, fleurs21 = (recipe_values(name) for name in ("breadth", "fleurs21"))
    assert {key for key in fleurs21 if breadth[key] != fleurs21[key]} == {"data", "recipe_name"}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("fleurs21")])
def test_full_size_changes_models_and_length_alone(recipe_values, name):
    usual, full = recipe_values(name), recipe_values(name, "size=full")
    assert {key for key in usual if full[key] != usual[key]} == {"frontend", "model", "trainer"}
    config = build(full)
    assert (config.frontend.encoder, config.trainer.batch_size) == ("facebook/w2v-bert-2.0", 1024)
    assert config.trainer.steps % config.trainer.eval_every == 0


@pytest.mark.parametrize("name", RECIPES)
def test_trains_evaluates_and_reloads(tiny_run, name, monkeypatch):
    built = []
    original = run.build_model
    monkeypatch.setattr(run, "build_model", lambda *a: built.append(original(*a)) or built[0])
    config = tiny_run(name)
    metrics = train(config)
    directory = run_directory(config)
    assert json.loads((directory / "results/metrics.json").read_text("utf-8")) == metrics
    check_metrics(metrics)
    lengths = {f"{q} %": 0.3 for q in (5, 50, 95)}
    known = {"recordings": 10, "synthetic": 0, "transcripts": 10, "languages": 2, "seconds": lengths}
    assert metrics["data"]["train"] == known
    share = config.tasks["speech"].shares["translation"]
    assert metrics["data"].get("translations", {}).get("pairs", 0) == (7 if share else 0)
    for file in ("table.md", "recall.png", "curves.png", "queries.jsonl", "diagnostics.json", "errors.md"):
        assert (directory / "results" / file).stat().st_size > 100

    loaded = TrainedModel.load(directory / "model")
    folder = "units" if config.frontend.kind == "discrete" else "frames"
    pieces = map(Piece, (Path(config.cache_dir) / folder).iterdir())
    store = FeatureStore([next(piece for piece in pieces if "ro_ro-test-0" in piece.ids)])
    langs = {id_: id_.split("-")[0] for id_ in sorted(store.ids)}
    clips = [Item(Audio(""), id=id_, lang=lang) for id_, lang in langs.items()]
    texts = [Item(Text(f"{lang} Été"), lang=lang) for lang in sorted(set(langs.values()))]
    found, expected = (
        embed_items(m.model, m.prompt, clips + texts, lambda media: [[store[item.id]] for item, _ in media]).vectors
        for m in (loaded, built[0])
    )
    np.testing.assert_array_equal(found, expected)
    assert loaded.settings.training["seen"] == ["es_419", "fr_fr"]
    again = evaluate(config, directory)
    assert again["audio_to_text"] == metrics["audio_to_text"]


def test_a_sample_of_sentences_is_evaluated_and_said(tiny_run):
    config = tiny_run(eval__per_language=2)
    metrics = train(config)
    directory = run_directory(config)
    sample = {"sentences per language": 2, "of recordings": 9, "of transcripts": 9}
    assert metrics["data"]["sample"] == sample and metrics["data"]["test"]["recordings"] == 6
    assert {row["gallery"] for row in metrics["audio_to_text"]["per_language"].values()} == {2}
    text = (directory / "results/table.md").read_text("utf-8")
    assert "- data, sample sentences per language 2, of recordings 9, of transcripts 9" in text
    again = evaluate(config, directory)
    assert again["audio_to_text"] == metrics["audio_to_text"] and again["data"]["sample"] == sample
    assert len(list(directory.glob("evaluation-clips-test-*/results/metrics.json"))) == 1


def test_a_finished_run_without_results_is_evaluated_again_without_training(tiny_run):
    config = tiny_run()
    first = train(config)
    shutil.rmtree(run_directory(config) / "results")
    weights = run_directory(config) / "checkpoints/best.ckpt"
    before = weights.stat().st_mtime_ns
    second = train(config)
    assert weights.stat().st_mtime_ns == before
    assert second["audio_to_text"] == first["audio_to_text"]
    assert (run_directory(config) / "results/curves.png").is_file()


def offline_records(path):
    """What an offline run of Weights & Biases wrote: a log of protobuf records in blocks, as LevelDB writes them."""
    data, records, part, place = path.read_bytes(), [], b"", 7  # after the magic number
    while place < len(data):
        left = WANDB_BLOCK - place % WANDB_BLOCK
        if left < 7:  # no room for a header: the block is padded
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            records.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return records


def test_wandb_offline_holds_all_of_each_run_of_a_sweep(tiny_run, tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "w"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for seed in (0, 1):  # in one process, as a sweep runs them
        train(tiny_run(seed=seed, logger__mode="offline", logger__group="sweep-base", logger__log_model=seed == 1))
    wandb.teardown()  # as the end of a process does: until then the files may not be whole
    files = sorted(tmp_path.rglob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and not (ROOT / "lightning_logs").exists()
    models = []
    for path in files:
        records = offline_records(path)
        (started,) = [record.run for record in records if record.HasField("run")]
        assert started.run_group == "sweep-base"
        logged = {(item.key,) if item.key else tuple(item.nested_key): item.value_json
                  for record in records for item in record.history.item}  # fmt: skip
        keys = {"train/loss", "dev/recall@1", "results/languages", "results/recall", "results/curves"}
        assert keys <= {key[0] for key in logged}
        assert logged["results/languages", "nrows"] == "3"
        changed = {item.key or item.nested_key[0]: json.loads(item.value_json)
                   for record in records for item in [*record.run.config.update, *record.config.update]}  # fmt: skip
        assert changed["data_statistics"]["train"]["recordings"] == 10 and changed["mode"] == "faithful"
        summary = {item.key or "/".join(item.nested_key) for record in records for item in record.summary.update}
        assert {"test/seen/recall@1", "test/zero_shot/recall@1"} <= summary
        artifacts = {record.request.log_artifact.artifact.type for record in records} | {
            record.artifact.type for record in records
        }
        assert {"results", "units"} <= artifacts
        models.append("model" in artifacts)
    assert sorted(models) == [False, True]


def test_a_seed_gives_the_same_model_twice(tiny_run, tmp_path):
    weights = []
    for name in ("a", "b"):
        config = tiny_run(runs_dir=str(tmp_path / name))
        train(config)
        weights.append(TrainedModel.load(run_directory(config) / "model").model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def command(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, ["recipe", "quickstart", "sentences"]),
        (["recipe=quickstart", "--cfg", "job"], 0, ["eval_every:", "kind: continuous"]),
        (["recipe=quickstart", "trainer.step=3"], 1, ["trainer", "'step' is not known", "eval_every", "steps"]),
        (["recipe=quickstart", "sead=3"], 1, ["'sead' is not known", "seed", "recipe"]),
        (["recipe=quickstart", "model.attention=bidirektional"], 1, ["model.attention", "bidirectional, causal"]),
        (["recipe=quickstart", "trainer.steps=many"], 1, ["trainer.steps='many'", "must be a int"]),
        (["recipe=quickstar"], 1, ["error: recipe: 'quickstar' is not known", "stamps", "Did you mean 'quickstart'?"]),
        (["recipe=quickstart", "seed=[1"], 1, ["error: ", "seed=[1", "Quote"]),
        (["recipe=quickstart", "data.seen=${oops}"], 1, ["error: ", "'oops' not found"]),
        (["trainer.steps=1"], 1, ["no recipe was named; add recipe=NAME"]),
    ],
)
def test_command_line(arguments, code, said, tmp_path):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert all(text in done.stdout + done.stderr for text in said), done.stdout + done.stderr
    assert code == 0 or (done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1)


@pytest.mark.parametrize("freeze", [["embedding.text.*"], ["*"]])
def test_lora_with_gradient_checkpointing_in_bfloat16(tiny_run, freeze):
    """Only adapters, audio rows and projection are trained; the saved model is a plain one with the updates in it."""
    config = tiny_run(
        model__freeze=freeze, model__lora={"rank": 2}, model__gradient_checkpointing=True, model__dtype="bfloat16"
    )
    metrics = train(config)
    check_metrics(metrics)
    state = torch.load(run_directory(config) / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    trained = {name for name in state if "lora_" not in name}
    assert len(trained) < len(state) and trained == {"model.projection.weight", "model.backbone.embedding.audio"}
    saved = TrainedModel.load(run_directory(config) / "model").model
    assert not [name for name, _ in saved.named_parameters() if "lora_" in name]


def test_a_language_of_synthetic_speech_alone_is_trained_on_and_never_zero_shot(tiny_run, clips, monkeypatch):
    """Half of the training is its own; where it is tested, it stands apart."""
    made = [replace(u, id=f"made-{u.id}", lang="de_de", synthetic=True) for u in clips if u.lang == "fr_fr"]
    made = Corpus("made", [u for u in made if u.split == "train"], ("es_419", "fr_fr", "de_de"))
    monkeypatch.setattr(data, "load_synthetic", lambda *a: made)
    langs = {"langs": ["de", "fr_fr"]}
    config = tiny_run(data__synthetic=langs, tasks__speech__shares__synthetic=0.5, trainer__batch_size=2)
    training = [u for u in clips if u.split == "train" and u.lang != "ro_ro"] + made.utterances
    (task,) = mixture(config, task_examples(config, training), steps=1).tasks
    assert task.probabilities[task.strata.index("de_de")] == pytest.approx(0.5)  # French, recorded, is not of the group
    counts = {"recordings": 15, "synthetic": 5, "transcripts": 15, "languages": 3}
    assert counts.items() <= train(config)["data"]["train"].items()
    model = run_directory(config) / "model"
    assert SpeechTextEncoder.from_pretrained(model, device="cpu").languages_seen == ("es_419", "fr_fr", "de_de")
    tested = [replace(u, lang="de_de") if u.lang == "fr_fr" else u for u in clips]
    rows = evaluate(tiny_run(utterances=tested), model)["audio_to_text"]["per_language"]
    assert {lang: row["role"] for lang, row in rows.items()} == {
        "es_419": "seen", "de_de": "synthetic_only", "ro_ro": "zero_shot"}  # fmt: skip
