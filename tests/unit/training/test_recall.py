"""Dev recall: each language in its own gallery, then the mean over languages, as the protocol reports it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from speechde.evaluation import embed as stored
from speechde.evaluation.speech import evaluate_speech
from speechde.models.embed import Embedded
from speechde.training.recall import DevRecall
from speechde.types import Audio, Utterance

ROWS = [("fr_fr", "a"), ("fr_fr", "a"), ("fr_fr", "b"), ("fr_fr", "c"), ("es_419", "a"), ("es_419", "d")]
UTTERANCES = [Utterance(str(i), lang, text, "", "", "dev") for i, (lang, text) in enumerate(ROWS)]
ITEMS = {u.id: np.array([i]) for i, u in enumerate(UTTERANCES)}
PROMPT = SimpleNamespace(named={})
TEXTS = list(dict.fromkeys(ROWS))  # a is recorded twice in French; the Spanish a is another text


@pytest.fixture
def dev():
    return DevRecall(PROMPT, UTTERANCES, ITEMS)


def one_hot(rows, dim=8):
    return np.eye(dim, dtype=np.float32)[rows]


def embed(monkeypatch, speech, text):
    """A model whose vectors of the recordings and of the unique texts are these."""

    def embed_items(model, prompt, items, read, **options):
        def one(item):
            if isinstance(item.parts[0], Audio):
                ((stored,),) = read([(item, item.parts[0])])
                return speech[int(stored[0])]
            return text[TEXTS.index((item.lang, item.parts[0].content))]

        return Embedded(np.stack([one(item) for item in items]), np.ones(len(items), int))

    monkeypatch.setattr(stored, "embed_items", embed_items)


def test_every_recording_finds_its_transcript(dev, monkeypatch):
    embed(monkeypatch, one_hot([0, 0, 1, 2, 3, 4]), one_hot([0, 1, 2, 3, 4]))
    assert dev(None) == 1.0


def test_languages_weigh_alike_and_do_not_compete(dev, monkeypatch):
    speech, text = one_hot([0, 0, 1, 1, 3, 3]), one_hot([0, 1, 2, 3, 4])
    embed(monkeypatch, speech, text)
    assert dev(None) == pytest.approx((3 / 4 + 1 / 2) / 2)
    text[3] = text[0]  # the Spanish a looks like the French one: another gallery, so French scores stay
    embed(monkeypatch, speech, text)
    assert dev(None) == pytest.approx((3 / 4 + 0) / 2)


def test_a_constant_encoder_gets_nothing(dev, monkeypatch):
    embed(monkeypatch, np.ones((6, 8), np.float32), np.ones((5, 8), np.float32))
    assert dev(None) == 0.0


def test_the_number_that_chooses_is_the_number_that_is_reported(dev, monkeypatch):
    rng = np.random.default_rng(1)
    embed(monkeypatch, rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=(5, 8)).astype(np.float32))
    reported, _ = evaluate_speech(UTTERANCES, stored.stored_embed(None, PROMPT, ITEMS), seen=["es_419", "fr_fr"])
    assert 0 < dev(None) < 1
    assert dev(None) == reported["audio_to_text"]["seen"]["recall@1"]
