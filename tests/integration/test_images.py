"""Runs on files of examples with pictures: beside speech, without it, as a stage; and what their models do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pixels

from speechde import Audio, Image, Item, SpeechTextEncoder, Text
from speechde.checkpoint.folder import TrainedModel
from speechde.checkpoint.soup import make_soup
from speechde.errors import AssetError, ConfigError, DataError
from speechde.evaluation.embed import stored_embed
from speechde.features.pictures import extract_patches
from speechde.features.vision import VisionEncoder
from speechde.training import run
from speechde.training.directory import run_directory

BAD = 2  # training pictures that are none


@pytest.fixture
def pictures(tmp_path, clips):
    """A file of examples: text, clip and both ask for pictures, and pictures for texts."""
    folder, draw, lines = tmp_path / "pictures", np.random.default_rng(0), []
    folder.mkdir()
    spoken = [u.audio for u in clips if u.split == "train" and u.lang == "fr_fr"]
    for n in range(24):
        Pixels.fromarray(draw.integers(0, 256, (20, 16 + n, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        split = "dev" if n < 4 else "test" if n < 9 else "train"
        picture, meaning = {"image": f"{n}.png"}, f"thing {n}"
        lines.append({"query": {"parts": [picture], "meaning": meaning}, "split": split,
                      "positive": {"parts": [{"text": f"thing {n}"}], "meaning": meaning}})  # fmt: skip
        if split == "train":
            mixed = [[picture, {"text": "what is it?"}], [{"audio": spoken[n % 5]}, picture]][n % 2]
            lines.append({"query": {"parts": mixed, "meaning": meaning}, "split": split,
                          "positive": {"parts": [{"text": f"a thing {n}"}], "meaning": meaning}})  # fmt: skip
    for n in range(24 - BAD, 24):
        (folder / f"{n}.png").write_bytes(b"no picture")
    path = folder / "pictures.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def seeing(tiny_run, tiny_vision, pictures):
    """``seeing(recipe, **overrides)`` → a configuration with a task of pictures."""

    def make(recipe="quickstart_narrow", **overrides):
        task = {"examples": str(pictures), "batch_size": 4, "one_language": False}
        image = {"kind": "patches", "encoder": str(tiny_vision), "hidden": 8, "heads": 2}
        return tiny_run(recipe, **{"tasks__pictures": task, "image": image} | overrides)

    return make


def vectors_of(encoder, pictures, clips):
    """Items of every make-up that the model reads."""
    here, clip = str(pictures.parent / "0.png"), clips[0].audio
    items = [Item(Image(here)), Item(Text("it"), Image(here)), Item(Image(here), Text("it")), Item(Text("it"))]
    if encoder.trained.settings.speech:
        items += [Item(Image(here), Audio(clip)), Item(Audio(clip), Image(here)), Item(Audio(clip))]
    return items, encoder.embed(items)


@pytest.mark.parametrize(
    "recipe", ["quickstart_narrow", "stamps"]
)  # frames above the lowest layer, and units at the input
def test_a_run_on_speech_and_pictures(seeing, pictures, clips, recipe, tmp_path):
    config = seeing(recipe)
    metrics = run.train(config)
    row = metrics["tasks"]["pictures"]
    assert row["queries"] == row["gallery"] == 5 and row["chance"] == pytest.approx(0.2)
    assert metrics["data"]["dropped"]["picture unreadable"] == BAD
    assert metrics["data"]["dropped"]["pictures: example whose picture has no features"] == 2 * BAD
    folder = run_directory(config) / "model"
    trained = TrainedModel.load(folder)
    entry = 1 if recipe == "quickstart_narrow" else 0
    assert trained.model.entry_layer("image") == trained.model.entry_layer("speech") == entry
    assert trained.settings.patches.patch_dim == 16 and trained.model.frontends["image"].frame_std.std() > 0
    encoder = SpeechTextEncoder.from_pretrained(folder, device="cpu")
    items, vectors = vectors_of(encoder, pictures, clips)
    assert vectors.shape == (7, encoder.dim) and len(np.unique(vectors.round(4), axis=0)) == 7
    for item, vector in zip(items, vectors, strict=True):
        np.testing.assert_allclose(encoder.embed(item), vector, atol=1e-5)
    data = (pictures.parent / "0.png").read_bytes()
    for content in (data, Pixels.open(pictures.parent / "0.png"), np.asarray(Pixels.open(pictures.parent / "0.png"))):
        np.testing.assert_allclose(encoder.embed(Item(Image(content))), vectors[0], atol=1e-6)
    store = extract_patches([items[0].parts[0].content], VisionEncoder(config.image.encoder), tmp_path / "c")
    stored = stored_embed(trained.model, trained.prompt, store)
    np.testing.assert_allclose(stored(items[:3], "query"), vectors[:3], atol=1e-5)
    card = (folder / "README.md").read_text("utf-8")
    assert "image encoder (not in this folder)" in card and "encoder.embed([Item(Image(" in card


def test_a_run_on_text_and_pictures_alone(seeing, pictures, clips):
    lines = [json.loads(line) for line in pictures.read_text().splitlines()]
    lines = [line for line in lines if not any("audio" in part for part in line["query"]["parts"])]
    pictures.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = seeing("texts", data={"name": "none"}, trainer__steps=4, trainer__eval_every=2)
    metrics = run.train(config)
    assert metrics["tasks"]["pictures"]["queries"] == 5
    encoder = SpeechTextEncoder.from_pretrained(run_directory(config) / "model", device="cpu")
    assert encoder.trained.model.entry_layer("image") == 0
    _, vectors = vectors_of(encoder, pictures, clips)
    assert len(np.unique(vectors.round(4), axis=0)) == 4
    with pytest.raises(ConfigError, match="reads text and pictures and has no frontend for speech"):
        encoder.encode_speech(clips[0].audio)


def test_a_stage_goes_on_seeing_or_learns_to(seeing, tiny_run, pictures, tmp_path):
    blind = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "blind"))
    run.train(blind)
    folder = run_directory(blind) / "model"
    learns = seeing("quickstart_narrow", init=str(folder), runs_dir=str(tmp_path / "learns"), optim__backbone_lr=0.0)
    run.train(learns)
    first = TrainedModel.load(run_directory(learns) / "model")
    assert first.model.entry_layer("image") == 1 and first.model.frontends["image"].frame_std.std() > 0
    before = TrainedModel.load(folder)
    assert before.settings.image is None and "patches" not in before.settings.to_json()
    goes = run_directory(learns) / "model"
    on = tiny_run("quickstart_narrow", init=str(goes), runs_dir=str(tmp_path / "on"),
                  tasks__pictures={"examples": str(pictures), "batch_size": 4, "one_language": False})  # fmt: skip
    assert on.image.kind == "patches" and on.image.hidden == 8 and on.model.image_layer == 1
    run.train(on)
    second = TrainedModel.load(run_directory(on) / "model")
    assert second.settings.image == first.settings.image
    statistics = [each.model.frontends["image"].frame_mean for each in (first, second)]
    assert (statistics[0] == statistics[1]).all()
    soup = make_soup([goes, run_directory(on) / "model"])
    assert soup.settings.image == first.settings.image
    with pytest.raises(ConfigError, match="cannot be averaged"):
        make_soup([goes, folder])


def test_what_does_not_fit_together_is_refused_before_the_work_begins(seeing, tiny_run, pictures, capsys):
    with pytest.raises(ConfigError, match=r"tasks\.pictures: .* has pictures, and image\.kind=none reads none"):
        run.train(seeing(image__kind="none"))
    with pytest.raises(ConfigError, match=r"image\.kind=patches, and no task has a picture"):
        run.train(tiny_run("quickstart_narrow", image__kind="patches"))
    assert "plan" not in capsys.readouterr().out


def test_a_wholly_bad_set_is_an_error(seeing, pictures):
    for path in pictures.parent.glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 15 pictures could be used \(.*unreadable"):
        run.train(seeing())


def test_another_encoder_is_refused(seeing, clips, tmp_path, tiny_llm, tiny_vision):
    with pytest.raises(ConfigError, match=r"image\.encoder: model type of .* is not known; allowed: clip"):
        run.train(seeing(image__encoder=str(tiny_llm())))
    config = seeing()
    run.train(config)
    folder = run_directory(config) / "model"
    other = tmp_path / "other"
    other.mkdir()
    for path in Path(tiny_vision).iterdir():
        data = path.read_text().replace("0.5", "0.4") if path.name == "preprocessor_config.json" else None
        (other / path.name).write_text(data) if data else (other / path.name).write_bytes(path.read_bytes())
    encoder = SpeechTextEncoder.from_pretrained(folder, device="cpu", image_encoder=other)
    with pytest.raises(AssetError, match=r"was trained on patches of .*; .*other is "):
        encoder.embed(Item(Image(np.zeros((9, 9, 3), np.uint8))))


def test_pictures_that_cannot_be_read_and_models_that_cannot_see(seeing, tiny_run, tmp_path):
    config = seeing()
    run.train(config)
    encoder = SpeechTextEncoder.from_pretrained(run_directory(config) / "model", device="cpu")
    with pytest.raises(DataError, match=r"unreadable: 7: picture bytes is none of PNG"):
        encoder.embed([Item(Image(b"no picture"), id="7")])
    with pytest.raises(DataError, match="missing file"):
        encoder.embed([Item(Image(str(tmp_path / "none.png")))])
    with pytest.raises(DataError, match="a float is not a picture"):
        encoder.embed([Item(Image(0.5))])
    blind = tiny_run("quickstart_narrow", runs_dir=str(tmp_path / "blind"))
    run.train(blind)
    encoder = SpeechTextEncoder.from_pretrained(run_directory(blind) / "model", device="cpu")
    with pytest.raises(ConfigError, match="this model has no frontend for image; it reads text, speech"):
        encoder.embed([Item(Text("a")), Item(Image(np.zeros((9, 9, 3), np.uint8)))])
