"""One run: where it is kept, what it refuses."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechde import scoring
from speechde.checkpoint.card import model_card
from speechde.checkpoint.folder import TrainedModel
from speechde.config import RunConfig
from speechde.corpora.manifest import write_manifest
from speechde.errors import ConfigError, DataError
from speechde.features import frames as features
from speechde.features import sets
from speechde.provenance import Clock
from speechde.reporting.compare import compare_runs
from speechde.reporting.summary import find_runs, summarise
from speechde.scoring import evaluate
from speechde.training import data, run
from speechde.training.recall import DevRecall


def test_run_directory():
    config = RunConfig(
        recipe_name="stamps", run_name="data.path:/a/b.tsv+data.seen:[ro,el]+optim.lr:0.1", seed=3, runs_dir="r"
    )
    assert run.run_directory(config) == Path("r/stamps/data.path:_a_b.tsv+data.seen:_ro_el_+optim.lr:0.1-s3")


def test_names_with_slashes_and_spaces_are_one_folder_each():
    config = RunConfig(recipe_name="../my recipe/x", run_name="a b/../c", runs_dir="r")
    assert run.run_directory(config) == Path("r/__my_recipe_x/a_b_.._c-s0")
    config.recipe_name = ".."
    assert run.run_directory(config).resolve().is_relative_to(Path("r").resolve())


def test_long_overrides_are_cut_and_told_apart():
    names = [run.run_directory(RunConfig(recipe_name="r", run_name="é" * 200 + end)).name for end in "ab"]
    assert names[0] != names[1] and max(len(name.encode()) for name in names) < 210


def test_stages_of_a_run_that_failed_are_remembered(tmp_path):
    clock = Clock(tmp_path)
    with pytest.raises(KeyboardInterrupt), clock("train"):
        time.sleep(0.02)
        raise KeyboardInterrupt
    again = Clock(tmp_path)
    with again("evaluate"):
        pass
    kept = json.loads((tmp_path / "wall_seconds.json").read_text("utf-8"))
    assert kept["train"] >= 0.02 and again.seconds["train"] == 0


def test_clock():
    clock = Clock()
    with pytest.raises(KeyError), clock("train"):
        raise KeyError
    with clock("evaluate"):
        pass
    assert clock.seconds["train"] > 0 and clock.seconds["kmeans"] == 0
    assert clock.seconds["total"] >= clock.seconds["train"] + clock.seconds["evaluate"]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_corpus_without_training_or_dev_clips(tiny_run, clips, split):
    config = tiny_run(utterances=[u for u in clips if u.split != split or u.lang == "ro_ro"])
    with pytest.raises(ConfigError, match=r"0 train|0 dev") as error:
        run.train(config)
    assert f"0 {split}" in str(error.value) and "es_419, fr_fr" in str(error.value)


def test_steps_that_are_no_multiple(tiny_run):
    with pytest.raises(ConfigError, match=r"trainer\.steps=5 is not a multiple of trainer\.eval_every=2"):
        run.train(tiny_run(trainer__steps=5, trainer__eval_every=2))


def test_long_clips_are_left_out_of_training_and_counted(tiny_run, clips, make_wav):
    long = str(make_wav("long.wav", 0.9))
    utterances = [replace(u, audio=long) if u.id in ("fr_fr-train-0", "fr_fr-test-0") else u for u in clips]
    metrics = run.train(tiny_run(utterances=utterances, trainer__max_seconds=0.5))
    assert metrics["data"]["dropped"] == {"longer than trainer.max_seconds": 1}
    assert metrics["data"]["train"]["recordings"] == 9
    assert metrics["data"]["test"]["recordings"] == 9


def test_training_clips_that_are_all_too_long_are_said_to_be(tiny_run):
    with pytest.raises(DataError, match=r"not one of 10 .* used: 10 longer than .*; trainer\.max_seconds is 0\.2,"):
        run.train(tiny_run(trainer__max_seconds=0.2))


def test_texts_that_are_cut_are_counted_in_training_on_dev_and_on_test(tiny_run, clips):
    """The limit is the model's: it is stored with it, and evaluation cuts where training did."""
    long = {"es_419-train-0", "fr_fr-train-1", "fr_fr-dev-0", "ro_ro-test-2", "fr_fr-test-0", "fr_fr-test-1"}
    utterances = [replace(u, text=u.text + " x" * 150 if u.id in long else u.text) for u in clips]
    config = tiny_run(utterances=utterances, model__max_tokens=60)
    noted = {"training text cut at 60 tokens": 2, "dev text cut at 60 tokens": 1, "text cut at 60 tokens": 3}
    assert run.train(config)["data"]["noted"] == noted
    assert TrainedModel.load(run.run_directory(config) / "model").prompt.max_tokens == 60
    assert evaluate(config, run.run_directory(config))["data"]["noted"] == {"text cut at 60 tokens": 3}


def test_evaluation_of_another_corpus(tiny_run, clips, tmp_path):
    """Languages that were trained on are seen whatever the configuration says; others are zero-shot."""
    config = tiny_run()
    run.train(config)
    config.data.seen, config.data.zero_shot = ["ro_ro"], None
    metrics = evaluate(config, run.run_directory(config))
    roles = {lang: row["role"] for lang, row in metrics["audio_to_text"]["per_language"].items()}
    assert roles == {"es_419": "seen", "fr_fr": "seen", "ro_ro": "zero_shot"}
    (folder,) = run.run_directory(config).glob("evaluation-clips-test-*/results")
    assert (folder / "table.md").is_file()
    report = tmp_path / "report"
    config.report_dir, config.eval.split = str(report), "dev"
    evaluate(config, run.run_directory(config) / "model")
    assert {path.name for path in folder.iterdir()} - {"curves.png"} == {path.name for path in report.iterdir()}
    assert not list(run.run_directory(config).glob("evaluation-*-dev*")), "written beside the model, unasked"
    assert compare_runs(report, report).languages
    config.data.path = str(tmp_path / "train.jsonl")
    write_manifest([u for u in clips if u.split == "train"], tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"train has no clip in the split 'dev'; set eval\.split"):
        evaluate(config, run.run_directory(config))


def test_evaluations_on_corpora_of_one_name_are_kept_apart(tiny_run, clips, tmp_path):
    config = tiny_run()
    run.train(config)
    for folder, langs in (("a", ("es_419", "ro_ro")), ("b", ("fr_fr",))):
        path = write_manifest([u for u in clips if u.lang in langs], tmp_path / folder / "clips.tsv")
        config.data = replace(config.data, path=str(path), seen=[])
        for _ in range(2):  # the same again takes the place of the first
            evaluate(config, run.run_directory(config))
    found = sorted(run.run_directory(config).glob("evaluation-*/results/metrics.json"))
    langs = [sorted(json.loads(path.read_text("utf-8"))["audio_to_text"]["per_language"]) for path in found]
    assert sorted(langs) == [["es_419", "ro_ro"], ["fr_fr"]]
    boards = summarise(find_runs([run.run_directory(config)]))["boards"]
    assert "train" in json.loads((run.run_directory(config) / "results/metrics.json").read_text("utf-8"))["data"]
    assert boards[0]["systems"][0]["train"], "the run itself comes first, not one of its evaluations"


def test_where_an_evaluation_cannot_be_written_nothing_is_scored(tiny_run, tmp_path, monkeypatch):
    config = tiny_run()
    run.train(config)
    (tmp_path / "file").touch()
    config.report_dir = str(tmp_path / "file/report")
    monkeypatch.setattr(sets, "evaluation_items", lambda *_: pytest.fail("clips were encoded"))
    with pytest.raises(ConfigError, match=r"cannot write results to .*file/report .* report_dir=FOLDER"):
        evaluate(config, run.run_directory(config))


def test_training_and_evaluation_multiply_matrices_alike(tiny_run, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    config = tiny_run()
    run.train(config)
    evaluate(config, run.run_directory(config))
    assert chosen == ["high", "high"]


def test_another_split_of_the_corpus_is_refused(tiny_run, monkeypatch):
    config = tiny_run()
    run.train(config)
    folder = run.run_directory(config) / "model"
    settings = json.loads((folder / "speechde.json").read_text("utf-8"))
    settings["training"]["config"]["data"] |= {"name": "stamps", "split_seed": 0}
    (folder / "speechde.json").write_text(json.dumps(settings), encoding="utf-8")
    monkeypatch.setattr(scoring, "load_corpus", lambda *_: pytest.fail("the corpus was read"))
    config.data = replace(config.data, name="stamps", split_seed=1)
    with pytest.raises(ConfigError, match=r"data\.split_seed=1: .* trained on stamps with data\.split_seed=0"):
        evaluate(config, folder)


def test_training_clips_of_held_out_sentences_are_left_out_and_counted(tiny_run, clips):
    leaked = [replace(u, text="ES_419 test 0!", sentence_id="x") if u.id == "es_419-train-0" else u for u in clips]
    metrics = run.train(tiny_run(utterances=leaked))
    assert metrics["data"]["train"]["recordings"] == 9
    assert metrics["data"]["dropped"]["train sentence is in test"] == 1
    everything = [replace(u, sentence_id=u.id[-1]) for u in clips if u.id[-1] in "012"]
    with pytest.raises(
        ConfigError, match=r"0 train and 0 dev clips in es_419, fr_fr \(left out: .*'train sentence is in"
    ):
        run.train(tiny_run(utterances=everything, run_name="other"))


def test_the_best_checkpoint_is_the_model(tiny_run, monkeypatch):
    """Dev recall falls after the first epoch: its weights are kept, and training still goes to the end."""
    scores = iter([0.5, 0.25, 0.125])
    states = []

    def recall(self, model):
        states.append(model.projection.weight.detach().clone())
        return next(scores)

    monkeypatch.setattr(DevRecall, "__call__", recall)
    config = tiny_run(trainer__steps=3)
    metrics = run.train(config)
    assert metrics["dev_recall@1"] == 0.5 and len(states) == 3
    model = TrainedModel.load(run.run_directory(config) / "model").model
    assert torch.equal(model.projection.weight, states[0]) and not torch.equal(states[0], states[2])
    checkpoints = run.run_directory(config) / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    steps = [torch.load(checkpoints / f"{n}.ckpt", weights_only=True)["global_step"] for n in ("best", "last")]
    assert steps == [1, 3]
    assert run.train(config)["dev_recall@1"] == 0.5  # finished: no further epoch, or the scores would run out


def test_metrics_hold_finite_numbers(tiny_run):
    metrics = run.train(tiny_run())
    speeds = metrics["data"]["encoder_times_real_time"]
    assert all(np.isfinite(speeds)) and min(speeds) > 0
    assert metrics["wall_seconds"]["total"] > 0


def test_the_model_folder_has_the_record_and_the_results(tiny_run):
    config = tiny_run()
    metrics = run.train(config)
    folder = run.run_directory(config) / "model"
    trained = TrainedModel.load(folder)
    record = trained.settings.training
    assert record["config"]["trainer"]["steps"] == 2 and record["dev_recall@1"] == metrics["dev_recall@1"]
    row = metrics["audio_to_text"]["zero_shot"]
    assert trained.card == model_card(trained, metrics)
    assert f"| zero-shot | 1 | {100 * row['chance']:.1f} | {100 * row['recall@1']:.1f} [" in trained.card
    config.eval.baselines = ["chance"]  # evaluated again, not trained: the record stays, the card is written anew
    (folder / "README.md").unlink()
    run.train(config)
    again = TrainedModel.load(folder)
    assert again.settings.training == record and "| zero-shot | 1 |" in again.card


@pytest.fixture
def encoded(monkeypatch):
    """Lengths of the clips that were encoded, over all runs of a test."""
    given, real = [], sets.build_encoder

    def build(config):
        encoder = real(config)
        encode = encoder.encode
        encoder.encode = lambda waveforms: given.extend(map(len, waveforms)) or encode(waveforms)
        return encoder

    for module in (run, sets):
        monkeypatch.setattr(module, "build_encoder", build)
    return given


def test_shards_stop_before_training_and_a_run_without_one_encodes_nothing(tiny_run, encoded, monkeypatch, caplog):
    monkeypatch.setattr(features, "PIECE", 3)
    caplog.set_level("INFO")
    counts = []
    for shard in ("2/2", "1/2"):
        config = tiny_run(frontend__shard=shard, frontend__speeds=[1.0])
        assert run.train(config) == {} and not Path(config.runs_dir).exists()
        counts.append(len(encoded) - sum(counts))
        assert f"shard {shard} is done" in caplog.text and "the same command without frontend.shard" in caplog.text
    assert counts == [4 + 3 + 3, 6 + 3 + 6]  # of 10 train, 6 dev and 9 test clips
    config = tiny_run(frontend__speeds=[1.0])
    metrics = run.train(config)
    assert len(encoded) == 25 and metrics["data"]["train"]["recordings"] == 10
    assert np.isfinite(metrics["data"]["encoder_times_real_time"]).all()
    config.eval.split = "dev"  # 9 clips, of which the 6 of seen languages are there
    for shard, count in (("2/2", 0), ("1/2", 3), (None, 0)):
        config.frontend.shard = shard
        before = len(encoded)
        assert bool(evaluate(config, run.run_directory(config))) == (shard is None)
        assert len(encoded) - before == count


def test_a_run_with_a_unit_bpe_is_evaluated_by_its_folder(tiny_run):
    config = tiny_run(frontend__bpe=12)
    metrics = run.train(config)
    assert (run.run_directory(config) / "model/unit_bpe.model").is_file()
    again = evaluate(tiny_run(), run.run_directory(config))  # the folder decides, not the configuration
    assert again["audio_to_text"] == metrics["audio_to_text"]


def test_the_first_stage_says_what_the_corpus_holds(tiny_run, capsys, monkeypatch):
    config = tiny_run(plan_only=True)
    assert set(run.train(config)) == {"plan"} and not Path(config.runs_dir).exists()
    said = capsys.readouterr().out
    rows = [line.split() for line in said[: said.index("plan (estimates")].splitlines()]
    assert ["fr_fr", "seen", "train", "5", "5", "5", "0", "0", "0.00"] in rows
    assert ["ro_ro", "zero_shot", "test", "3", "3", "3", "0", "0", "0.00"] in rows and "dropped: nothing" in said
    assert "epochs     of the recorded clips: es_419" in said
    monkeypatch.setattr(data, "HEADERS", 26)  # of 27 clips: hours would take long
    run.train(config)
    assert ["fr_fr", "seen", "train", "5", "5", "5", "0", "0", "-"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
