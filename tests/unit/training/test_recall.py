"""Dev recall: each language in its own gallery, then the mean over languages."""

from __future__ import annotations

import numpy as np
import pytest

from speechde.training import recall
from speechde.training.recall import DevRecall
from speechde.types import Utterance

ROWS = [("fr_fr", "a"), ("fr_fr", "a"), ("fr_fr", "b"), ("fr_fr", "c"), ("es_419", "a"), ("es_419", "d")]


class WordPrompt:
    def text_ids(self, text, lang, cut=None):
        return np.array([ord(text), len(lang)])


@pytest.fixture
def dev():
    utterances = [Utterance(str(i), lang, text, "", "", "dev") for i, (lang, text) in enumerate(ROWS)]
    return DevRecall(WordPrompt(), utterances, {u.id: np.array([i]) for i, u in enumerate(utterances)})


def one_hot(rows, dim=8):
    return np.eye(dim, dtype=np.float32)[rows]


def embed(monkeypatch, speech, text):
    def embed_speech(model, prompt, items, langs):
        assert [int(item[0]) for item in items] == list(range(6)) and langs == [lang for lang, _ in ROWS]
        return speech

    monkeypatch.setattr(recall, "embed_speech", embed_speech)
    monkeypatch.setattr(recall, "embed_texts", lambda model, ids: text)


def test_every_recording_finds_its_transcript(dev, monkeypatch):
    assert len(dev.text_ids) == 5  # a recorded twice in French; the Spanish a is another text
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
    embed(monkeypatch, np.ones((6, 4), np.float32), np.ones((5, 4), np.float32))
    assert dev(None) == 0.0
