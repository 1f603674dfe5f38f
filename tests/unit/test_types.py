"""The shared records."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from speechde.types import Batch, Corpus, Dropped, Sequences, Utterance


def utterance(i, lang, split):
    return Utterance(id=f"u{i}", lang=lang, text="t", audio="a.wav", sentence_id=f"s{i}", split=split)


def test_select_keeps_corpus_order():
    plan = [("ca_es", "train"), ("de_de", "test"), ("ca_es", "test"), ("ru_ru", "test")]
    corpus = Corpus("c", [utterance(i, *p) for i, p in enumerate(plan)], seen=("ca_es", "de_de"), zero_shot=("ru_ru",))
    ids = lambda **options: [u.id for u in corpus.select(**options)]  # noqa: E731
    assert ids() == ["u0", "u1", "u2", "u3"]
    assert ids(split="test") == ["u1", "u2", "u3"]
    assert ids(split="test", langs=(lang for lang in ("ru_ru", "ca_es"))) == ["u2", "u3"]
    assert ids(langs=[]) == []


def test_dropped_counts_most_frequent_first():
    dropped = [Dropped("a", "short"), Dropped("b", "silent", "peak 0"), Dropped("c", "silent")]
    assert list(Corpus("c", [], (), dropped=dropped).dropped_counts().items()) == [("silent", 2), ("short", 1)]
    assert Corpus("c", [], ()).dropped_counts() == {}


def test_utterances_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        utterance(0, "ca_es", "dev").text = "other"


def test_batch_moves_every_tensor():
    sequences = [Sequences(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)) for _ in range(3)]
    moved = Batch(*sequences, meaning=torch.zeros(2, 3), text_row=torch.arange(2)).to("meta")
    assert moved.meaning.is_meta and moved.text_row.is_meta
    sequences[0].lengths = torch.tensor([3, 3])
    assert sequences[0].to("meta").lengths is sequences[0].lengths  # which is read on the host
    for part in (moved.speech, moved.speech_prefix, moved.text):
        assert part.values.is_meta and part.mask.is_meta and part.values.shape == (2, 3)
