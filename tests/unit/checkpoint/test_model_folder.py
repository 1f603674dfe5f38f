"""A model folder reloads to the same embeddings, and refuses what is not one."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from speechde.checkpoint import encoders as encoders_module
from speechde.checkpoint.encoders import encoder_folder
from speechde.checkpoint.folder import TrainedModel, assemble
from speechde.errors import AssetError, DataError
from speechde.features.kmeans import fit_kmeans
from speechde.features.unit_bpe import train_bpe
from speechde.features.units import Quantiser
from speechde.models.backbone import Backbone
from speechde.models.embed import embed_items
from speechde.models.prompt import Prompt
from speechde.types import Audio, Item, Text
from speechde.weights import locate

FRONTENDS = {"discrete": {"drop": 0.5}, "continuous": {"drop": 0.2, "noise": 0.1, "downsample": "attention"}}


@pytest.fixture
def make(tiny_llm, tiny_settings):
    def build(kind="discrete", model_type="gemma3_text", num_layers=None, attention="bidirectional", **head):
        folder = tiny_llm(model_type)
        torch.manual_seed(3)
        settings = tiny_settings(
            kind, frontend=FRONTENDS[kind], attention=attention, prefix={"text": "query: "}, head={"dim": 5} | head
        )
        llm = Backbone.load(folder, num_layers=num_layers).model
        quantiser = None
        if kind == "discrete":
            kmeans = fit_kmeans(np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32), 12)
            quantiser = Quantiser(kmeans, deduplicate=False)
        prompt = Prompt(AutoTokenizer.from_pretrained(folder), **asdict(settings.prefix))
        return TrainedModel(assemble(llm, settings).eval(), prompt, quantiser, settings)

    return build


def embeddings(trained):
    draw = np.random.default_rng(5)
    if trained.quantiser is None:
        stored = [draw.normal(size=(n, 6)).astype(np.float32) for n in (4, 9, 17)]
    else:
        stored = [trained.quantiser.encode(draw.normal(size=(n, 6))) for n in (4, 9, 17)]
    items = [Item(Audio(one), lang=lang) for one, lang in zip(stored, ("fr_fr", "ro_ro", None), strict=True)]
    items += [Item(Text(text), lang="fr_fr") for text in ("été", "a longer text")]
    made = embed_items(trained.model, trained.prompt, items, lambda media: [[part.content] for _, part in media])
    return made.vectors


@pytest.mark.parametrize("model_type", ["gemma3_text", "llama", "bert", "xlm-roberta", "modernbert"])
@pytest.mark.parametrize("kind", list(FRONTENDS))
def test_embeddings_are_the_same_bit_for_bit(make, tmp_path, kind, model_type):
    trained = make(kind, model_type)
    trained.save(tmp_path / "model")
    loaded = TrainedModel.load(tmp_path / "model")
    np.testing.assert_array_equal(embeddings(loaded), embeddings(trained))
    assert loaded.settings == trained.settings and not loaded.model.training
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "speechde.json", "config.json", "tokenizer.json"} <= names
    assert ("kmeans.safetensors" in names) == (kind == "discrete")
    assert not any(name.endswith((".py", ".bin", ".pt", ".pkl")) for name in names)


@pytest.mark.parametrize("kind", list(FRONTENDS))
def test_fingerprint(make, tmp_path, kind):
    """It names what decides the vectors, wherever the folder is, and whatever its training record says."""
    trained = make(kind)
    record = {"recipe": "a", "mode": "modern", "seed": 0, "seen": ["fr_fr"], "zero_shot": [], "commit": "0123abc"}
    speech = trained.settings.speech
    trained.settings = replace(trained.settings, training=record, speech=replace(speech, encoder="some/folder"))
    trained.save(tmp_path / "a")
    loaded = TrainedModel.load(tmp_path / "a")
    loaded.settings = replace(
        loaded.settings, training=record | {"recipe": "b"}, speech=replace(speech, encoder="another/folder")
    )
    loaded.save(tmp_path / "b")
    names = [trained.fingerprint, loaded.fingerprint, TrainedModel.load(tmp_path / "b").fingerprint]
    loaded.settings = replace(loaded.settings, prefix=replace(loaded.settings.prefix, mode="none"))
    names.append(loaded.fingerprint)
    with torch.no_grad():
        trained.model.projection.weight[0, 0] += 1
    names.append(trained.fingerprint)
    assert len(set(names[:3])) == 1 and len(set(names)) == 3 and len(names[0]) == 16
    if kind == "discrete":
        trained.quantiser = Quantiser(trained.quantiser.kmeans, deduplicate=True)
        assert trained.fingerprint not in names


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 1}, {"model_type": "llama", "attention": "causal"}, {"dim": None, "normalise": False},
     {"speech_layer": 1}],
)  # fmt: skip
def test_settings_come_back(make, tmp_path, options):
    trained = make(**options)
    trained.save(tmp_path / "m")
    loaded = TrainedModel.load(str(tmp_path / "m"))
    np.testing.assert_array_equal(embeddings(loaded), embeddings(trained))
    assert loaded.model.backbone.attention == trained.model.backbone.attention


def test_a_unit_bpe_comes_back(make, tmp_path):
    trained = make()
    draw = np.random.default_rng(0)
    sequences = [trained.quantiser.encode(draw.normal(size=(30, 6))) for _ in range(20)]
    trained.quantiser = Quantiser(trained.quantiser.kmeans, True, train_bpe(sequences, 12, 20))
    trained.settings = replace(
        trained.settings,
        frontend=replace(trained.settings.frontend, units=20),
        speech=replace(trained.settings.speech, deduplicate=True, bpe=20),
    )
    trained.model = assemble(trained.model.backbone.model, trained.settings).eval()
    trained.save(tmp_path / "m")
    loaded = TrainedModel.load(tmp_path / "m")
    assert loaded.quantiser.hash == trained.quantiser.hash and loaded.quantiser.tokens == 20
    np.testing.assert_array_equal(embeddings(loaded), embeddings(trained))
    edit(tmp_path / "m", "speech", bpe=None)
    with pytest.raises(AssetError, match="has a quantiser of 12 tokens, and a model of 20"):
        TrainedModel.load(tmp_path / "m")
    edit(tmp_path / "m", "speech", bpe=20)
    (tmp_path / "m/unit_bpe.model").unlink()
    with pytest.raises(AssetError, match=r"no unit BPE at .*unit_bpe\.model"):
        TrainedModel.load(tmp_path / "m")


def test_each_tensor_is_stored_once(make, tmp_path):
    trained = make()
    trained.save(tmp_path / "m")
    stored = load_file(tmp_path / "m/model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(p.numel() for p in trained.model.parameters())


def test_a_newer_save_does_not_mix_with_an_older(make, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "speechde.checkpoint.folder.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        make().save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def edit(folder, group=None, **changes):
    path = folder / "speechde.json"
    values = json.loads(path.read_text("utf-8"))
    (values[group] if group else values).update(changes)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_refused(make, tmp_path):
    with pytest.raises(AssetError, match=r"is not a trained model: it has no speechde\.json"):
        TrainedModel.load(tmp_path)
    folder = tmp_path / "m"
    make().save(folder)
    edit(folder, format=99)
    with pytest.raises(AssetError, match="another format than 1"):
        TrainedModel.load(folder)
    edit(folder, format=1)
    with pytest.raises(DataError, match="is not empty; delete it"):
        make().save(folder)
    tensors = load_file(folder / "model.safetensors")
    weight = tensors.pop("projection.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(AssetError, match=r"does not fit its config: \['projection\.weight'\]"):
        TrainedModel.load(folder)
    save_file(tensors | {"projection.weight": weight, "other": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(AssetError, match=r"does not fit its config: \['other'\]"):
        TrainedModel.load(folder)
    (folder / "kmeans.safetensors").unlink()
    with pytest.raises(AssetError, match="no k-means centroids"):
        TrainedModel.load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("speechde.json", b'{"format": 1, '),
        ("speechde.json", b'{"format": 1}'),
        ("prefixes.json", b"{"),
        ("config.json", None),
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("kmeans.safetensors", b"junk"),
        ("model.safetensors", b"junk"),
        ("model.safetensors", "cut"),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_folder(tiny_model, tmp_path, name, content):
    folder = Path(shutil.copytree(tiny_model("discrete"), tmp_path / "m"))
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(data[:-100] if content == "cut" else content)
    with pytest.raises(AssetError, match=r"damaged|lacks") as error:
        TrainedModel.load(folder)
    assert str(folder) in str(error.value) and "fetch" in str(error.value)


def test_weights_of_another_shape(make, tmp_path):
    make().save(tmp_path / "m")
    edit(tmp_path / "m", "head", dim=7)
    with pytest.raises(AssetError, match="damaged"):
        TrainedModel.load(tmp_path / "m")


def test_audio_tokens_have_the_ids_of_their_rows(make, tmp_path):
    trained = make()
    trained.save(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    rows = trained.model.backbone.embedding.text_tokens
    assert tokenizer.convert_tokens_to_ids(["<audio_0>", "<audio_11>"]) == [rows, rows + 11]
    assert len(tokenizer) == rows + 12 and len(trained.prompt.tokenizer) == rows
    loaded = TrainedModel.load(tmp_path / "m")
    for text in ("a <audio_3> b", "<audio_unused_0>", "<bos>", "plain"):
        ids = loaded.prompt.text_ids(text, "fr_fr")
        np.testing.assert_array_equal(ids, trained.prompt.text_ids(text, "fr_fr"))
        assert ids.max() < rows, "what a text spells is text"
    loaded.save(tmp_path / "again")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "again")) == rows + 12


def test_prefixes_are_those_of_training(make, tmp_path):
    """A language that is renamed after training reads as before; folders without the table still load."""
    trained = make()
    trained.save(tmp_path / "m")
    path = tmp_path / "m/prefixes.json"
    table = json.loads(path.read_text("utf-8"))
    expected = {"speech": "[French Speech] ", "text": "query: ", "image": "[Image] "}
    assert table["fr_fr"] == expected and len(table) == 103
    assert table["unknown"]["speech"] == "[Unknown Speech] "
    table["fr_fr"]["speech"] = "[Old name Speech] "
    path.write_text(json.dumps(table), encoding="utf-8")
    loaded = TrainedModel.load(tmp_path / "m")
    assert loaded.prompt.prefix("speech", "fr_fr") == "[Old name Speech] "
    assert loaded.prompt.prefixes() == table
    path.unlink()
    assert TrainedModel.load(tmp_path / "m").prompt.prefix("speech", "fr_fr") == "[French Speech] "


def test_a_shared_folder_is_read_by_others(tiny_model, tmp_path, another_user):
    """safetensors writes files that only their owner reads. Of one that may not be read, the error says just that."""
    folder = shutil.copytree(tiny_model("discrete"), tmp_path / "model")
    (tmp_path / "opened").touch()
    modes = {path.stat().st_mode for path in tiny_model("discrete").iterdir()}
    assert modes == {(tmp_path / "opened").stat().st_mode}
    for name in ("model.safetensors", "kmeans.safetensors", "tokenizer.json", "speechde.json"):
        (folder / name).chmod(0)
        with another_user(), pytest.raises(PermissionError, match=name):
            TrainedModel.load(folder)
        (folder / name).chmod(0o644)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("packaged:whisper-base-encoder", [False]),
        ("openai/whisper-small", [False]),
        ("facebook/w2v-bert-2.0@main", [False]),
        ("org/encoder", [True]),  # offline: what the cache holds
        ("evil/openai", [True]),
        ("org/encoder@abc", [True]),
    ],
)
def test_what_a_folder_may_have_fetched(name, asked, monkeypatch, tiny_whisper, tiny_settings):
    speech = tiny_settings(speech={"encoder": name}).speech
    asked_offline = []

    def found(source, offline=False):
        asked_offline.append(offline)
        return tiny_whisper

    monkeypatch.setattr(encoders_module, "resolve", found)
    assert encoder_folder(speech) == tiny_whisper
    assert asked_offline == asked


def test_an_unknown_encoder_needs_the_word_of_the_user(monkeypatch, tmp_path, tiny_settings):
    cached_only = partial(_cached_only, locate.snapshot_download, cache_dir=tmp_path)
    monkeypatch.setattr(locate, "snapshot_download", cached_only)
    with pytest.raises(AssetError, match="speech_encoder='org/encoder' in Python, or hf download org/encoder"):
        encoder_folder(tiny_settings(speech={"encoder": "org/encoder"}).speech)
    with pytest.raises(AssetError, match="names the speech encoder '/gone'"):
        encoder_folder(tiny_settings(speech={"encoder": "/gone"}).speech)


def _cached_only(real, repo, *, local_files_only, **options):
    assert local_files_only, "nothing is fetched"
    return real(repo, local_files_only=True, **options)
