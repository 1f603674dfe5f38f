"""Baselines on a tiny trained model: each ranks the queries it should, and its row says so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechde import scoring
from speechde.config import evaluation as configuration
from speechde.errors import ConfigError
from speechde.evaluation import baselines, metrics, speech
from speechde.evaluation.retrieval import Remembered
from speechde.evaluation.retrieval import evaluate as evaluate_tasks
from speechde.evaluation.rivals import TextEncoder
from speechde.evaluation.scene import Request, Scene
from speechde.evaluation.transcripts import Transcripts
from speechde.reporting.report import baselines_markdown
from speechde.scoring import evaluate
from speechde.training import run
from speechde.training.directory import run_directory
from speechde.training.run import train
from speechde.types import Text, Utterance

LANGS = ("fr_fr", "ro_ro")


@pytest.fixture
def made():
    """``made(names, **changes)`` → a scene of eight recordings of four sentences, which the model gets half right."""
    utterances = [
        Utterance(f"{lang}{i}", lang, f"Text, {i // 2}", f"{lang}{i}", str(i // 2), "test", speaker=f"s{i % 2}")
        for lang in LANGS
        for i in range(4)
    ]

    def embed(items, role):
        """Texts by the number that they end in; recordings by their own."""
        rows = [int(part.content[-1]) if isinstance(part := i.parts[0], Text) else int(i.id[-1]) % 2 for i in items]
        return np.eye(2, dtype=np.float32)[rows]

    def build(*names, **changes):
        rng = np.random.default_rng(0)
        centre = rng.normal(size=(2, 8))
        spoken = changes.pop("utterances", utterances)
        remembered = Remembered(changes.pop("embed", embed), symmetric=True)
        items = {u.id: (centre[int(u.sentence_id)] + 0.1 * rng.normal(size=(5, 8))).astype(np.float16) for u in spoken}
        tasks = speech.speech_tasks(spoken, {"seen": LANGS[:1], "zero_shot": LANGS[1:]})
        tasks, size = speech.scored(tasks, 0)
        results = evaluate_tasks(tasks, remembered)
        request = Request(list(names), "asr", None, lambda: items, None, **changes)
        scene = Scene(None, spoken, items, tasks, remembered, results, request)
        return scene, speech.speech_metrics(tasks, results, size, 0)

    build.utterances, build.embed = utterances, embed
    return build


def recalls(output, name):
    return {lang: row["recall@1"] for lang, row in output[name]["per_language"].items()}


def test_the_model_s_own_row_is_that_of_the_protocol(made):
    view, metrics = made()
    output = baselines.run_baselines(view, 4.0)
    own = output["model"]
    assert own["seconds_per_query"] == pytest.approx(0.5, abs=1e-3)
    for lang, row in metrics["audio_to_text"]["per_language"].items():
        for key in ("role", "queries", "recall@1", "ci95", "recall@5", "mrr", "chance"):
            assert own["per_language"][lang][key] == row[key], key
    for role in ("seen", "zero_shot"):
        for key in ("languages", "recall@1", "ci95", "mrr"):
            assert own[role][key] == metrics["audio_to_text"][role][key], key
        assert own[role]["lead"] == 0 and own[role]["lead_ci95"] == [0, 0]
    assert "notes" not in output


def test_oracle_is_right_and_leads(made):
    output = baselines.run_baselines(made("oracle")[0], 1.0)
    assert recalls(output, "oracle") == {"fr_fr": 1.0, "ro_ro": 1.0}
    assert output["oracle"]["seen"]["lead"] == -0.5


def test_oracle_cannot_tell_texts_apart_that_embed_alike(made):
    view, _ = made("oracle", embed=lambda items, role: np.ones((len(items), 2), np.float32))
    assert recalls(baselines.run_baselines(view, 1.0), "oracle") == {"fr_fr": 0.0, "ro_ro": 0.0}


def test_chance_is_chance_and_seeded(made):
    many = [replace(u, id=f"{u.lang}-{n}-{u.id[-1]}") for n in range(200) for u in made.utterances]
    rows = [
        recalls(baselines.run_baselines(made("chance", utterances=many, seed=s)[0], 1.0), "chance") for s in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]
    assert all(abs(value - 0.5) < 0.06 for value in rows[0].values())


def heard(view, change=str):
    view.transcripts = Transcripts({u.id: change(u.text) for u in view.utterances}, 0.25, [])


def test_cascade_by_characters(made):
    view, _ = made("cascade_chars")
    heard(view, lambda text: text.upper().replace(",", " !"))
    row = baselines.run_baselines(view, 1.0)["cascade_chars"]
    assert row["seen"]["recall@1"] == row["zero_shot"]["recall@1"] == 1.0
    assert 0.25 < row["seconds_per_query"] < 0.5
    view, _ = made("cascade_chars")
    heard(view, lambda text: "x")  # as far from either text: a tie
    assert recalls(baselines.run_baselines(view, 1.0), "cascade_chars") == {"fr_fr": 0.0, "ro_ro": 0.0}


def test_scores_in_blocks_are_those_of_the_whole(made, monkeypatch):
    texts = [f"Text, {i}" if i % 3 else "x" for i in range(2)]
    rows = []
    for block in (1, 3, 1024):
        monkeypatch.setattr(metrics, "BLOCK", block)
        view, _ = made("cascade_chars")
        heard(view, lambda text: texts[int(text[-1])])
        rows.append(baselines.run_baselines(view, 1.0)["cascade_chars"]["per_language"])
    assert rows[0] == rows[1] == rows[2] and rows[0]["fr_fr"]["recall@1"] == 0.5


def test_cascade_by_embeddings(made, tiny_llm, monkeypatch):
    monkeypatch.setattr(baselines, "resolve", lambda name: name)
    monkeypatch.setattr(baselines, "TextEncoder", lambda name: TextEncoder(tiny_llm("bert")))
    monkeypatch.setattr(baselines, "Rival", lambda name: TextEncoder(tiny_llm("bert")))
    view, _ = made("cascade_text", "cascade_e5", "cascade:model")
    heard(view)
    output = baselines.run_baselines(view, 1.0)
    for name in ("cascade_text", "cascade_e5", "cascade:model"):
        assert recalls(output, name) == {"fr_fr": 1.0, "ro_ro": 1.0}
        assert output[name]["seconds_per_query"] > 0.25


def test_rival_embeds_clips(made, monkeypatch):
    class Reader:
        def embed_texts(self, texts, query=False):
            return np.eye(2, dtype=np.float32)[[int(text[-1]) for _, text in texts]]

        def embed_clips(self, utterances, condition):
            return self.embed_texts([(u.lang, u.text) for u in utterances])

    monkeypatch.setattr(baselines, "Rival", lambda name: Reader())
    assert recalls(baselines.run_baselines(made("rival:a")[0], 1.0), "rival:a") == {"fr_fr": 1.0, "ro_ro": 1.0}


@pytest.mark.parametrize("name", ["mean_pooled", "dtw"])
def test_speech_to_speech(made, name):
    view, metrics = made(name)
    row = baselines.run_baselines(view, 1.0)[name]
    expected = metrics["audio_to_audio"]["per_language"]
    for lang in LANGS:
        assert row["per_language"][lang]["recall@1"] == 1.0
        assert row["per_language"][lang]["queries"] == expected[lang]["queries"]
        assert row["per_language"][lang]["chance"] == expected[lang]["chance"]
        assert row["per_language"][lang]["lead"] == expected[lang]["recall@1"] - 1.0
    assert row["direction"] == "audio_to_audio"


def test_without_speakers_a_note_says_why(made):
    nobody = [replace(u, speaker="") for u in made.utterances]
    output = baselines.run_baselines(made("mean_pooled", "oracle", utterances=nobody)[0], 1.0)
    assert "mean_pooled" not in output and "oracle" in output
    assert output["notes"][0].startswith("mean_pooled is left out: ")
    assert f"- {output['notes'][0]}." in baselines_markdown(output)


def test_every_name_of_the_configuration_is_a_baseline():
    assert tuple(baselines.BASELINES) == configuration.BASELINES
    assert tuple(baselines.WITH_MODEL) == configuration.BASELINE_KINDS
    with pytest.raises(ConfigError, match="Did you mean 'oracle'"):
        baselines.baseline("orcale")
    for wrong in ("orcale", "cascade:", "rivals:x"):
        with pytest.raises(ConfigError, match=r"eval\.baselines"):
            configuration.EvalConfig(baselines=[wrong])
    configuration.EvalConfig(baselines=["oracle", "cascade:a/b", "rival:folder", "run:runs/a/b"])


@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_untrained_is_where_training_started(recipe, tiny_run, monkeypatch):
    config = tiny_run(recipe)
    starts = []
    original = run.build_model

    def build_model(*arguments):
        starts.append(original(*arguments))
        starts.append({name: value.clone() for name, value in starts[0].model.state_dict().items()})
        return starts[0]

    monkeypatch.setattr(run, "build_model", build_model)
    train(config)
    trained, start = starts
    fresh = baselines.initialised(trained, scoring._model_config(run_directory(config) / "model"))
    now = fresh.model.state_dict()
    assert set(now) == set(start)
    for name, value in start.items():
        torch.testing.assert_close(now[name], value, msg=name)
    changed = [name for name, value in trained.model.state_dict().items() if not torch.equal(value, start[name])]
    assert changed, "training changed nothing"
    with pytest.raises(ConfigError, match="untrained"):
        Request(["untrained"], "asr", None, dict, None)
    with pytest.raises(ConfigError, match="'nowhere' holds no trained model"):
        Request(["run:nowhere"], "asr", None, dict, None)


def test_another_run_answers_as_it_does_itself(tiny_run, tmp_path):
    """Units against frames, and a model that has heard all three languages."""
    every = ["es_419", "fr_fr", "ro_ro"]
    other = tiny_run("quickstart_narrow", data__seen=every, model__dim=8, runs_dir=str(tmp_path / "other"))
    expected = train(other)
    name = f"run:{run_directory(other)}"
    output = train(tiny_run("stamps", eval__baselines=[name]))["baselines"]
    own = expected["audio_to_text"]["per_language"]
    assert recalls(output, name) == {lang: row["recall@1"] for lang, row in own.items()}
    roles = {lang: row["role"] for lang, row in output[name]["per_language"].items()}
    assert roles == {"es_419": "seen", "fr_fr": "seen", "ro_ro": "zero_shot"}  # of the model that was asked about
    assert output["notes"] == [f"{name} was trained on speech of es_419, fr_fr, ro_ro"]
    assert output[name]["seconds_per_query"] > 0


def test_with_evaluate(tiny_run, tiny_asr, clips):
    asked = ["chance", "untrained", "oracle", "cascade_chars", "cascade_text", "mean_pooled"]
    spoken = [replace(u, speaker=u.id, text=u.text if u.split != "test" else u.text[:-1] + "0") for u in clips]
    config = tiny_run("stamps", utterances=spoken, eval={"split": "test", "baselines": asked, "asr": str(tiny_asr)})
    first = train(config)["baselines"]
    assert list(first) == ["model", *asked, "notes"]
    assert first["notes"] == ["the cascade detected the language of es_419: it cannot be given"]
    assert first["mean_pooled"]["direction"] == "audio_to_audio"
    again = evaluate(config, run_directory(config))
    for name in asked:
        assert recalls(again["baselines"], name) == recalls(first, name), name
    (folder,) = run_directory(config).glob("evaluation-clips-test-*/results")
    assert json.loads((folder / "metrics.json").read_text("utf-8"))["baselines"] == again["baselines"]
    table = (folder / "table.md").read_text("utf-8")
    assert "## Baselines" in table and "| cascade_chars | zero-shot |" in table
