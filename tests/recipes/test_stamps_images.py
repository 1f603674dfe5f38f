"""The recipe of pictures takes its steps on small files of each of its tasks, and is scored by language and role."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from speechde.api import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.config import build
from speechde.corpora.pictures import TASKS, Concept, Pictures, write_tasks
from speechde.training.run import run_directory, train
from speechde.types import Audio, Image, Item, Text


@pytest.fixture
def folder(clips, tmp_path):
    """Files of examples of the clips, a picture for each of their sentences; Romanian is in test alone."""
    found = {}
    for u in clips:
        picture = tmp_path / f"{u.translation}.png"
        level = len(found) * 20 % 256
        Pillow.fromarray(np.full((20, 24, 3), (level, 255 - level, 90), np.uint8)).save(picture)
        one = found.setdefault(u.translation, Concept(u.translation, u.split, (str(picture),), {}, ()))
        texts, spoken = one.texts | {u.lang: u.text}, (*one.clips, (u.lang, u.audio))
        found[u.translation] = Concept(one.id, one.split, one.pictures, texts, spoken)
    write_tasks(Pictures("tiny", list(found.values()), [], ""), tmp_path / "pictures", ["es_419", "fr_fr"])
    return tmp_path / "pictures"


@pytest.fixture
def config(tiny_run, tiny_vision, folder):
    files = {f"tasks__{task}__examples": str(folder / f"{task}.jsonl") for task in TASKS}
    return tiny_run("stamps_images", image__encoder=str(tiny_vision), trainer__steps=6, trainer__eval_every=3, **files)


def test_it_composes_with_a_task_for_each_way_to_ask(recipe_values):
    config = build(recipe_values("stamps_images"))
    assert list(config.tasks) == ["speech", *TASKS] and config.image.kind == "patches"
    assert all(config.tasks[task].by_language for task in TASKS)
    assert sum(config.tasks[task].rate for task in TASKS) == config.tasks["speech"].rate
    assert config.trainer.steps % config.trainer.eval_every == 0


def test_a_model_of_emoji_goes_on_and_learns_to_hear(tiny_run, tiny_vision, folder, tmp_path):
    files = {f"tasks__{task}__examples": str(folder / f"{task}.jsonl") for task in ("image_to_text", "text_to_image")}
    options = {"image__encoder": str(tiny_vision), "image__stride": 2, "trainer__batch_size": 2}
    first = tiny_run("emoji", data={"name": "none"}, model__image_layer=1, **options, **files)
    assert set(train(first)["tasks"]) >= {"image_to_text, languages of training"}
    files = {f"tasks__{task}__examples": str(folder / f"{task}.jsonl") for task in TASKS}
    source = run_directory(first)
    second = tiny_run("stamps_images", init=str(source), model__source=None, **options, **files)
    assert train(second)["audio_to_text"]["per_language"]
    before, after = (TrainedModel.load(run_directory(each) / "model").settings for each in (first, second))
    assert before.frontend is None and after.frontend.kind == "continuous" and after.patches == before.patches
    assert after.training["adapted_from"]["recipe"] == "emoji"


def test_it_trains_is_scored_and_embeds(config, folder):
    metrics = train(config)
    directory = run_directory(config)
    names = {f"{task}, {role}" for task in TASKS for role in ("languages of training", "other languages")}
    assert set(metrics["tasks"]) == names
    for name, row in metrics["tasks"].items():
        langs = ["es_419", "fr_fr"] if "training" in name else ["ro_ro"]
        assert list(row["languages"]) == langs and row["chance"] == pytest.approx(1 / 3)
    table = (directory / "results/table.md").read_text("utf-8")
    assert "| speech_to_image, other languages | test | 3 | 3 |" in table and "| · ro_ro | test |" in table
    encoder = SpeechTextEncoder.from_pretrained(directory / "model")
    line = json.loads((folder / "image_speech_to_text.jsonl").read_text("utf-8").splitlines()[0])
    picture, clip = ((folder / part[kind]).resolve() for part, kind in zip(line["query"]["parts"], ("image", "audio"),
                     strict=True))  # fmt: skip
    items = [Item(Image(picture)), Item(Image(picture), Audio(clip), lang="fr_fr"), Item(Text("un autobus"))]
    vectors = encoder.embed(items)
    assert vectors.shape == (3, encoder.dim) and np.isfinite(vectors).all()
