"""A run on text alone: files of examples, no clip, no speech encoder; and what its model does in every place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from speechde import Audio, Item, SpeechTextEncoder, Text
from speechde.checkpoint.folder import TrainedModel
from speechde.checkpoint.soup import make_soup
from speechde.errors import ConfigError
from speechde.features import sets
from speechde.training import run
from speechde.training.directory import run_directory


@pytest.fixture
def examples(tmp_path):
    lines = [
        {"query": f"question {n}", "positive": {"parts": [{"text": f"answer {n}"}], "title": "all"},
         "negatives": [f"answer {n + 100}"], "stratum": "ab"[n % 2],
         "split": ("dev" if n < 4 else "test" if n < 10 else "train")}
        for n in range(40)
    ]  # fmt: skip
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def texts(tiny_run, examples, monkeypatch):
    """``texts(**overrides)`` → a configuration; whoever loads a speech encoder fails."""
    monkeypatch.setattr(sets, "load_speech_encoder", lambda *_, **__: pytest.fail("a speech encoder was loaded"))
    qa = {"examples": str(examples), "negatives": 1, "query": "task: {task} | query: {item}",
          "document": "title: {title} | text: {item}"}  # fmt: skip
    return lambda **overrides: tiny_run("texts", data={"name": "none"}, tasks={"qa": qa}, **overrides)


def test_a_run_on_text_alone(texts, tmp_path, capsys):
    config = texts(trainer__steps=4, trainer__eval_every=2)
    metrics = run.train(config)
    assert "plan: 4 steps × 4 pairs, of examples: 30 of qa" in capsys.readouterr().out
    (row,) = metrics["tasks"].values()
    assert (row["queries"], row["gallery"], row["chance"]) == (6, 6, pytest.approx(1 / 6))
    assert metrics["data"]["tasks"] == {"qa": {"examples": 30, "languages": 2}} and "train" not in metrics["data"]
    results = run_directory(config) / "results"
    assert json.loads((results / "tasks.json").read_text())["tasks"] == metrics["tasks"]
    assert "| qa | test | 6 | 6 | 16.7 |" in (results / "table.md").read_text()
    folder = run_directory(config) / "model"
    card = (folder / "README.md").read_text()
    assert "it reads no speech" in card and "| qa | test | 6 | 6 |" in card and "encode_speech" not in card
    assert not (folder / "kmeans.safetensors").exists()
    assert run.train(config)["tasks"] == metrics["tasks"]  # done before
    encoder = SpeechTextEncoder.from_pretrained(folder, device="cpu")
    named = encoder.encode_text(["question 4"], prompt="query")
    spelled = Item(Text("task: qa | query: question 4"))
    encoder.trained.prompt.mode = "none"
    np.testing.assert_allclose(named, encoder.embed([spelled]), atol=1e-6)
    with pytest.raises(ConfigError, match="reads text alone and has no frontend for speech"):
        encoder.encode_speech(["a.ogg"])
    with pytest.raises(ConfigError, match="has no frontend for speech; it reads text"):
        encoder.embed([Item(Audio("a.ogg"))])
    vectors = SentenceTransformer(str(folder), device="cpu").encode(["question 4"], prompt_name="qa-query")
    np.testing.assert_allclose(vectors, named, atol=1e-6)


def test_a_finished_run_is_archived_and_answers_from_there(texts, tmp_path, monkeypatch):
    archive = {"archive_dir": str(tmp_path / "archive")}
    first = run.train(texts(**archive))
    kept = {path.name for path in (tmp_path / "archive").rglob("*.*")}
    assert kept == {"tasks.json", "hits.parquet"} and "longer than trainer.max_seconds" not in first["data"]["dropped"]
    monkeypatch.setattr(run, "read_data", lambda *_: pytest.fail("the files were read"))
    assert run.train(texts(runs_dir=str(tmp_path / "elsewhere"), **archive))["tasks"] == first["tasks"]


def test_without_dev_the_last_weights_are_kept(texts, examples):
    lines = examples.read_text(encoding="utf-8").splitlines(keepends=True)
    examples.write_text("".join(line for line in lines if '"dev"' not in line), encoding="utf-8")
    config = texts(trainer__steps=4, trainer__eval_every=1)
    assert run.train(config)["dev_recall@1"] is None
    kept = [(run_directory(config) / name).read_text("utf-8") for name in ("results/tasks.json", "model/speechde.json")]
    assert not any("NaN" in text for text in kept), "which is no JSON"
    found = [
        torch.load(run_directory(config) / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    ]
    assert [each["global_step"] for each in found] == [4, 4]


@pytest.mark.parametrize(
    ("qa", "message"),
    [
        ({"query": "ask: it"}, r"tasks\.qa\.query='ask: it' does not end with"),
        ({"shares": {"web": 0.5}}, r"shares names 'web', of which .* has no example; its sources are ''; drop it"),
    ],
)
def test_what_is_wrong_is_said_before_the_work_begins(texts, qa, message, capsys):
    config = texts()
    for key, value in qa.items():
        setattr(config.tasks["qa"], key, value)
    with pytest.raises(ConfigError, match=message):
        run.train(config)
    assert "plan:" not in capsys.readouterr().out


def test_the_plan_has_the_batches_of_each_task(texts, capsys):
    config = texts(plan_only=True)
    config.tasks["qa"].batch_size = 7
    assert run.train(config) == {}
    assert "steps × 7 pairs, of examples: 30 of qa" in capsys.readouterr().out


def test_it_resumes_is_a_stage_for_another_and_is_averaged(texts, tmp_path):
    first = texts(runs_dir=str(tmp_path / "a"), model__freeze=["embedding.text.*"])
    run.train(first)
    folder = run_directory(first) / "model"
    before = TrainedModel.load(folder)
    stage = texts(runs_dir=str(tmp_path / "b"), init=str(folder), optim__lr=1e-9, optim__backbone_lr=0.0)
    run.train(stage)
    after = TrainedModel.load(run_directory(stage) / "model")
    assert after.prompt.named == before.prompt.named and after.settings.frontend is None
    for name, weights in before.model.state_dict().items():
        np.testing.assert_allclose(after.model.state_dict()[name], weights, atol=1e-6)
    mean = make_soup([folder, run_directory(stage) / "model"])
    mean.save(tmp_path / "soup")
    assert "it reads no speech" in (tmp_path / "soup" / "README.md").read_text()
    vectors = [
        SpeechTextEncoder.from_pretrained(each, device="cpu").encode_text("a") for each in (folder, tmp_path / "soup")
    ]
    np.testing.assert_allclose(*vectors, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tasks__speech": {"examples": "clips"}}, r"data\.name=none and frontend\.kind=none: there is no speech for"),
        ({"frontend__shard": "1/2"}, r"frontend\.shard=1/2: a model without speech has no clips to encode"),
        ({"frontend__kind": "continuous"}, "data=none and frontend=none belong together"),
    ],
)
def test_speech_has_clips_a_frontend_and_a_task_or_none(texts, overrides, message):
    with pytest.raises(ConfigError, match=message):
        texts(**overrides)
