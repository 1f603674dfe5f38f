from __future__ import annotations

import tracemalloc
from itertools import permutations
from math import comb

import numpy as np
import pytest

from speechde.errors import DataError
from speechde.evaluation import metrics as m
from speechde.languages import LANGUAGES
from speechde.text import CHARACTER_LANGS


def rank_by_hand(scores, query_group, gallery_group):
    """Ranks of a hand-written score matrix: with an identity gallery the queries are the scores."""
    scores = np.array(scores, np.float32)
    return m.ranks(scores, np.eye(scores.shape[1], dtype=np.float32), query_group, gallery_group).tolist()


def random_case(n=60, items=25, dim=12, groups=10, seed=0):
    rng = np.random.default_rng(seed)
    gallery_group = np.r_[np.arange(groups), rng.integers(0, groups, items - groups)]
    return (
        rng.normal(size=(n, dim)).astype(np.float32),
        rng.normal(size=(items, dim)).astype(np.float32),
        rng.integers(0, groups, n),
        gallery_group,
    )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_ranks_of_a_hand_written_matrix():
    scores = [[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]]
    assert rank_by_hand(scores, [0, 1, 2], [0, 1, 2]) == [1, 2, 3]


def test_ties_count_against_the_model():
    assert rank_by_hand([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5]], [0, 2], [0, 1, 2]) == [2, 3]


def test_scores_within_rounding_tie_and_others_do_not():
    gallery = np.array([[1, 0], [1 - 3e-7, 0], [1 - 3e-5, 0]], np.float32)
    query = np.array([[1, 0]], np.float32)
    assert m.ranks(query, gallery, [0], [0, 1, 2]).tolist() == [2]


def test_collapsed_zero_vectors_tie():
    assert m.ranks(np.zeros((2, 3)), np.zeros((2, 3)), [0, 1], [0, 1]).tolist() == [2, 2]


def test_many_queries_share_one_item():
    assert rank_by_hand([[0.9, 0.1], [0.2, 0.7], [0.3, 0.4]], [5, 5, 9], [5, 9]) == [1, 2, 1]


def test_best_of_several_correct_items_counts_and_they_do_not_beat_each_other():
    # Items 0, 1 and 3 are correct; only item 2 can push the rank down.
    assert rank_by_hand([[0.9, 0.8, 0.1, 0.9], [0.1, 0.4, 0.6, 0.5]], [7, 7], [7, 7, 8, 7]) == [1, 2]


def test_single_item_gallery_is_rank_one():
    assert rank_by_hand([[-3.0], [2.0]], [0, 0], [0]) == [1, 1]


def test_nan_is_worst_on_either_side():
    assert rank_by_hand([[np.nan, np.nan, np.nan]], [0], [0, 1, 2]) == [3]
    gallery = np.array([[1, 0], [np.nan, 0], [0, 1]], np.float32)
    queries = np.array([[1, 0.1], [1, 0.1]], np.float32)
    assert m.ranks(queries, gallery, [0, 1], [0, 1, 2]).tolist() == [2, 3]


def test_query_without_correct_item_is_refused():
    with pytest.raises(DataError, match="no correct item"):
        rank_by_hand([[1.0, 0.0]], [4], [0, 1])


@pytest.mark.parametrize("groups", [([0], [0, 1]), ([0, 1], [0])])
def test_wrong_number_of_labels_is_refused(groups):
    with pytest.raises(DataError, match="labels"):
        rank_by_hand([[1.0, 0.0], [0.0, 1.0]], *groups)


def test_empty_gallery_is_refused():
    with pytest.raises(DataError, match="need at least 1"):
        m.ranks(np.ones((1, 2)), np.ones((0, 2)), [0], [])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_constant_encoder_is_not_above_chance(scale):
    # Odd sizes make BLAS sum equal vectors in different orders; a near-orthogonal pair makes rounding large relative
    # to the score.
    rng = np.random.default_rng(1)
    n, dim = 347, 1023
    query, item = unit(rng.normal(size=(2, dim))) * scale
    item = item - 0.999 * (item @ query) / (query @ query) * query
    group = np.arange(n)
    found = m.ranks(np.tile(query, (n, 1)), np.tile(item, (n, 1)), group, group, block=100)
    assert (found == n).all()
    assert m.recall_at(found, 1) == 0.0 <= m.chance_recall(group, group)


def test_ranks_do_not_depend_on_the_length_of_queries():
    queries, *rest = random_case()
    lengths = np.random.default_rng(3).uniform(0.01, 100, (len(queries), 1))
    assert (m.ranks(queries * lengths, *rest) == m.ranks(queries, *rest)).all()


def naive(queries, gallery, query_group, gallery_group, apart=None):
    """The definition, one query and one item at a time, over scores that float32 holds exactly."""
    speakers, voices = apart or (np.full(len(queries), -1), np.full(len(gallery), -2))
    found = []
    for query, group, speaker in zip(queries, query_group, speakers, strict=True):
        best, wrong = -np.inf, []
        for item, other, voice in zip(gallery, gallery_group, voices, strict=True):
            score = float(query @ item)
            if voice == speaker:
                continue
            if other != group:
                wrong.append(np.inf if np.isnan(score) else score)
            elif not np.isnan(score):
                best = max(best, score)
        found.append(1 + sum(score >= best for score in wrong))
    return found


def signs(rows, dim, rng):
    """Vectors of a few nonzero signs and of length 2: scores are multiples of a quarter, and many are equal."""
    vectors = np.zeros((rows, dim), np.float32)
    for vector in vectors:
        vector[rng.choice(dim, 4, replace=False)] = rng.choice([-1, 1], 4)
    return vectors


def exact_case(name):
    """Queries, gallery and labels with many ties; half of the labels have several queries and several items."""
    rng = np.random.default_rng(5)
    queries, gallery = signs(40, 6, rng), signs(23, 6, rng)
    groups = 1 if name == "one group" else 23 if name == "one to one" else 9
    gallery_group = np.r_[np.arange(groups), rng.integers(0, groups, 23 - groups)] + 100
    query_group = rng.choice(gallery_group, 40)
    if name == "nan":
        queries[[3, 11]], gallery[[0, 8]] = np.nan, np.nan
    if name == "all correct items nan":
        gallery[gallery_group == gallery_group[0]] = np.nan
    return queries, gallery, query_group, gallery_group


@pytest.mark.parametrize("block", [1, 3, 7, 40, 1024])
@pytest.mark.parametrize("name", ["groups", "one to one", "one group", "nan", "all correct items nan"])
def test_blocks_equal_the_definition(name, block):
    case = exact_case(name)
    found, retrieved = m.rank_and_retrieve(*case, block)
    assert found.tolist() == naive(*case)
    assert ((case[3][retrieved] == case[2]) == (found == 1)).all()
    # in a tie the first item is retrieved, whatever the block
    assert retrieved.tolist() == m.rank_and_retrieve(*case, 10**6)[1].tolist()


@pytest.mark.parametrize("block", [1, 3, 7, 1024])
def test_items_apart_are_not_in_the_gallery(block):
    rng = np.random.default_rng(2)
    vectors, group, speaker = signs(30, 6, rng), np.arange(30) % 5, np.arange(30) % 4
    found, retrieved = m.rank_and_retrieve(vectors, vectors, group, group, block, apart=(speaker, speaker))
    assert found.tolist() == naive(vectors, vectors, group, group, (speaker, speaker))
    assert (speaker[retrieved] != speaker).all()
    assert found.tolist() != naive(vectors, vectors, group, group)
    with pytest.raises(DataError, match="no correct item"):
        m.rank_and_retrieve(vectors, vectors, group, group, block, apart=(group, group))


def test_only_blocks_of_scores_are_held():
    rng = np.random.default_rng(0)
    group = rng.permutation(4000)
    vectors = unit(rng.normal(size=(4000, 16))).astype(np.float32)
    tracemalloc.start()
    found = m.ranks(vectors, vectors, group, group, block=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 1).all()
    assert peak < 4_000_000  # one row of blocks alone has 256 * 4000 * 4 bytes


def test_chance_without_items_apart():
    # The first query has one correct of two items left, the second one of three.
    assert m.chance_recall([0, 1], [0, 0, 1, 2], apart=([5, 6], [5, 7, 5, 8])) == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_retrieved_item_is_correct_exactly_at_rank_one():
    queries, gallery, query_group, gallery_group = random_case()
    gallery[3] = gallery[0]
    found, retrieved = m.rank_and_retrieve(queries, gallery, query_group, gallery_group, block=7)
    assert 0 < (found == 1).sum() < len(found)
    assert ((gallery_group[retrieved] == query_group) == (found == 1)).all()
    _, tied = m.rank_and_retrieve(np.ones((1, 2)), np.ones((2, 2)), [0], [0, 1])
    assert tied.tolist() == [1]


def test_recall_and_reciprocal_rank_by_hand():
    found = np.array([1, 2, 5, 6])
    assert [m.recall_at(found, k) for k in (1, 5, 6)] == [0.25, 0.75, 1.0]
    assert m.mean_reciprocal_rank(found) == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6) / 4)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_chance_equals_enumeration_of_all_orders(k):
    query_group, gallery_group = [0, 0, 1, 2], [0, 0, 1, 2, 2]
    hits = [
        any(gallery_group[item] == query for item in order[:k])
        for order in permutations(range(len(gallery_group)))
        for query in query_group
    ]
    assert m.chance_recall(query_group, gallery_group, k) == pytest.approx(np.mean(hits))


def bootstrap_interval(values, groups, n=1000, seed=0):
    return m.interval(m.bootstrap_means(values, groups, n, seed))


def test_bootstrap_interval_contains_the_point_and_narrows_with_n():
    widths = []
    for n in (30, 300, 3000):
        values = np.arange(n) % 3 == 0
        low, high = bootstrap_interval(values, np.arange(n))
        assert low < values.mean() < high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_bootstrap_resamples_groups_not_values():
    hits = np.repeat([0, 1] * 20, 10)  # 40 sentences, ten equal recordings of each
    low, high = bootstrap_interval(hits, np.repeat(np.arange(40), 10))
    alone_low, alone_high = bootstrap_interval(hits[::10], np.arange(40))
    assert (low, high) == (alone_low, alone_high)
    free_low, free_high = bootstrap_interval(hits, np.arange(400))
    assert high - low > 2 * (free_high - free_low)


def test_bootstrap_matches_the_normal_interval_and_the_seed():
    values = np.random.default_rng(0).random(500) < 0.4
    low, high = bootstrap_interval(values, np.arange(500), n=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(500), rel=0.1)
    assert bootstrap_interval(values, np.arange(500), seed=1) == bootstrap_interval(values, np.arange(500), seed=1)
    assert bootstrap_interval(values, np.zeros(500)) == (values.mean(), values.mean())


def test_fixed_gallery_recall_approaches_its_expectation():
    # A query of rank r among m items wins a gallery of s with probability C(m - r, s - 1) / C(m - 1, s - 1).
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(20, 4))
    queries = gallery + rng.normal(size=(20, 4))
    group = np.arange(20)
    found = m.ranks(queries, gallery, group, group)
    expected = np.mean([comb(20 - int(r), 4) / comb(19, 4) for r in found])
    assert m.recall_at(found, 1) < expected < 1
    assert m.fixed_gallery_recall(queries, gallery, group, group, 5, 3000) == pytest.approx(expected, abs=0.015)


def test_fixed_gallery_of_all_groups_is_plain_recall():
    case = random_case()
    plain = m.recall_at(m.ranks(*case), 1)
    assert m.fixed_gallery_recall(*case, size=10, draws=3) == pytest.approx(plain)


def test_fixed_gallery_larger_than_the_gallery_is_refused():
    with pytest.raises(DataError, match="allowed: 1 to 10"):
        m.fixed_gallery_recall(*random_case(), size=11, draws=1)


def test_word_error_rate_by_hand():
    # one substitution in four words, then one deletion in two: 2 edits / 6 words
    assert m.word_error_rate(["a b c d", "e f"], ["a b x d", "e"]) == pytest.approx(2 / 6)
    assert m.word_error_rate(["Ｈello,  “World”!"], ["hello world"]) == 0.0
    assert m.word_error_rate(["straße"], ["STRASSE"]) == 0.0


def test_word_error_rate_counts_characters_in_scripts_without_spaces():
    assert m.word_error_rate(["今日は 雨。"], ["今日は雪"], "ja_jp") == pytest.approx(1 / 4)
    assert m.word_error_rate(["今日は雨"], ["今日は雪"], "ca_es") == 1.0


def test_character_languages_are_in_the_language_table():
    assert set(LANGUAGES) >= CHARACTER_LANGS


def test_word_error_rate_refuses_unequal_or_empty_lists():
    with pytest.raises(DataError, match="1 references, 0 hypotheses"):
        m.word_error_rate(["a"], [])
    with pytest.raises(DataError, match="0 references"):
        m.word_error_rate([], [])


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; equal lengths
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert m.bleu(["the cat sat on the mat"], ["the cat sat on a mat"]) == pytest.approx(expected)
    assert m.bleu(["the cat sat on it"], ["the cat sat on it"]) == pytest.approx(100)
    with pytest.raises(DataError, match="1 references, 0 hypotheses"):
        m.bleu(["a"], [])


def test_bleu_signature_names_tokeniser_and_version():
    assert {"nrefs:1", "case:mixed", "tok:13a", "smooth:exp"} <= set(m.bleu_signature().split("|"))
    assert "version:" in m.bleu_signature()


@pytest.mark.parametrize("apart", [False, True])
def test_ranks_pair_by_pair_are_those_of_labels(apart):
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(90, 6)).astype(np.float32)
    own, its = np.arange(40) % 30, np.arange(90) % 30
    voices = (np.arange(40) // 30, np.arange(90) // 30) if apart else None
    correct, offered = own[:, None] == its, np.ones((40, 90), bool)
    if apart:
        offered = voices[0][:, None] != voices[1]
    expected = m.rank_and_retrieve(queries, gallery, own, its, apart=voices)
    for made in (
        m.rank_masked(queries, gallery, correct, offered),
        m.rank_scores(queries @ gallery.T, correct, offered),
    ):
        np.testing.assert_array_equal(made[0], expected[0])
        np.testing.assert_array_equal(made[1], expected[1])


def test_vectors_of_equal_score_tie_pair_by_pair():
    correct, offered = np.eye(2, dtype=bool), np.ones((2, 2), bool)
    assert m.rank_masked(np.ones((2, 3)), np.ones((2, 3)), correct, offered)[0].tolist() == [2, 2]
    assert m.rank_masked(np.ones((2, 3)), np.full((2, 3), np.nan), correct, offered)[0].tolist() == [2, 2]


def test_ranks_of_scores_by_hand():
    correct = np.tile(np.array([0, 1, 2, 0]) == 0, (3, 1))
    nan = np.nan
    scores = [[3, 1, 2, 0], [1, 1, 0, 0], [nan, 1, nan, 0]]  # right; a tie; NaN of the best, and of an incorrect one
    everything = np.ones((3, 4), bool)
    ranks, retrieved = m.rank_scores(scores, correct, everything)
    assert ranks.tolist() == [1, 2, 3] and retrieved.tolist() == [0, 1, 2]
    assert m.rank_scores([[nan, 1, 2, nan]], correct[:1], everything[:1])[0].tolist() == [3]
    apart = np.array([[False, True, False, True]])
    assert m.rank_scores([[9, 2, 9, 1]], correct[:1], apart)[0].tolist() == [2]
    with pytest.raises(DataError, match="no correct item"):
        m.rank_scores(np.ones((1, 2)), np.zeros((1, 2), bool), np.ones((1, 2), bool))
