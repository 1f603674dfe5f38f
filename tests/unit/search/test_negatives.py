"""Hard negatives are what a model takes for the answer and is not; the fast ways equal the definitions."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from speechde.corpora.examples import SpeechExamples
from speechde.errors import ConfigError, DataError
from speechde.search.negatives import DOCUMENT, QUERY, Mining, fuse, mine_negatives, minimal_pairs, read_scores
from speechde.text import normalise_text
from speechde.types import Audio, Example, Item, Text, Utterance

DIM = 8


def example(query, answer, lang="fr_fr", meaning=None, negatives=(), **facts):
    return Example(
        Item(Text(query), lang=lang, meaning=query, id=f"q {query}"),
        Item(Text(answer), lang=lang, meaning=meaning or answer),
        negatives=tuple(Item(Text(text), lang=lang, meaning=text) for text in negatives),
        **facts,
    )


def texts(items):
    return [item.parts[0].content for item in items]


@pytest.fixture
def embed():
    """A vector for each text, always the same; ``bad`` cannot be used. ``asked`` are the roles it was asked for."""

    def vectors(items, role):
        vectors.asked.append(role)
        rows = [np.random.default_rng(crc32(text.encode())).normal(size=DIM) for text in texts(items)]
        rows = [np.full(DIM, np.nan) if "bad" in text else row for row, text in zip(rows, texts(items), strict=True)]
        return np.array(rows, np.float32)

    vectors.asked = []
    return vectors


def by_definition(examples, embed, k, rank):
    """Nearest by the whole matrix of scores, without what means the same; the text at ``rank``."""
    answers = sorted({text for one in examples for text in texts([one.positive])})
    scores = embed([one.query for one in examples], QUERY) @ embed([Item(Text(a)) for a in answers], DOCUMENT).T
    found = []
    for one, row in zip(examples, scores, strict=True):
        own = [answers[i] for i in np.argsort(-row) if answers[i] != texts([one.positive])[0]][:k]
        found.append([own[min(rank, len(own)) - 1]])
    return found


@pytest.mark.parametrize(("k", "rank"), [(5, None), (5, 1), (5, 3), (50, None)])
def test_the_nearest_are_those_of_the_whole_matrix(embed, k, rank):
    examples = [example(f"question {n}", f"answer number {n}") for n in range(30)]
    mined = mine_negatives(examples, Mining(k=k, rank=rank), embed)
    found = [texts(one.negatives) for one in mined.examples]
    assert found == by_definition(examples, embed, k, rank or k) and mined.without == 0 and not mined.dropped
    assert embed.asked[:2] == [QUERY, DOCUMENT]


def test_what_means_the_same_is_never_taken(embed):
    """Also up to case, and by what a query, or a further meaning of the example, is."""
    examples = [example("a", "Yes, it is."), example("b", "yes it IS"), example("c", "other", meaning="yes it is")]
    examples += [example("d", "No"), example("No!", "Never", also=((None, "NEITHER"),)), example("e", "Neither")]
    mined = mine_negatives(examples, Mining(k=9, count=9, rank=9), embed)
    found = [set(map(normalise_text, texts(one.negatives))) for one in mined.examples]
    assert found[0] == found[1] == found[2] == {"no", "never", "neither"}
    assert found[3] == {"yes it is", "other", "never", "neither"} and found[4] == {"yes it is", "other"}


def test_candidates_are_in_the_language_of_the_answer(embed):
    examples = [example(f"q{lang}{n}", f"{lang} {n}", lang) for lang in ("fr_fr", "ro_ro") for n in range(3)]
    mined = mine_negatives(examples, Mining(k=9, count=2, rank=2), embed)
    for one in mined.examples:
        assert [text[:5] for text in texts(one.negatives)] == [one.positive.lang] * 2
    assert [texts([one.query]) for one in mined.examples] == [texts([one.query]) for one in examples]


def test_negatives_that_are_there_stay_first_and_are_documents_too(embed):
    examples = [example("a", "one", negatives=["own"]), example("b", "two")]
    first, second = mine_negatives(examples, Mining(k=9, count=3, rank=9), embed).examples
    assert texts(first.negatives) == ["own", "two"]
    assert sorted(texts(second.negatives)) == ["one", "own"]


def test_what_cannot_be_embedded_is_left_out_and_no_candidate(embed):
    examples = [example("a", "one"), example("bad", "two"), example("c", "bad three"), example("d", "four")]
    mined = mine_negatives(examples, Mining(k=9, count=9, rank=9), embed)
    assert [texts([one.query])[0] for one in mined.examples] == ["a", "c", "d"]
    assert [(one.id, one.reason) for one in mined.dropped] == [("q bad", "cannot be embedded")]
    assert not any("bad" in text for one in mined.examples for text in texts(one.negatives))
    with pytest.raises(DataError, match=r"none of 1 queries could be embedded \(q bad, first\)"):
        mine_negatives([example("bad", "one")], Mining(), embed)


def test_an_example_without_candidates_is_kept_and_counted(embed):
    mined = mine_negatives([example("a", "one")], Mining(), embed)
    assert mined.without == 1 and mined.examples[0].negatives == ()


def test_rankings_are_fused_by_hand():
    """Reciprocal ranks: 1/61 + 1/63, 1/62 + 1/61, 1/63 + 1/62."""
    assert fuse([np.array([3.0, 2.0, 1.0]), np.array([0.1, 0.9, 0.5])]).tolist() == [1, 0, 2]
    assert fuse([np.array([1.0, 1.0, 2.0])]).tolist() == [2, 0, 1], "of equals the first"
    assert fuse([np.array([-np.inf, -np.inf]), np.array([0.0, 1.0])]).tolist() == [1, 0]
    assert fuse([np.empty(0)]).tolist() == []


def test_scores_of_a_file_decide(embed, tmp_path):
    path = tmp_path / "judge.tsv"
    path.write_text(
        "query\tdocument\tscore\nq a\ttwo\t0.9\nq a\tthree\t0.1\nq b\tone\t1\nbroken\nq c\tx\tnan\n", "utf-8"
    )
    scores, dropped = read_scores(path)
    assert scores == {("q a", "two"): 0.9, ("q a", "three"): 0.1, ("q b", "one"): 1.0}
    assert [one.id for one in dropped] == [f"{path}:5", f"{path}:6"]
    examples = [example("a", "one"), example("b", "two"), example("c", "three"), example("d", "four")]
    for rank, expected in ((1, "two"), (2, "three"), (3, "four")):
        mined = mine_negatives(examples, Mining(k=3, rank=rank, rankings=("judge",)), embed, {"judge": scores})
        assert texts(mined.examples[0].negatives) == [expected], "what the file does not have comes last"


def test_several_rankings(embed):
    examples = [example("abcdef", "one"), example("x", "abcdeg"), example("y", "qrstuv"), example("z", "abzzzz")]
    mined = mine_negatives(examples, Mining(k=3, rank=1, rankings=("characters",)), embed)
    assert texts(mined.examples[0].negatives) == ["abcdeg"]
    both = mine_negatives(examples, Mining(k=3, rank=1, rankings=("characters", "model")), embed)
    gallery, letters = [one.positive for one in examples[1:]], np.array([2.0, 0.0, 1.0])
    near = embed(gallery, DOCUMENT) @ embed([examples[0].query], QUERY)[0]
    order = np.argsort(-near)
    best = order[fuse([letters[order], near[order]])[0]]
    assert texts(both.examples[0].negatives) == texts([gallery[best]])


WRITTEN = [
    "un autobuz galben", "un autobuz verde", "un autobuz", "Un autobuz galben!", "doua case", "doua case mari",
    "două case", "un autobus galben", "", "case doua", "xn autobuz galben", "un mare autobuz galben",
]  # fmt: skip


def test_minimal_pairs_are_those_of_the_distance():
    plain = [normalise_text(text) for text in WRITTEN]
    expected = [
        [j for j, two in enumerate(plain)
         if Levenshtein.distance(one, two) == 1 or Levenshtein.distance(one.split(), two.split()) == 1]
        for one in plain
    ]  # fmt: skip
    assert minimal_pairs(WRITTEN) == expected
    assert expected[0] == [1, 2, 7, 10, 11] and expected[4] == [5, 6]


def test_many_words_are_told_apart():
    """As many as there are letters before the surrogates, and beyond."""
    words = [f"w{number}" for number in range(0xD800 + 10)]
    rows = [" ".join(words), "w0 w55300", "w0 w55301"]
    assert minimal_pairs(rows) == [[], [2], [1]]


def clip(name, text, lang="ro_ro"):
    return Utterance(name, lang, text, f"/{name}.wav", text, "train")


def test_minimal_pairs_of_clips_need_no_model():
    examples = list(SpeechExamples([clip(str(n), text) for n, text in enumerate(WRITTEN) if text]))
    mined = mine_negatives(examples, Mining(candidates="minimal-pairs", count=2))
    first = mined.examples[0]
    assert isinstance(first.query.parts[0], Audio) and first.query.lang == "ro_ro"
    assert set(texts(first.negatives)) == {"un autobus galben", "xn autobuz galben"}, "the nearest by letters"
    assert mined.without == 1, "case doua"
    alone = mine_negatives([*examples, *SpeechExamples([clip("x", "un autobuz galbeni", "fr_fr")])],
                           Mining(candidates="minimal-pairs", count=9, rank=9))  # fmt: skip
    assert all("galbeni" not in text for one in alone.examples for text in texts(one.negatives))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": "near"}, "candidates: 'near' is not known; allowed: minimal-pairs, nearest. Did you mean"),
        ({"k": 0}, "count=1, rank=0, k=0"),
        ({"k": 5, "rank": 6}, "count=1, rank=6, k=5: .* has to hold"),
        ({"rank": 1, "count": 2}, "count=2, rank=1, k=20"),
    ],
)
def test_numbers_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        Mining(**options)


def test_unknown_rankings_and_files(embed, tmp_path):
    with pytest.raises(ConfigError, match=r"rankings: 'letters' is not known; allowed: characters, model\. A file"):
        mine_negatives([example("a", "one")], Mining(rankings=("letters",)), embed)
    with pytest.raises(DataError, match="does not exist; give a TSV of query, document and score"):
        read_scores(tmp_path / "none.tsv")
    (tmp_path / "empty.tsv").write_text("query\tdocument\tscore\n")
    with pytest.raises(DataError, match=r"empty\.tsv has no usable row"):
        read_scores(tmp_path / "empty.tsv")
