"""Stored items and token ids become batches; rows that mean the same share an id."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechde.data.bitext import TextPair
from speechde.data.datamodule import PairDataModule, PairDataset
from speechde.data.sampler import TRANSLATION, LanguageBatches
from speechde.errors import DataError
from speechde.losses.meaning import same_meaning
from speechde.types import Utterance

TEXTS = [("fr_fr", "chat"), ("fr_fr", "chien"), ("es_419", "chat"), ("fr_fr", "chat"), ("fr_fr", "ours")]


@pytest.fixture
def utterances():
    return [
        Utterance(f"u{i}", lang, text, "", str(i), "train", synthetic=i == 4) for i, (lang, text) in enumerate(TEXTS)
    ]


@pytest.fixture
def dataset(utterances):
    views = [{u.id: np.arange(i + 1, dtype=np.int32) + 10 * v for i, u in enumerate(utterances)} for v in range(2)]
    del views[1]["u4"]  # synthetic speech has one version
    ids = [np.array([len(u.text), ord(u.text[1])]) for u in utterances]
    return PairDataset(utterances, views, ids, {"fr_fr": np.array([1, 5]), "es_419": np.array([], dtype=np.int64)})


def test_collate(dataset):
    batch = dataset.collate([(1, 0), (2, 1), (4, 0)])
    assert batch.speech.values.tolist() == [[0, 1, 0, 0, 0], [10, 11, 12, 0, 0], [0, 1, 2, 3, 4]]
    assert batch.speech.mask.sum(1).tolist() == [2, 3, 5]
    assert batch.speech_prefix.values.tolist() == [[1, 5], [0, 0], [1, 5]]
    assert batch.speech_prefix.mask.sum(1).tolist() == [2, 0, 2]
    assert batch.text.values.tolist() == [[5, ord("h")], [4, ord("h")], [4, ord("u")]]
    assert batch.meaning.dtype == batch.text_row.dtype == torch.int64


def shared(batch):
    """Which rows of a batch, translations last, share an id."""
    rows = [
        set(ids) for ids in batch.meaning.tolist() + (batch.translations.meaning.tolist() if batch.translations else [])
    ]
    return {(i, j) for i, one in enumerate(rows) for j, other in enumerate(rows) if i < j and one & other}


def test_without_translations_and_with_one_language_only_the_transcript_counts(dataset, utterances):
    """Sentences and translations do not: the losses are those of a label for each transcript."""
    same = [replace(u, sentence_id="s", translation="cat") for u in utterances]
    for clips in (utterances, same):
        batch = PairDataset(clips, dataset.views, dataset.text_ids, dataset.prefix_ids).collate(
            [(i, 0) for i in range(5)]
        )
        label = batch.text_row
        assert torch.equal(same_meaning(batch.meaning, batch.meaning), label[:, None] == label[None, :])
        assert shared(batch) == {(0, 3)}


@pytest.mark.parametrize("one_language", [True, False])
def test_across_languages_sentences_and_translations_count(dataset, utterances, one_language):
    """Clips 1 and 2 are one sentence, 2 and 4 have one translation; 1 and 4 share nothing."""
    changes = {1: {"sentence_id": "2"}, 2: {"translation": "bear"}, 4: {"translation": "bear"}}
    clips = [replace(u, **changes.get(i, {})) for i, u in enumerate(utterances)]
    both = PairDataset(clips, dataset.views, dataset.text_ids, dataset.prefix_ids, one_language=one_language)
    expected = {(0, 3)} if one_language else {(0, 3), (1, 2), (2, 4)}
    assert shared(both.collate([(i, 0) for i in range(5)])) == expected


def test_an_english_clip_means_the_translation_of_another(dataset, utterances):
    clips = [replace(utterances[0], translation="cat"), replace(utterances[1], lang="en_us", text="cat")]
    both = PairDataset(clips, dataset.views, dataset.text_ids, {"fr_fr": np.array([1]), "en_us": np.array([2])},
                       one_language=False)  # fmt: skip
    assert shared(both.collate([(0, 0), (1, 0)])) == {(0, 1)}


def test_unique_texts_are_counted_as_the_rows_are(dataset):
    assert len(dataset) == 5 and len(dataset.unique_text_ids) == 4
    for index, row in enumerate(dataset.text_row):
        np.testing.assert_array_equal(dataset.unique_text_ids[row], dataset.text_ids[index])


@pytest.mark.parametrize(("view", "gone"), [(0, "u1"), (1, "u0"), (0, "u4")])
def test_missing_features(utterances, dataset, view, gone):
    views = [dict(store) for store in dataset.views]
    del views[view][gone]
    with pytest.raises(DataError, match=f"1 training clips have no features, e.g. '{gone}'"):
        PairDataset(utterances, views, dataset.text_ids, dataset.prefix_ids)


def test_the_loader_starts_from_the_step_of_the_trainer(utterances, dataset):
    sampler = LanguageBatches(utterances, batch_size=2, steps=3, seed=0)
    module = PairDataModule(dataset, sampler)
    module.trainer = SimpleNamespace(global_step=13, global_rank=0, world_size=1)
    batches = list(module.train_dataloader())
    expected = [dataset.collate(sampler.batch(step)) for step in (13, 14)]
    assert len(batches) == 2
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch.speech.values, other.speech.values) and torch.equal(batch.meaning, other.meaning)


def test_translations_share_the_meaning_of_transcripts(utterances, dataset):
    spoken = Utterance("en", "en_us", "cat", "", "9", "train")
    pairs = [TextPair("fr_fr", f, e, None, "") for f, e in (("chat", "cat"), ("chien", "dog"), ("minou", "cat"))]
    tokenised = []

    def tokenise(text, lang):
        tokenised.append((text, lang))
        return np.arange(len(text))

    views = [{u.id: np.zeros(2, np.int32) for u in [*utterances, spoken]}]
    ids = [*dataset.text_ids, np.array([3])]
    both = PairDataset(
        [*utterances, spoken], views, ids, dataset.prefix_ids | {"en_us": np.array([2])}, pairs, tokenise
    )
    assert len(both.unique_text_ids) == 5 and not tokenised  # pairs are read as they are drawn
    batch = both.collate([(5, 0), (0, 0), (0, TRANSLATION), (1, TRANSLATION), (2, TRANSLATION)])
    assert len(batch.meaning) == 2 == len(batch.speech.values) == len(batch.text.values)
    translations = batch.translations
    assert translations.text.mask.sum(1).tolist() == [4, 5, 5]
    assert translations.english.mask.sum(1).tolist() == [3, 3, 3]
    assert tokenised == [("chat", "fr_fr"), ("chien", "fr_fr"), ("minou", "fr_fr")] + [
        (word, "en_us") for word in ("cat", "dog", "cat")
    ]
    # rows: the clips "cat" and "chat", the pairs chat → cat, chien → dog, minou → cat
    assert shared(batch) == {(0, 2), (1, 2), (0, 4), (2, 4)}
    assert dataset.collate([(0, 0)]).translations is None
