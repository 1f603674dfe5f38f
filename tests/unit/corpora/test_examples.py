"""Examples made of clips: several, one after another, are one clip that says their transcripts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from speechde.corpora.examples import JOINT, ConsecutiveClips, Joined
from speechde.training.dataset import Consecutive
from speechde.types import Utterance


def clip(number, lang="fr_fr", speaker="", synthetic=False, text=None):
    text = f"mot {number}" if text is None else text
    return Utterance(f"u{number}", lang, text, f"{number}.ogg", str(number), "train", speaker, synthetic=synthetic)


CLIPS = [
    *(clip(n) for n in range(20)),
    *(clip(n, synthetic=True) for n in range(20, 30)),
    *(clip(n, lang="es_419", speaker=f"s{n % 2}") for n in range(30, 40)),
    clip(40, lang="de_de"),  # alone in its language
]
SECONDS = {u.id: 2.0 + n % 3 for n, u in enumerate(CLIPS)}


def members(example):
    return [CLIPS[int(one[1:])] for one in example.query.id.split(JOINT)]


def test_runs_are_of_one_language_source_and_speaker():
    examples = ConsecutiveClips(CLIPS, 3)
    found = [members(example) for example in examples]
    assert Counter(map(len, found)).keys() == {2, 3} and len(examples) == len(found) > 30
    assert all(len({(u.lang, u.synthetic, u.speaker) for u in run}) == 1 and len(set(run)) == len(run) for run in found)
    assert len({run[0].id for run in found}) == len(found) and "u40" not in {run[0].id for run in found}
    assert examples.strata == [run[0].lang for run in found]
    assert examples.sources == ["synthetic" if run[0].synthetic else "recorded" for run in found]
    assert [example.stratum for example in examples] == examples.strata


def test_the_text_is_theirs_as_sentences():
    texts = ["un bus", "Oui!", " non. "]
    (example, *_) = ConsecutiveClips([clip(n, text=text) for n, text in enumerate(texts)], 3, seed=1)
    order = [texts[int(one[1:])] for one in example.query.id.split(JOINT)]
    expected = {"un bus": "un bus.", "Oui!": "Oui!", " non. ": "non."}
    text = example.positive.parts[0].content
    assert text == " ".join(expected[one] for one in order) == example.query.meaning == example.positive.meaning
    examples = ConsecutiveClips(CLIPS, 4)
    assert examples.texts == [(each.positive.lang, each.positive.parts[0].content) for each in examples]
    assert examples.lengths == [len(text) for _, text in examples.texts] == Joined(examples).lengths


@pytest.mark.parametrize("limit", [4.5, 6.0, 9.0])
def test_together_they_are_not_too_long(limit):
    found = [members(each) for each in ConsecutiveClips(CLIPS, 4, seconds=SECONDS, limit=limit)]
    assert found and max(sum(SECONDS[u.id] for u in run) for run in found) <= limit
    assert not len(ConsecutiveClips(CLIPS, 4, seconds=SECONDS, limit=3.9))


def test_a_draw_is_of_the_seed_and_the_clip():
    ids = [[each.query.id for each in ConsecutiveClips(CLIPS, 3, seed=seed)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_a_store_holds_clips_one_after_another():
    store = {"a": np.ones((2, 3), np.float32), "b": np.zeros((1, 3), np.float32)}
    both = Consecutive(store)
    assert both["a"] is store["a"] and len(both) == 2 and list(both) == ["a", "b"]
    assert both["b\na"].tolist() == [[0] * 3, [1] * 3, [1] * 3]
    assert "a\nb" in both and "a\nc" not in both and "c" not in both and 1 not in both
    with pytest.raises(KeyError):
        both["a\nc"]
