"""The shared records."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from speechde.errors import DataError
from speechde.types import Audio, Batch, Corpus, Dropped, Inputs, Item, Rows, Sequences, Text, Utterance


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
    prefix, speech, text = columns = [sequences([3, 3]) for _ in range(3)]
    spoken, written = Inputs([("text", prefix), ("speech", speech)]), Inputs([("text", text)])
    rows = [Rows(spoken, written, torch.arange(2)), Rows(written, written)]
    moved = Batch(rows, meaning=torch.zeros(4, 3)).to("meta")
    assert moved.meaning.is_meta and moved.rows[0].known.is_meta and moved.rows[1].known is None
    found = [*moved.rows[0].query.columns, *moved.rows[0].positive.columns]
    assert [name for name, _ in found] == ["text", "speech", "text"]
    for (_, part), column in zip(found, columns, strict=True):
        assert part.values.is_meta and part.mask.is_meta and part.values.shape == (2, 3)
        assert part.lengths is column.lengths  # which is read on the host
    assert moved.rows[1].query.columns[0][1].values.is_meta


def sequences(lengths, known=True):
    lengths = torch.tensor(lengths)
    time = int(lengths.max())
    values = torch.arange(len(lengths) * time).view(len(lengths), time)
    return Sequences(values, torch.arange(time) < lengths[:, None], lengths if known else None)


@pytest.mark.parametrize("known", [True, False])
def test_rows_of_inputs_are_cut_to_their_longest_in_each_column(known):
    inputs = Inputs([("text", sequences([1, 4, 0], known)), ("speech", sequences([5, 2, 3], known))])
    assert len(inputs) == 3 and inputs.lengths.tolist() == [6, 6, 3]
    some = inputs.rows(torch.tensor([2, 0]))
    assert [name for name, _ in some.columns] == ["text", "speech"] and some.lengths.tolist() == [3, 6]
    (_, text), (_, speech) = some.columns
    assert text.values.tolist() == [[8], [0]] and text.mask.tolist() == [[False], [True]]
    assert speech.values.tolist() == [[10, 11, 12, 13, 14], [0, 1, 2, 3, 4]]
    assert (speech.lengths is not None) == known
    assert not inputs.is_of("text") and Inputs(inputs.columns[:1]).is_of("text")


def test_an_item_is_its_parts_in_order():
    samples = np.zeros(4, np.float32)
    item = Item(Text("a"), Audio(samples, 8000), id="x", lang="fr_fr", meaning="m")
    assert [part.modality for part in item.parts] == ["text", "speech"]
    assert item.parts[1].content is samples and item.parts[1].sampling_rate == 8000
    assert (item.id, item.lang, item.meaning) == ("x", "fr_fr", "m")
    assert Item(Text("a")) != Item(Text("a")) and len({item, item}) == 1  # one object, one item
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.lang = "ro_ro"


def test_an_item_of_what_is_no_part_is_refused():
    with pytest.raises(DataError, match=r"was given a str; give Text\(…\), Audio\(…\), Image\(…\) or Video\(…\)"):
        Item("a")
    with pytest.raises(DataError, match="was given no part"):
        Item(id="x")
