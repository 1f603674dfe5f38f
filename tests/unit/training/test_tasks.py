"""The tasks that a configuration asks for, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from speechde.config import build
from speechde.config.earlier import as_today
from speechde.corpora.bitext import TextPair
from speechde.corpora.examples_file import read_examples
from speechde.errors import ConfigError
from speechde.training import data
from speechde.training.identity import asked_before
from speechde.training.prepare import longest_clip
from speechde.training.tasks import held_out_tasks, mixture, task_examples

PAIRS = [TextPair("fr_fr", f"phrase {n}", f"sentence {n}", None, str(n)) for n in range(6)]


def config_of(tasks=None, **changes):
    return build({"tasks": {"speech": {"examples": "clips"}, **(tasks or {})}, "trainer": {"batch_size": 4}, **changes})


def training(clips):
    return [u for u in clips if u.split == "train" and u.lang != "ro_ro"]


def test_tasks_have_their_rates_and_batches(clips):
    config = config_of({"texts": {"examples": "translations", "rate": 3.0, "batch_size": 6, "language_exponent": 1.0}})
    batches = mixture(config, task_examples(config, training(clips), PAIRS), steps=10)
    assert [(task.name, task.size, task.exponent) for task in batches.tasks] == [("speech", 4, 0.5), ("texts", 6, 1.0)]
    assert batches.probabilities.tolist() == [0.25, 0.75]
    drawn = [batches.batch(step) for step in range(200)]
    assert all(len({row.task for row in rows}) == 1 for rows in drawn)
    assert {len(rows) for rows in drawn if rows[0].task} == {6}
    assert sum(rows[0].task for rows in drawn) == pytest.approx(150, abs=20)
    again = mixture(config, task_examples(config, training(clips), PAIRS), steps=10)
    assert drawn[150:] == [again.batch(step) for step in range(150, 200)]


def test_batches_of_one_length_know_how_long_texts_are():
    pairs = [TextPair("fr_fr", "x" * n, f"sentence {n}", None, str(n)) for n in range(1, 17)]
    config = config_of({"texts": {"examples": "translations", "length_bins": 4}, "speech": None})
    batches = mixture(config, task_examples(config, (), pairs), steps=10)
    drawn = [sorted(row.example // 4 for row in batches.batch(step)) for step in range(40)]
    assert all(len(set(bins)) == 1 for bins in drawn) and {bins[0] for bins in drawn} == {0, 1, 2, 3}


def test_clips_one_after_another_are_a_task_of_their_own(clips):
    config = config_of({"runs": {"examples": "clips", "consecutive": 3}})
    speech, runs = task_examples(config, training(clips), seconds={u.id: 1.0 for u in clips})
    assert [task.name for task in mixture(config, [speech, runs], steps=1).tasks] == ["speech", "runs"]
    assert 0 < len(runs) <= len(speech) == len(training(clips))
    assert all("\n" in example.query.id for example in runs)
    assert max(example.query.id.count("\n") for example in runs) == 2
    long = {u.id: config.trainer.max_seconds for u in clips}
    limit = config.trainer.max_seconds
    assert len(task_examples(config, training(clips), limit=limit, seconds=long)[1]) == 0


@pytest.mark.parametrize(("room", "seconds"), [(None, 4.0), (1000, 4.0), (50, 50 / 25 * 0.8)])
def test_what_is_heard_at_once_fits_the_positions_of_the_llm(clips, room, seconds):
    """``room`` in frames, 25 a second, beside the longest prefix; the slowest version lasts longest."""
    config = config_of(frontend={"speeds": [1.0, 0.8, 1.2]})
    asked = []
    model = SimpleNamespace(room=lambda modality, prompt: asked.append((modality, prompt)) or room)
    prompt = SimpleNamespace(speech_ids=lambda lang: np.zeros(len(lang)))
    built = SimpleNamespace(model=model, prompt=prompt)
    assert longest_clip(config, built, training(clips)) == pytest.approx(seconds)
    assert asked == [("speech", len("es_419"))]
    assert longest_clip(config, built, []) == 4.0


def test_a_task_is_dropped_by_null_and_one_must_be_left():
    config = config_of({"texts": {"examples": "translations"}, "speech": None})
    assert list(config.tasks) == ["texts"] and config.uses("translation") and not config.uses("synthetic")
    with pytest.raises(ConfigError, match="tasks is empty"):
        config_of({"speech": None})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            {"spech": {"rate": 2.0}},
            r"tasks\.spech has no examples; set tasks\.spech\.examples to clips, translations, at",
        ),
        ({"speech": {"examples": "clips", "rate": 0}}, r"tasks\.speech\.rate=0\.0 is outside \(0, ∞\)"),
        (
            {"speech": {"examples": "clips", "shares": {"syntetic": 0.1}}},
            r"names 'syntetic'; clips have shares of synth",
        ),
        ({"speech": {"examples": "clips", "shares": [1]}}, r"shares=\[1\] is no group of named values"),
        ({"speech": {"examples": "clips", "apart": ["synthetic"]}}, r"apart names 'synthetic', which has no share"),
        ({"t": {"examples": "translations", "shares": {"translation": 0.5}}}, "have one source alone"),
        ({"speech": {"examples": "clips", "query": "q: {item}"}}, r"have those of model\.prefix"),
        ({"speech": {"examples": "clips", "negatives": 2}}, r"negatives=2: clips have none; name a file"),
        ({"speech": {"examples": "clips", "by_language": True}}, r"by_language: clips are scored by language as it is"),
        (
            {"qa": {"examples": "a.jsonl", "shares": {"web": 0.7, "wiki": 0.6}}},
            r"tasks\.qa\.shares of a batch are web=0\.7, wiki=0\.6, 1\.3 together; lower them to 1 at most",
        ),
        (
            {"qa": {"examples": "a.jsonl", "shares": {"web": 0.7, "wiki": 0.6}, "apart": ["web", "wiki"]}},
            r"shares of the batches are web=0\.7, wiki=0\.6, 1\.3 together",
        ),
        (
            {"t": {"examples": "qa.jsonl", "consecutive": 2}},
            r"t\.consecutive=2 is of clips; set examples=clips, or use 1",
        ),
        ({"t": {"examples": "qa.jsonl", "length_bins": 2}}, r"t\.length_bins=2: .*lengths are not known before; use 1"),
        (
            {"t": {"examples": "qa.jsonl", "by_language": True, "gallery": "own"}},
            r"tasks\.t\.by_language: with gallery=own",
        ),
        ({"speech": 3}, r"tasks\.speech=3 is not a group of settings"),
    ],
)
def test_what_does_not_fit_together_is_refused(tasks, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tasks)


def test_a_file_is_held_out_by_language_where_it_is_asked_for(tmp_path):
    path = tmp_path / "file.jsonl"
    rows = [{"query": f"{lang} {n}", "positive": f"{lang} {-n}", "stratum": lang, "split": "test"}
            for lang in ("fr", "ro") for n in range(1, 4)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    file = read_examples(path)
    for by_language, subsets in ((False, ["test"]), (True, ["test fr", "test ro"])):
        task = {"examples": str(path), "query": "q: {item}", "by_language": by_language}
        config = config_of({"speech": {"examples": "clips"}, "named": task})
        found = held_out_tasks(config, {"named": file}, "test", {"fr"})
        assert [one.subset for one in found] == subsets
        assert {one.sides for one in found} == {("named-query", "document")}
        assert [one.role for one in found] == ["trained_on", *["zero_shot"] * by_language]


def test_languages_of_synthetic_speech_alone_need_a_share_of_it(tiny_run, tmp_path):
    langs = {"langs": ["de"]}
    with pytest.raises(ConfigError, match=r"shares\.synthetic=0\.4, say, or data\.synthetic\.langs=\[\]"):
        data.read_data(tiny_run(data__synthetic=langs, tasks__speech__shares={}, tasks__speech__apart=[]), tmp_path)
    none = tiny_run(data__synthetic=langs, tasks__speech__shares={"synthetic": 0.0})  # langs of a recipe
    for config in (none, tiny_run()):
        found = data.read_data(config, tmp_path)
        assert found.synthetic is None and found.translations is None


OLD = {
    "data": {"synthetic": {"share": 0.4, "apart": True}, "translations": {"share": 0.25, "source": "transcripts"}},
    "trainer": {"one_language": False, "language_exponent": 0.3, "steps": 7},
    "adapt": {"old": {"synthetic": {"share": 0.1, "apart": False}, "translations": {"share": 0.0}}},
}


def test_a_configuration_of_before_is_read_as_the_task_it_was():
    found = build(as_today(OLD))
    task = found.tasks["speech"]
    assert task.shares == {"synthetic": 0.4, "translation": 0.25} and task.apart == ["synthetic"]
    assert (task.one_language, task.language_exponent, found.trainer.steps) == (False, 0.3, 7)
    assert OLD["data"]["synthetic"]["share"] == 0.4  # what was read is as it was
    assert asked_before(OLD)["tasks"]["speech"]["shares"]["synthetic"] == 0.4
    new = {"tasks": {"speech": {"examples": "clips"}}}
    assert as_today(new) == new


@pytest.mark.parametrize(("group", "key"), [("trainer", "one_language"), ("trainer", "language_exponent")])
def test_a_setting_that_moved_is_refused_by_its_new_name(group, key):
    with pytest.raises(ConfigError, match=rf"{group}\.{key} is now tasks\.speech\.{key}"):
        build({group: {key: 1}})
