"""Stored items and token ids become batches; rows that mean the same share an id."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechde.corpora.bitext import TextPair
from speechde.corpora.examples import Joined, SpeechExamples, TranslationExamples
from speechde.errors import DataError
from speechde.losses.meaning import ABSENT, same_meaning
from speechde.training import dataset as dataset_module
from speechde.training.dataset import ExampleDataModule, ExampleDataset, Reading, TokenIds
from speechde.training.letters import Alphabet
from speechde.training.mixture import Mixture, Row, Task
from speechde.types import Audio, Item, Text, Utterance

TEXTS = [("fr_fr", "chat"), ("fr_fr", "chien"), ("es_419", "chat"), ("fr_fr", "chat"), ("fr_fr", "ours")]
PREFIX = {"fr_fr": [1, 5], "es_419": [], "en_us": [2]}


class Prompt:
    """Texts become their length and second letter; speech has a prefix in French, and none in Spanish."""

    def __init__(self):
        self.tokenised, self.names = [], []

    def text_ids(self, text, lang, cut=None):
        self.tokenised.append((text, lang))
        return np.array([len(text), ord(text[1])])

    def ids_of_texts(self, texts, cut=None):
        return (self.text_ids(text, lang, cut) for lang, text in texts)

    def segments(self, item, cut=None, name=None):
        self.names.append(name)
        (part,) = item.parts
        if isinstance(part, Text):
            return [("text", self.text_ids(part.content, item.lang, cut))]
        return [("text", np.array(PREFIX[item.lang], np.int64)), ("speech", part)]


@pytest.fixture
def utterances():
    return [
        Utterance(f"u{i}", lang, text, "", str(i), "train", synthetic=i == 4) for i, (lang, text) in enumerate(TEXTS)
    ]


def views_of(utterances):
    views = [{u.id: np.arange(i + 1, dtype=np.int32) + 10 * v for i, u in enumerate(utterances)} for v in range(2)]
    for u in utterances:
        if u.synthetic:
            del views[1][u.id]  # synthetic speech has one version
    return views


def build(utterances, pairs=(), one_language=True, views=None):
    across = bool(pairs) or not one_language
    examples = Joined(SpeechExamples(utterances, across), *([TranslationExamples(pairs)] if pairs else []))
    return ExampleDataset([examples], views_of(utterances) if views is None else views, Prompt())


@pytest.fixture
def dataset(utterances):
    return build(utterances)


def rows(*keys):
    return [Row(0, example, view) for example, view in keys]


def shared(batch):
    """Which rows of a batch share an id."""
    ids = [set(row) for row in batch.meaning.tolist()]
    return {(i, j) for i, one in enumerate(ids) for j, other in enumerate(ids) if i < j and one & other}


def test_collate(dataset):
    batch = dataset.collate(rows((1, 0), (2, 1), (4, 0)))
    (group,) = batch.rows
    (text, prefix), (speech, items) = group.query.columns
    assert (text, speech) == ("text", "speech")
    assert items.values.tolist() == [[0, 1, 0, 0, 0], [10, 11, 12, 0, 0], [0, 1, 2, 3, 4]]
    assert items.mask.sum(1).tolist() == [2, 3, 5]
    assert prefix.values.tolist() == [[1, 5], [0, 0], [1, 5]] and prefix.mask.sum(1).tolist() == [2, 0, 2]
    ((_, texts),) = group.positive.columns
    assert texts.values.tolist() == [[5, ord("h")], [4, ord("h")], [4, ord("u")]]
    assert batch.meaning.dtype == group.known.dtype == torch.int64
    spanish = dataset.collate(rows((2, 0))).rows[0].query
    assert [modality for modality, _ in spanish.columns] == ["speech"]  # no prefix at all


def test_transcripts_are_tokenised_once_and_found_by_number(dataset):
    prompt = dataset.prompt
    assert len(dataset) == 5 and len(dataset.known_ids) == len(prompt.tokenised) == 4
    batch = dataset.collate(rows(*((i, 0) for i in range(5))))
    ((_, texts),) = batch.rows[0].positive.columns
    for row, known in enumerate(batch.rows[0].known.tolist()):
        np.testing.assert_array_equal(dataset.known_ids[known], texts.values[row])
    assert batch.rows[0].known.tolist() == [0, 1, 2, 0, 3] and len(prompt.tokenised) == 4


def test_where_no_state_is_computed_before_training_batches_are_the_same_and_texts_are_read_when_drawn(
    utterances, monkeypatch
):
    every = rows(*((i, 0) for i in range(5)))
    examples = [Joined(SpeechExamples(utterances))]
    expected = ExampleDataset(examples, views_of(utterances), Prompt()).collate(every)
    for remembered, reads in ((100, 4), (1, 1 + 3 * 3), (0, 3 * 5)):
        monkeypatch.setattr(dataset_module, "REMEMBERED", remembered)
        late = ExampleDataset(examples, views_of(utterances), Prompt(), known=False)
        assert len(late.known_ids) == 0 and not late.prompt.tokenised
        for _ in range(3):
            found = late.collate(every)
        assert found.rows[0].known is None and torch.equal(found.meaning, expected.meaning)
        for (_, one), (_, other) in zip(found.rows[0].positive.columns, expected.rows[0].positive.columns, strict=True):
            assert torch.equal(one.values, other.values) and torch.equal(one.mask, other.mask)
        assert len(late.prompt.tokenised) == reads


@pytest.mark.parametrize("texts", [[], [[]], [[3, 2**31 - 1], [], [7]]])
def test_token_ids_of_many_texts_are_those_that_were_given(texts):
    kept = TokenIds(np.array(text, np.int64) for text in texts)
    assert [ids.tolist() for ids in kept] == texts and len(kept) == len(texts)
    assert all(ids.dtype == np.int64 for ids in kept)


def test_without_translations_and_with_one_language_only_the_transcript_counts(utterances):
    """Sentences and translations do not: the losses are those of a label for each transcript."""
    same = [replace(u, sentence_id="s", translation="cat") for u in utterances]
    for clips in (utterances, same):
        batch = build(clips).collate(rows(*((i, 0) for i in range(5))))
        label = batch.rows[0].known
        assert torch.equal(same_meaning(batch.meaning, batch.meaning), label[:, None] == label[None, :])
        assert shared(batch) == {(0, 3)}


@pytest.mark.parametrize("one_language", [True, False])
def test_across_languages_sentences_and_translations_count(utterances, one_language):
    """Clips 1 and 2 are one sentence, 2 and 4 have one translation; 1 and 4 share nothing."""
    changes = {1: {"sentence_id": "2"}, 2: {"translation": "bear"}, 4: {"translation": "bear"}}
    clips = [replace(u, **changes.get(i, {})) for i, u in enumerate(utterances)]
    both = build(clips, one_language=one_language)
    expected = {(0, 3)} if one_language else {(0, 3), (1, 2), (2, 4)}
    assert shared(both.collate(rows(*((i, 0) for i in range(5))))) == expected


def test_an_english_clip_means_the_translation_of_another(utterances):
    clips = [replace(utterances[0], translation="cat"), replace(utterances[1], lang="en_us", text="cat")]
    assert shared(build(clips, one_language=False).collate(rows((0, 0), (1, 0)))) == {(0, 1)}


@pytest.mark.parametrize(("view", "gone"), [(0, "u1"), (1, "u0"), (0, "u4")])
def test_missing_features(utterances, view, gone):
    views = views_of(utterances)
    del views[view][gone]
    with pytest.raises(DataError, match=f"1 training clips have no features, e.g. '{gone}'"):
        build(utterances, views=views)


def test_the_loader_starts_from_the_step_of_the_trainer(dataset):
    examples = dataset.tasks[0]
    mixture = Mixture([Task("speech", examples.strata, examples.sources, batch_size=2)], steps=3, seed=0)
    module = ExampleDataModule(dataset, mixture)
    module.trainer = SimpleNamespace(global_step=13, global_rank=0, world_size=1)
    batches = list(module.train_dataloader())
    expected = [dataset.collate(mixture.batch(step)) for step in (13, 14)]
    assert len(batches) == 2
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch.rows[0].query.columns[-1][1].values, other.rows[0].query.columns[-1][1].values)
        assert torch.equal(batch.meaning, other.meaning)


def test_translations_are_rows_of_their_own_that_share_the_meaning_of_transcripts(utterances):
    spoken = Utterance("en", "en_us", "cat", "", "9", "train")
    pairs = [TextPair("fr_fr", f, e, None, "") for f, e in (("chat", "cat"), ("chien", "dog"), ("minou", "cat"))]
    both = build([*utterances, spoken], pairs, views=[{u.id: np.zeros(2, np.int32) for u in [*utterances, spoken]}])
    assert len(both.known_ids) == 5 == len(both.prompt.tokenised)  # pairs are read as they are drawn
    batch = both.collate(rows((5, 0), (6, 0), (0, 0), (7, 0), (8, 0)))
    clips, translations = batch.rows
    assert len(clips.query) == len(clips.positive) == 2 and clips.known.tolist() == [4, 0]
    assert len(translations.query) == len(translations.positive) == 3 and translations.known is None
    assert translations.query.is_of("text") and not clips.query.is_of("text")
    written = [("minou", "fr_fr"), ("dog", "en_us")]  # the others are transcripts too
    assert both.prompt.tokenised[5:] == written
    # rows: the clips "cat" and "chat", the pairs chat → cat, chien → dog, minou → cat
    assert shared(batch) == {(0, 2), (1, 2), (0, 4), (2, 4)}


class Other(SpeechExamples):
    """Examples that a second task may have, made of those of the first."""

    def __init__(self, utterances, change):
        super().__init__(utterances)
        self.change = change

    def __getitem__(self, index):
        return self.change(super().__getitem__(index))


def two_tasks(utterances, change, readings=()):
    tasks = [Joined(SpeechExamples(utterances)), Joined(Other(utterances, change))]
    return ExampleDataset(tasks, views_of(utterances), Prompt(), readings=readings)


def test_a_clip_that_is_the_answer_is_read_in_the_version_that_was_drawn_and_not_looked_up(utterances):
    both = two_tasks(utterances, lambda one: replace(one, query=one.positive, positive=one.query))
    batch = both.collate([Row(1, 0, 1), Row(1, 1, 0)])
    (group,) = batch.rows
    assert group.known is None and group.query.is_of("text")
    assert [modality for modality, _ in group.positive.columns] == ["text", "speech"]
    assert group.positive.columns[1][1].values.tolist() == [[10, 0], [0, 1]]
    assert torch.equal(batch.meaning, both.collate([Row(0, 0, 0), Row(0, 1, 0)]).meaning)


def test_a_text_is_read_as_it_is_written_whatever_it_means(utterances):
    """A summary means what its document does, whose words a transcript may have."""
    both = two_tasks(utterances, lambda one: replace(one, positive=Item(Text("minou"), lang="fr_fr", meaning="chat")))
    (group,) = both.collate([Row(1, 0, 0), Row(1, 1, 0)]).rows
    ((_, texts),) = group.positive.columns
    assert group.known is None and texts.values.tolist() == [[5, ord("i")]] * 2


def test_without_a_meaning_every_example_is_like_no_other(utterances):
    def nameless(one):
        return replace(one, query=Item(*one.query.parts, id=one.query.id, lang="fr_fr"),
                       positive=Item(*one.positive.parts, lang="fr_fr"))  # fmt: skip

    both = two_tasks(utterances, nameless)
    assert shared(both.collate([Row(1, 0, 0), Row(1, 1, 0), Row(1, 3, 0)])) == set()
    assert shared(both.collate(rows((0, 0), (1, 0), (3, 0)))) == {(0, 2)}


def test_examples_know_where_they_come_from(utterances):
    pairs = [TextPair("fr_fr", "chat", "cat", None, "")]
    joined = Joined(SpeechExamples(utterances), TranslationExamples(pairs))
    assert len(joined) == 6 == len(joined.strata) == len(joined.sources)
    assert joined.sources == ["recorded"] * 4 + ["synthetic", "translation"]
    assert [joined[i].query.id for i in range(5)] == [u.id for u in utterances]
    assert [joined[i].source for i in range(6)] == joined.sources
    assert [joined[i].stratum for i in range(6)] == joined.strata
    assert joined[5].positive.parts[0].content == "cat" and joined[5].positive.lang == "en_us"
    for outside in (-1, 6):
        with pytest.raises(IndexError):
            joined[outside]


def written(text, meaning=None, lang="fr_fr"):
    return Item(Text(text), lang=lang, meaning=text if meaning is None else meaning)


def hard(utterances, *, count=2, **negatives):
    """Two tasks, of which the second has these hard negatives by the id of a clip, and reads ``count``."""
    readings = [Reading(), Reading(negatives=count)]
    return two_tasks(utterances, lambda one: replace(one, negatives=tuple(negatives.get(one.query.id, ()))), readings)


def test_hard_negatives_are_read_in_order_and_stood_in_for_where_there_are_fewer(utterances):
    given = {"u0": [written("chien"), written("loup"), written("cerf")], "u1": [written("chat", meaning="chien")]}
    both = hard(utterances, **given)
    batch = both.collate([Row(1, 0, 0), Row(1, 1, 0), Row(1, 4, 0)])
    (group,) = batch.rows
    assert len(group.negatives) == 6 and group.known_negatives is None  # "loup" is no transcript
    ((modality, texts),) = group.negatives.columns
    read = [[5, ord("h")], [4, ord("o")], [4, ord("h")], [4, ord("h")], [4, ord("u")], [4, ord("u")]]
    assert modality == "text" and texts.values.tolist() == read  # u1 has one, u4 none: its positive stands in
    own, against = batch.meaning[:, :-2], batch.meaning[:, -2:]
    assert torch.equal(own, both.collate([Row(0, i, 0) for i in (0, 1, 4)]).meaning)
    assert (against == ABSENT).tolist() == [[False, False], [False, True], [True, True]]
    assert against[0, 0] == against[1, 0] == own[1, 0] and against[0, 1] not in own
    assert batch.to("meta").rows[0].negatives.columns[0][1].values.device.type == "meta"


def test_a_task_without_hard_negatives_reads_none(utterances):
    both = hard(utterances, u0=[written("loup")])
    (group,) = both.collate([Row(0, 0, 0), Row(0, 1, 0)]).rows
    assert group.negatives is None and len(group.answers) == 1 and len(both.prompt.tokenised) == 4


def test_hard_negatives_that_are_transcripts_are_found_by_number(utterances):
    both = hard(utterances, count=1, u0=[written("chien")], u1=[written("chat")])
    (group,) = both.collate([Row(1, 0, 0), Row(1, 1, 0)]).rows
    assert group.known_negatives.tolist() == [1, 0] and len(both.prompt.tokenised) == 4


def test_a_hard_negative_without_meaning_is_like_no_other(utterances):
    both = hard(utterances, u0=[written("chat", ""), written("chat", "")], u3=[written("chat", ""), written("chat")])
    batch = both.collate([Row(1, 0, 0), Row(1, 3, 0)])
    ids = batch.meaning[:, -2:].flatten().tolist()
    assert len(set(ids)) == 4 and set(ids) & set(batch.meaning[:, :-2].flatten().tolist()) == {ids[3]}


def test_clips_as_hard_negatives_are_parts_of_their_own(utterances):
    """They enter the LLM at another layer than texts, so rows with them go through it on their own."""
    clip = Item(Audio(""), id="u3", lang="fr_fr", meaning="ours")
    both = hard(utterances, count=1, u0=[clip], u1=[written("loup")])
    first, second = both.collate([Row(1, 0, 1), Row(1, 1, 0)]).rows
    assert [modality for modality, _ in first.negatives.columns] == ["text", "speech"]
    assert first.negatives.columns[1][1].values.tolist() == [[10, 11, 12, 13]] and second.negatives.is_of("text")


def test_hard_negatives_of_several_kinds_are_refused(utterances):
    clip = Item(Audio(""), id="u3", lang="fr_fr")
    both = hard(utterances, u0=[clip, written("loup")])
    with pytest.raises(DataError, match="example 'u0': its hard negatives are of speech, text; give it those of one"):
        both.collate([Row(1, 0, 0)])


def test_a_prompt_is_read_but_where_a_row_is_bare_and_its_texts_are_not_those_looked_up(utterances):
    both = two_tasks(utterances, lambda one: one, [Reading(), Reading(query="ask", document="answer")])
    plain = both.collate(rows((0, 0))).rows[0]
    assert plain.known.tolist() == [0] and set(both.prompt.names) == {None}
    both.prompt.names.clear()
    asked = both.collate([Row(1, 0, 0)]).rows[0]
    assert asked.known is None and both.prompt.names == ["ask", "answer"]
    both.prompt.names.clear()
    bare = both.collate([Row(1, 0, 0, bare=True)]).rows[0]
    assert bare.known.tolist() == [0] and both.prompt.names == [None]


def test_a_clip_of_a_file_is_found_by_its_locator_before_a_clip_of_a_corpus_of_its_id(utterances):
    files = Other(utterances, lambda one: replace(one, query=Item(Audio("own.wav"), id="u0", lang="fr_fr")))
    views = views_of(utterances)
    views[0]["own.wav"] = np.array([7, 7], np.int32)
    (group,) = ExampleDataset([Joined(files)], views, Prompt()).collate(rows((0, 0))).rows
    assert group.query.columns[1][1].values.tolist() == [[7, 7]]


def test_letters_are_those_of_clips_alone(utterances):
    dataset = build(utterances, [TextPair("fr_fr", "Ours", "bear", 1.0, "a")])
    rows = [Row(0, 0, 0), Row(0, len(utterances), 0), Row(0, 1, 0)]
    assert [some.letters for some in dataset.collate(rows).rows] == [None, None]
    dataset.alphabet = Alphabet.of(utterances)  # a c e h i n o r s t u
    spoken, written = dataset.collate(rows).rows
    assert spoken.to("cpu").letters.values.tolist() == [[2, 4, 1, 10, 0], [2, 4, 5, 3, 6]] and written.letters is None
