"""Dev recall: each language in its own gallery, then the mean over languages, as the protocol reports it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from speechde.evaluation import embed as stored
from speechde.evaluation.speech import evaluate_speech
from speechde.training.recall import DevRecall
from speechde.types import Utterance

ROWS = [("fr_fr", "a"), ("fr_fr", "a"), ("fr_fr", "b"), ("fr_fr", "c"), ("es_419", "a"), ("es_419", "d")]
UTTERANCES = [Utterance(str(i), lang, text, "", "", "dev") for i, (lang, text) in enumerate(ROWS)]
ITEMS = {u.id: np.array([i]) for i, u in enumerate(UTTERANCES)}
TEXTS = list(dict.fromkeys(ROWS))  # a is recorded twice in French; the Spanish a is another text
MODEL = SimpleNamespace(dim=8)


class WordPrompt:
    def text_ids(self, text, lang, cut=None):
        return np.array([TEXTS.index((lang, text))])


@pytest.fixture
def dev():
    return DevRecall(WordPrompt(), UTTERANCES, ITEMS)


def one_hot(rows, dim=8):
    return np.eye(dim, dtype=np.float32)[rows]


def embed(monkeypatch, speech, text):
    """A model whose vectors of the recordings and of the unique texts are these."""
    langs = [lang for lang, _ in ROWS]

    def embed_speech(model, prompt, items, languages, label):
        rows = [int(item[0]) for item in items]
        assert languages == [langs[row] for row in rows]
        return speech[rows]

    monkeypatch.setattr(stored, "embed_speech", embed_speech)
    monkeypatch.setattr(stored, "embed_texts", lambda model, ids, label: text[[int(i[0]) for i in ids]])


def test_every_recording_finds_its_transcript(dev, monkeypatch):
    embed(monkeypatch, one_hot([0, 0, 1, 2, 3, 4]), one_hot([0, 1, 2, 3, 4]))
    assert dev(MODEL) == 1.0


def test_languages_weigh_alike_and_do_not_compete(dev, monkeypatch):
    speech, text = one_hot([0, 0, 1, 1, 3, 3]), one_hot([0, 1, 2, 3, 4])
    embed(monkeypatch, speech, text)
    assert dev(MODEL) == pytest.approx((3 / 4 + 1 / 2) / 2)
    text[3] = text[0]  # the Spanish a looks like the French one: another gallery, so French scores stay
    embed(monkeypatch, speech, text)
    assert dev(MODEL) == pytest.approx((3 / 4 + 0) / 2)


def test_a_constant_encoder_gets_nothing(dev, monkeypatch):
    embed(monkeypatch, np.ones((6, 8), np.float32), np.ones((5, 8), np.float32))
    assert dev(MODEL) == 0.0


def test_the_number_that_chooses_is_the_number_that_is_reported(dev, monkeypatch):
    rng = np.random.default_rng(1)
    embed(monkeypatch, rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32))
    reported, _ = evaluate_speech(UTTERANCES, stored.stored_embed(MODEL, WordPrompt(), ITEMS), seen=["es_419", "fr_fr"])
    assert 0 < dev(MODEL) < 1
    assert dev(MODEL) == reported["audio_to_text"]["seen"]["recall@1"]
