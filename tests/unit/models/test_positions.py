"""What is longer than the LLM's positions: speech is embedded in parts and reported, a text is cut and counted."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from speechde import SpeechTextEncoder
from speechde.checkpoint.folder import TrainedModel
from speechde.errors import ConfigError, DataError
from speechde.evaluation.run import evaluate_model
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import IN_PARTS, embed_items, item_rows, pieces_needed
from speechde.models.frontends.base import pad_items
from speechde.models.frontends.frames import ContinuousFrontend
from speechde.models.frontends.units import UnitFrontend
from speechde.models.pooling import mean_of_parts
from speechde.models.prompt import Prompt
from speechde.search import embed as search
from speechde.search import items as named
from speechde.training.features import Features, usable
from speechde.types import SAMPLE_RATE, Audio, Item, Text, Utterance

POSITIONS = {"bert": 128, "xlm-roberta": 127, "gemma3_text": 128, "modernbert": 128, "mt5": None, "t5": None}
LONG = 8.0  # seconds: 200 items at 25 Hz, more than the 128 positions of the tiny models


@pytest.mark.parametrize("name", list(POSITIONS))
def test_the_longest_input_is_read_and_no_longer_one_is_promised(tiny_llm, name):
    backbone = Backbone.load(tiny_llm(name)).eval()
    assert backbone.positions == POSITIONS[name]
    time = backbone.positions or 300
    with torch.no_grad():
        assert backbone(torch.zeros(1, time, 16), torch.ones(1, time).bool()).isfinite().all()
        if name in ("bert", "xlm-roberta"):  # tables, which end
            with pytest.raises((IndexError, RuntimeError)):
                backbone(torch.zeros(1, time + 1, 16), torch.ones(1, time + 1).bool())


@pytest.fixture
def prompt(tiny_llm):
    return Prompt(AutoTokenizer.from_pretrained(tiny_llm("bert")))


def build(tiny_llm, name="bert", stride=None, **options):
    backbone = Backbone.load(tiny_llm(name), audio_tokens=0 if stride else 12)
    if stride is None:
        return DualEncoder(backbone, {"speech": UnitFrontend(12)}, **options).eval()
    frontend = ContinuousFrontend(6, 16, 1.0, hidden=8, heads=2, layers=1, stride=stride)
    return DualEncoder(backbone, {"speech": frontend}, **options).eval()


def stored(media):
    """Clips whose content is what is stored of them."""
    return [[part.content] for _, part in media]


def speech_items(contents, langs):
    return [Item(Audio(content), lang=lang) for content, lang in zip(contents, langs, strict=True)]


def pieces(model, prompt, lengths, lang):
    """In how many pieces clips of so many units are read."""
    made = embed_items(
        model, prompt, speech_items([np.ones(n, np.int32) for n in lengths], [lang] * len(lengths)), stored
    )
    return made.pieces.tolist()


@pytest.mark.parametrize("stride", [None, 1, 4])
def test_the_room_for_speech_is_exact(tiny_llm, prompt, stride):
    """As many items as fit are one input that fills the positions, and one more makes two parts."""
    model = build(tiny_llm, stride=stride)
    prefix = prompt.speech_ids("fr_fr")
    room = model.room("speech", len(prefix))
    assert room == (128 - len(prefix)) * (stride or 1)
    shape = (room,) if stride is None else (room, 6)
    whole = np.ones(shape, np.int32 if stride is None else np.float32)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    embed_items(model, prompt, [Item(Audio(whole), lang="fr_fr")], stored)
    assert seen == [128]
    assert [pieces_needed(n, room) for n in (1, room, room + 1, 2 * room + 1)] == [1, 1, 2, 3]
    clips = [np.ones((n, *shape[1:]), whole.dtype) for n in (1, room, room + 1, 2 * room + 1)]
    assert embed_items(model, prompt, speech_items(clips, ["fr_fr"] * 4), stored).pieces.tolist() == [1, 1, 2, 3]
    unknown = np.ones((model.room("speech", len(prompt.speech_ids(None))), *shape[1:]), whole.dtype)
    assert len(unknown) != room
    assert embed_items(model, prompt, [Item(Audio(unknown))], stored).pieces.tolist() == [1]


@pytest.mark.parametrize("normalise", [True, False])
def test_a_long_item_is_the_mean_of_equal_parts_and_a_short_one_as_before(tiny_llm, prompt, normalise):
    model, draw = build(tiny_llm, normalise=normalise), np.random.default_rng(0)
    units = [draw.integers(0, 12, size).astype(np.int32) for size in (5, 300, 50)]
    items = speech_items(units, ["fr_fr", None, "ro_ro"])
    made = embed_items(model, prompt, items, stored)
    vectors = made.vectors
    with torch.no_grad():
        for row, lang in ((0, "fr_fr"), (2, "ro_ro")):
            alone = model.encode(pad_items([[("text", prompt.speech_ids(lang)), ("speech", units[row])]]))
            np.testing.assert_allclose(vectors[row], alone[0].numpy(), atol=1e-6)
    rows, owners = item_rows(model, prompt, items, stored)
    parts = [part for _, (_, part) in rows]
    assert made.pieces.tolist() == [1, 3, 1] and owners.tolist() == [0, 1, 1, 1, 2]
    assert [len(part) for part in parts] == [5, 100, 100, 100, 50]
    np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(units))  # nothing is lost
    mean = embed_items(model, prompt, speech_items(parts[1:4], [None] * 3), stored).vectors.mean(0)
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean) if normalise else mean, atol=1e-6)


def test_a_clip_that_had_to_be_cut_before_it_was_encoded_is_one_vector(tiny_llm, prompt):
    """Each piece of it is cut again where it does not fit."""
    model, draw = build(tiny_llm), np.random.default_rng(0)
    first, second, short = (draw.integers(0, 12, size).astype(np.int32) for size in (150, 40, 9))
    media = [[first, second], [short]]
    made = embed_items(model, prompt, speech_items([None, None], [None, None]), lambda _: media)
    assert made.pieces.tolist() == [3, 1]
    alone = embed_items(model, prompt, speech_items([*np.array_split(first, 2), second, short], [None] * 4), stored)
    np.testing.assert_allclose(made.vectors, [alone.vectors[:3].mean(0), alone.vectors[3]], atol=1e-6)


def test_the_words_of_an_item_go_with_every_piece_of_its_clip(tiny_llm, prompt):
    model, units = build(tiny_llm), np.random.default_rng(0).integers(0, 12, 150).astype(np.int32)
    made = embed_items(model, prompt, [Item(Text("before"), Audio(units), Text("after"))], stored)
    halves = [Item(Text("before"), Audio(half), Text("after")) for half in np.array_split(units, 2)]
    assert made.pieces.tolist() == [2]
    mean = embed_items(model, prompt, halves, stored).vectors.mean(0)
    np.testing.assert_allclose(made.vectors[0], mean, atol=1e-6)


@pytest.mark.parametrize("stride", [None, 4])
def test_an_item_of_several_parts_fills_the_positions_and_no_more(tiny_llm, prompt, stride):
    """Each clip takes whole positions: five frames at a stride of four are two."""
    model, shape = build(tiny_llm, stride=stride), () if stride is None else (6,)
    left = 128 - len(prompt.speech_ids("fr_fr"))

    def clip(positions, more=0):
        return Audio(np.ones(((positions - 1) * (stride or 1) + 1 + more, *shape), np.float32 if stride else np.int32))

    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    fits = Item(clip(30), clip(left - 30), id="x", lang="fr_fr")
    assert embed_items(model, prompt, [fits], stored).pieces.tolist() == [1] and seen == [128]
    for parts in ([clip(31), clip(left - 30)], [clip(30), clip(left - 30), Text("b")], [Text("a" * 300), clip(1)]):
        with pytest.raises(DataError, match=r"item 'x' is longer than the LLM's positions; embed its parts as items"):
            embed_items(model, prompt, [Item(*parts, id="x", lang="fr_fr")], stored)
    free = build(tiny_llm, "mt5", stride)
    assert embed_items(free, prompt, [Item(clip(90), clip(90), lang="fr_fr")], stored).pieces.tolist() == [1]


def test_means_by_hand():
    vectors = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    owners = torch.tensor([0, 1, 1, 2])
    assert mean_of_parts(vectors, owners, 3, False).tolist() == [[3, 4], [0.5, 0.5], [0, 2]]
    unit = mean_of_parts(vectors, owners, 3, True)
    assert unit[[0, 2]].tolist() == [[3, 4], [0, 2]]  # bit for bit, whatever it was
    torch.testing.assert_close(unit[1], torch.full((2,), 0.5**0.5))


def test_without_a_limit_nothing_is_cut_and_a_prefix_that_fills_it_is_an_error(tiny_llm, prompt):
    model = build(tiny_llm, "mt5")
    assert model.room("speech", 17) is None and pieces_needed(100_000, None) == pieces_needed(0, None) == 1
    assert pieces(model, prompt, [1000], None) == [1]
    filled = Prompt(prompt.tokenizer, speech="x" * 127)
    with pytest.raises(
        ConfigError, match=r"speech prefix of 128 tokens fills the 128 positions .*model\.prefix\.speech"
    ):
        pieces(build(tiny_llm), filled, [1], None)


@pytest.fixture(params=["discrete", "continuous"])
def encoder(request, tiny_model):
    llm = "bert" if request.param == "discrete" else "xlm-roberta"  # at 25 Hz, and at 12.5 Hz
    return SpeechTextEncoder.from_pretrained(tiny_model(request.param, llm=llm), device="cpu")


@pytest.fixture
def long_clip(tmp_path, make_tone):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([make_tone(LONG, f) for f in (110, 220)]), SAMPLE_RATE)
    return path


def test_every_way_to_a_vector_takes_a_long_clip_and_says_so(encoder, long_clip, clips, caplog):
    """The library, sentence-transformers, the commands and the evaluation, which goes on and counts it."""
    paths, langs = [clips[0].audio, str(long_clip), clips[1].audio], ["fr_fr"] * 3
    vectors = encoder.encode_speech(paths, langs)
    assert np.isfinite(vectors).all() and np.ptp(np.linalg.norm(vectors, axis=1)) < 1e-5
    said = [record.getMessage() for record in caplog.records if "parts" in record.getMessage()]
    assert len(said) == 1 and "clip 1 of 16 s is embedded in" in said[0]
    for row in (0, 2):
        np.testing.assert_allclose(encoder.encode_speech(paths[row], "fr"), vectors[row], atol=2e-6)

    found = search.embed(encoder, [named.Item(path, "fr_fr", None, path) for path in paths])
    np.testing.assert_allclose(found.vectors, vectors, atol=2e-6)
    assert [(item.id, item.reason) for item in found.noted] == [(str(long_clip), IN_PARTS)]

    trained = encoder.trained
    utterances = [Utterance(path, "fr_fr", f"text {i}", path, str(i), "test") for i, path in enumerate(paths)]
    store = dict(zip(paths, encoder.speech_items([encoder.waveform(path) for path in paths]), strict=True))
    metrics, _ = evaluate_model(trained, store, utterances, roles={"seen": ["fr_fr"], "zero_shot": []})
    assert metrics["noted"] == {IN_PARTS: 1}


def test_sentence_transformers_takes_a_long_clip_and_reports_a_long_text(tiny_model, long_clip, clips, caplog):
    folder = tiny_model("continuous", llm="xlm-roberta")
    encoder, model = SpeechTextEncoder.from_pretrained(folder, device="cpu"), SentenceTransformer(str(folder))
    paths = [clips[0].audio, str(long_clip)]
    np.testing.assert_allclose(model.encode(paths, language="fr"), encoder.encode_speech(paths, "fr"), atol=2e-6)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model.encode(["a" * 500, "b"])
    assert "1 of 2 texts were cut at 127 tokens" in caplog.text


def test_evaluation_counts_texts_that_are_cut(tiny_model, clips):
    trained = TrainedModel.load(tiny_model("discrete"))
    test = [u for u in clips if u.split == "test"]
    test = [Utterance(u.id, u.lang, u.text + "a" * 200 * i, u.audio, u.sentence_id, "test") for i, u in enumerate(test)]
    items = {u.id: np.array([1, 2, 3], np.int32) for u in test}
    metrics, _ = evaluate_model(trained, items, test, roles={"seen": ["fr_fr"], "zero_shot": ["es_419", "ro_ro"]})
    assert metrics["noted"] == {"text cut at 128 tokens": len(test) - 1}


def test_training_leaves_out_what_does_not_fit_and_counts_it(tiny_model, clips):
    trained = TrainedModel.load(tiny_model("discrete", llm="bert"))
    training = [u for u in clips if u.split == "train"][:3]
    store = {u.id: np.zeros(size, np.int32) for u, size in zip(training, (10, 200, 20), strict=True)}
    seconds = {u.id: length for u, length in zip(training, (1.0, 8.0, 30.0), strict=True)}
    features = Features([store], store, None, np.zeros(1), np.ones(1), {}, [], seconds)
    kept, too_long = usable(training, features, 20.0, trained)
    assert kept == training[:1]
    assert too_long == {"longer than trainer.max_seconds": 1, "longer than the LLM's positions": 1}
    assert usable(training, features, 4.0, trained)[1] == {"longer than trainer.max_seconds": 2}


def test_the_limit_of_texts_is_stored_with_the_model(tiny_model, tmp_path, monkeypatch):
    trained = TrainedModel.load(tiny_model("discrete"))
    assert trained.prompt.max_tokens == 128  # a folder without the setting: 256, bounded by the positions
    same = TrainedModel(trained.model, trained.prompt, trained.quantiser, replace(trained.settings, max_tokens=256))
    trained.settings = replace(trained.settings, max_tokens=40)
    trained.save(tmp_path / "m")
    again = TrainedModel.load(tmp_path / "m")
    assert again.prompt.max_tokens == 40 and len(again.prompt.text_ids("a" * 100, "fr_fr")) == 40
    # other vectors of long texts, so another fingerprint; the limit that all models had changes nothing
    assert again.fingerprint == trained.fingerprint != same.fingerprint
    assert same.fingerprint == TrainedModel.load(tiny_model("discrete")).fingerprint
