"""Zero-shot languages, and the texts of dev and test, never reach anything that is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from speechde.corpora.examples import Joined, SpeechExamples
from speechde.errors import ConfigError, DataError
from speechde.features import sets
from speechde.features.store import FeatureStore
from speechde.models.prompt import Prompt
from speechde.training import data, features, fit, run
from speechde.training.dataset import ExampleDataset
from speechde.training.recall import DevRecall
from speechde.types import Item, Text


class Spy:
    """What each stage of a run was given."""

    def __init__(self, monkeypatch):
        self.read, self.rows, self.tasks, self.dev, self.items, self.texts = [], [], [], [], [], []
        real = {"extract": features.extract_frames, "fit": features.fit_kmeans}

        def extract(utterances, *arguments, **options):
            self.read.append((options["label"], [u.id for u in utterances]))
            return real["extract"](utterances, *arguments, **options)

        def fit_kmeans(rows, *arguments, **options):
            self.rows.append(rows)
            return real["fit"](rows, *arguments, **options)

        class Examples(ExampleDataset):
            def __init__(examples, tasks, views, prompt, *rest):
                self.tasks += tasks
                super().__init__(tasks, views, Reader(prompt), *rest)

            def collate(examples, rows):
                chosen = [examples.tasks[row.task][row.example] for row in rows]
                self.items += [item for one in chosen for item in (one.query, one.positive)]
                return super().collate(rows)

        class Reader:
            """A prompt that notes what it is asked to read."""

            def __init__(reader, prompt: Prompt):
                reader.prompt = prompt

            def text_ids(reader, text, lang, cut=None):
                self.texts.append((lang, text))
                return reader.prompt.text_ids(text, lang, cut)

            def ids_of_texts(reader, texts, cut=None):
                own = list(texts)
                self.texts += own
                return reader.prompt.ids_of_texts(own, cut)

            def segments(reader, item: Item, cut=None, name=None):
                self.texts += [(item.lang, part.content) for part in item.parts if isinstance(part, Text)]
                return reader.prompt.segments(item, cut, name)

        class Recall(DevRecall):
            def __init__(recall, prompt, utterances, *rest):
                self.dev += [u.id for u in utterances]
                super().__init__(prompt, utterances, *rest)

        for module in (features, sets):
            monkeypatch.setattr(module, "extract_frames", extract)
        monkeypatch.setattr(features, "fit_kmeans", fit_kmeans)
        monkeypatch.setattr(fit, "ExampleDataset", Examples)
        monkeypatch.setattr(fit, "DevRecall", Recall)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


def ids(clips, split):
    return [u.id for u in clips if u.split == split and u.lang != "ro_ro"]


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("recipe", ["stamps", "quickstart_narrow"])
def test_what_training_is_given(tiny_run, mixed, clips, spy, recipe, tasks):
    config = tiny_run(recipe, trainer__steps=8, trainer__eval_every=8, **mixed(tasks))
    run.train(config)
    speeds = len(config.frontend.speeds)
    paths = [u.audio for u in clips if u.id in ids(clips, "train")]
    assert [(label.split()[0], given) for label, given in spy.read] == (
        [("train", ids(clips, "train"))] * speeds
        + [("files", paths)] * (tasks - 1)
        + [("dev", ids(clips, "dev")), ("evaluation", [u.id for u in clips if u.split == "test"])]
    )
    assert spy.dev == ids(clips, "dev") and len(spy.tasks) == tasks
    assert [u.id for stream in spy.tasks[0].streams for u in stream.utterances] == ids(clips, "train")
    train = {u.id: (u.lang, u.text) for u in clips if u.id in ids(clips, "train")}
    assert set(spy.texts) == set(train.values()) and len(train) == 10
    assert {item.lang for item in spy.items} == {"es_419", "fr_fr"}
    assert {item.id for item in spy.items if item.id} <= {*train, *paths} and len(spy.items) > 30
    assert {item.meaning for item in spy.items} <= {text for _, text in train.values()}


def test_kmeans_is_given_frames_of_training_clips_alone(tiny_run, clips, spy):
    config = tiny_run()
    run.train(config)
    stores = [FeatureStore.open([folder]) for folder in (Path(config.cache_dir) / "frames").glob("*-pool2-mean0.5")]
    train = np.concatenate([s.gather(s.ids) for s in stores if set(s.ids) <= set(ids(clips, "train"))])
    (rows,) = spy.rows
    assert len(rows) == len(train)
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(train.astype(np.float32), axis=0))


def test_unreadable_zero_shot_clips_are_not_noticed_by_training(tiny_run, clips, tmp_path):
    poison = tmp_path / "poison.wav"
    poison.write_bytes(b"not audio")
    poisoned = [replace(u, audio=str(poison)) if u.lang == "ro_ro" and u.split != "test" else u for u in clips]
    expected = run.train(tiny_run(runs_dir=str(tmp_path / "a")))
    dirty = tiny_run(utterances=poisoned, runs_dir=str(tmp_path / "b"), cache_dir=str(tmp_path / "cache2"))
    found = run.train(dirty)
    assert found["data"]["dropped"] == expected["data"]["dropped"] == {"longer than trainer.max_seconds": 0}
    assert found["audio_to_text"] == expected["audio_to_text"]
    assert found["dev_recall@1"] == expected["dev_recall@1"]


def test_bad_clips_are_counted_over_all_splits(tiny_run, clips, tmp_path):
    poison = tmp_path / "poison.wav"
    poison.write_bytes(b"not audio")
    bad = {"es_419-train-0", "fr_fr-train-1", "fr_fr-dev-0", "ro_ro-test-0"}
    metrics = run.train(tiny_run(utterances=[replace(u, audio=str(poison)) if u.id in bad else u for u in clips]))
    assert metrics["data"]["dropped"] == {"unreadable": 4, "longer than trainer.max_seconds": 0}
    assert metrics["data"]["train"]["recordings"] == 8
    assert metrics["data"]["test"]["recordings"] == 8


@pytest.mark.parametrize("tasks", [1, 2])
def test_changing_a_zero_shot_language_changes_no_trained_weight(tiny_run, mixed, clips, tmp_path, tasks):
    states = []
    for name, utterances in (("a", clips), ("b", [u for u in clips if u.lang != "ro_ro" or u.split == "test"])):
        config = tiny_run(utterances=utterances, runs_dir=str(tmp_path / name), **mixed(tasks))
        run.train(config)
        path = run.run_directory(config) / "checkpoints/last.ckpt"
        states.append(torch.load(path, weights_only=True)["state_dict"])
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_training_clip_without_features_is_an_error_and_not_a_gap(clips):
    with pytest.raises(DataError, match="5 training clips have no features"):
        ExampleDataset([Joined(SpeechExamples(clips[:5]))], [{}], None)


def test_a_file_has_no_speech_of_a_zero_shot_language_and_no_text_that_is_held_out(tiny_run, clips, read_aloud):
    def line(u):
        return json.dumps({"query": u.text, "positive": {"parts": [{"audio": u.audio}], "lang": u.lang}}) + "\n"

    held_out = next(u for u in clips if u.split == "test" and u.lang == "fr_fr")
    before = read_aloud.read_text()
    read_aloud.write_text(before + line(held_out).replace(held_out.text, held_out.text.upper() + "."))
    task = {"tasks__aloud": {"examples": str(read_aloud)}}
    metrics = run.train(tiny_run(**task))
    assert metrics["data"]["tasks"] == {"aloud": {"examples": 10, "languages": 2}}
    assert metrics["data"]["dropped"]["aloud: a text of dev or test"] == 1
    read_aloud.write_text(before + line(next(u for u in clips if u.lang == "ro_ro" and u.split == "train")))
    with pytest.raises(ConfigError, match=r"tasks\.aloud: .* has speech in ro_ro, which would be evaluated as never"):
        run.train(tiny_run(**task))
    read_aloud.write_text(line(held_out))
    with pytest.raises(DataError, match=r"tasks\.aloud: .* has no example to train on \(a text of dev or test: 1\)"):
        run.train(tiny_run(**task))
    late = line(next(u for u in clips if u.lang == "ro_ro")).replace("}\n", ', "split": "dev"}\n')
    read_aloud.write_text(before + late)  # it would choose the checkpoint
    with pytest.raises(ConfigError, match=r"tasks\.aloud: .* has speech in ro_ro, which would be evaluated as never"):
        run.train(tiny_run(**task))


def test_what_a_file_or_the_corpus_holds_out_no_file_trains_on(tiny_run, clips, read_aloud):
    asked = read_aloud.with_name("asked.jsonl")
    held_out = next(u for u in clips if u.split == "test" and u.lang == "fr_fr")
    asked.write_text(
        json.dumps({"query": "Who wrote it?", "positive": "Ann did.", "split": "test"})
        + "\n" + json.dumps({"query": "One more", "positive": "Nobody knows."}) + "\n"
    )  # fmt: skip
    leaks = [
        {"query": "who wrote it", "positive": "Somebody."},
        {"query": "Listen", "positive": {"parts": [{"audio": held_out.audio}], "lang": "fr_fr"}},
        {"query": "Any", "positive": "thing", "negatives": ["a", {"parts": ["b", "c"]}, {"parts": ["d", "e"]}]},
    ]
    read_aloud.write_text(read_aloud.read_text() + "".join(json.dumps(line) + "\n" for line in leaks))
    tasks = {"aloud": {"examples": str(read_aloud), "negatives": 2}, "asked": {"examples": str(asked)}}
    config = tiny_run(**{f"tasks__{name}": task for name, task in tasks.items()})
    files, later = data.read_files(config, data.read_data(config, read_aloud.parent).corpus, read_aloud.parent)
    assert {name: len(file) for name, file in files.items()} == {"aloud": 10, "asked": 1} and not later["dev"]
    reasons = ["in dev or test of another file", "a clip of dev or test", "hard negatives of several make-ups"]
    assert [dropped.reason for dropped in files["aloud"].dropped] == reasons
    config.tasks["aloud"].negatives = 1  # the first is of one make-up
    assert (
        len(data.read_files(config, data.read_data(config, read_aloud.parent).corpus, read_aloud.parent)[0]["aloud"])
        == 11
    )


def test_examples_whose_clips_cannot_be_used_are_counted(tiny_run, clips, read_aloud, make_wav):
    long = make_wav("long.wav", 4.5)
    lines = read_aloud.read_text().splitlines()
    broken = read_aloud.with_name("broken.wav")
    broken.write_bytes(b"not audio")
    for audio in (str(long), str(broken)):
        lines.append(json.dumps({"query": "one more", "positive": {"parts": [{"audio": audio}], "lang": "fr_fr"}}))
    read_aloud.write_text("\n".join([*lines, "{"]))
    metrics = run.train(tiny_run(tasks__aloud={"examples": str(read_aloud)}))
    assert metrics["data"]["tasks"]["aloud"]["examples"] == 10
    assert metrics["data"]["dropped"] == {
        "longer than trainer.max_seconds": 0, "unreadable": 1, "aloud: malformed line": 1,
        "aloud: example with a clip longer than trainer.max_seconds": 1,
        "aloud: example whose clip has no features": 1,
    }  # fmt: skip
