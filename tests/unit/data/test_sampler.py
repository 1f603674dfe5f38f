"""Batches are a pure function of seed and step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from speechde.data.sampler import TRANSLATION, LanguageBatches
from speechde.errors import ConfigError, DataError
from speechde.types import Utterance

SIZES = {"es_419": 4, "fr_fr": 16, "ru_ru": 64}


def make(synthetic=0):
    real = [(lang, False) for lang, n in SIZES.items() for _ in range(n)]
    made = [(lang, True) for lang in SIZES for _ in range(synthetic)]
    return [
        Utterance(str(i), lang, f"t{i}", "", f"{i}", "train", synthetic=s) for i, (lang, s) in enumerate(real + made)
    ]


def sampler(utterances=None, **options):
    return LanguageBatches(utterances or make(), **{"batch_size": 4, "steps": 5, "seed": 0} | options)


def languages(batch, utterances):
    return Counter(utterances[index].lang for index, _ in batch)


def test_a_batch_depends_on_seed_and_step_alone():
    one, other = sampler(), sampler()
    late = one.batch(7)
    one.batch(0), list(one)
    np.random.seed(5)
    assert one.batch(7) == late == other.batch(7)
    assert sampler(seed=1).batch(7) != late and one.batch(8) != late


def test_an_epoch_is_its_own_range_of_steps():
    batches = sampler()
    assert len(batches) == 5
    assert list(batches) == [batches.batch(step) for step in range(5)]
    batches.start(10)
    assert list(batches) == [batches.batch(step) for step in range(10, 15)]
    batches.start(12)  # a run that was stopped inside an epoch
    assert list(batches) == [batches.batch(step) for step in range(12, 15)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batch_of_one_process(ranks):
    def draw(rank, ranks):
        one = sampler(batch_size=7, translations=PAIRS, translation_share=0.4)
        one.start(5, rank, ranks)
        return list(one)

    parts = [draw(rank, ranks) for rank in range(ranks)]
    for whole, *shares in zip(draw(0, 1), *parts, strict=True):
        assert sorted(key for share in shares for key in share) == sorted(whole)
        for kind in (0, 1):
            sizes = [len(split(share)[kind]) for share in shares]
            assert max(sizes) - min(sizes) <= 1


def test_more_ranks_than_clips():
    one = sampler()
    one.start(0, 4, 5)
    with pytest.raises(DataError, match="a batch has 4 clips for 5 processes"):
        next(iter(one))


def test_one_language_a_batch_without_repeats():
    utterances = make()
    for step in range(40):
        batch = sampler(utterances).batch(step)
        assert len(languages(batch, utterances)) == 1
        assert len(batch) == 4 == len({index for index, _ in batch})


def test_a_small_language_gives_a_smaller_batch():
    utterances = make()
    sizes = {
        next(iter(languages(batch, utterances))): len(batch)
        for batch in (sampler(utterances, batch_size=32).batch(step) for step in range(40))
    }
    assert sizes == {"es_419": 4, "fr_fr": 16, "ru_ru": 32}


def test_mixed_batches_hold_several_languages():
    utterances = make()
    mixed = [languages(sampler(utterances, one_language=False, batch_size=8).batch(s), utterances) for s in range(20)]
    assert max(map(len, mixed)) == 3
    assert all(sum(each.values()) <= 8 for each in mixed)
    one = sampler(utterances, one_language=False, batch_size=8)
    assert one.batch(3) == one.batch(3) != one.batch(4)


@pytest.mark.parametrize(("exponent", "expected"), [(0, [1, 1, 1]), (0.5, [2, 4, 8]), (1, [4, 16, 64])])
def test_exponent(exponent, expected):
    utterances = make()
    one = sampler(utterances, exponent=exponent)
    expected = np.array(expected) / sum(expected)
    np.testing.assert_allclose(one.probabilities, expected)
    drawn = sum((Counter(set(languages(one.batch(step), utterances))) for step in range(600)), Counter())
    np.testing.assert_allclose([drawn[lang] / 600 for lang in SIZES], expected, atol=0.07)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_group_of_languages_has_a_fixed_share(share):
    one = sampler(group={"fr_fr", "ru_ru", "no clips"}, group_share=share)
    np.testing.assert_allclose(one.probabilities, [1 - share, share / 3, 2 * share / 3])
    np.testing.assert_array_equal(sampler(group=SIZES, group_share=share).probabilities, sampler().probabilities)


def test_synthetic_share():
    utterances = make(synthetic=30)
    for share, count in ((0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)):
        one = sampler(utterances, synthetic_share=share, batch_size=8, views=3)
        for step in range(30):
            batch = one.batch(step)
            made = [(index, view) for index, view in batch if utterances[index].synthetic]
            assert len(made) == count
            assert all(view == 0 for _, view in made)  # one version of each
            assert len(languages(batch, utterances)) == 1


@pytest.mark.parametrize("one_language", [True, False])
def test_synthetic_speech_apart(one_language):
    """A batch is recorded or synthetic as a whole, and the share is that of the batches."""
    utterances = make(synthetic=30)
    one = sampler(utterances, synthetic_share=0.25, synthetic_apart=True, batch_size=4, one_language=one_language)
    kinds = [{utterances[index].synthetic for index, _ in one.batch(step)} for step in range(400)]
    assert all(len(kind) == 1 for kind in kinds)
    assert np.mean([kind == {True} for kind in kinds]) == pytest.approx(0.25, abs=0.06)
    assert one.batch(7) == one.batch(7)


def test_share_without_synthetic_speech_and_the_other_way_round():
    assert len(sampler(exponent=0, batch_size=4, synthetic_share=0.5).batch(0)) == 4
    only = [u for u in make(synthetic=8) if u.synthetic]
    assert len(sampler(only, batch_size=4, synthetic_share=0.0).batch(0)) == 4


def test_views_are_drawn_alike():
    drawn = Counter(view for step in range(200) for _, view in sampler(views=3).batch(step))
    assert set(drawn) == {0, 1, 2} and min(drawn.values()) > 200


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 1}, ConfigError, r"trainer\.batch_size=1.*at least 2"),
        ({"synthetic_share": 1.5}, ConfigError, r"data\.synthetic\.share=1\.5 is not between 0 and 1"),
        ({"synthetic_share": -0.1}, ConfigError, r"data\.synthetic\.share=-0\.1"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        sampler(**options)


def test_no_clip_is_an_error():
    with pytest.raises(DataError, match=r"no training clip; check data\.seen"):
        LanguageBatches([], batch_size=4, steps=1, seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {"exponent": 0.5},
        {"exponent": 0, "batch_size": 32},  # more than two of the languages have
        {"synthetic_share": 0.25, "batch_size": 8},
        {"one_language": False, "batch_size": 12, "exponent": 0.3, "synthetic_share": 0.5},
        {"synthetic_share": 0.4, "synthetic_apart": True, "batch_size": 8},
        {"synthetic_share": 0.4, "synthetic_apart": True, "batch_size": 8, "one_language": False},
    ],
)
def test_effective_epochs_are_the_drawn_ones(options):
    utterances = make(synthetic=10 if "synthetic_share" in options else 0)
    one = sampler(utterances, **options)
    steps = 1500
    drawn = Counter(index for step in range(steps) for index, _ in one.batch(step))
    for synthetic in (False, True):
        expected = one.effective_epochs(steps, synthetic)
        for lang in expected:
            clips = [i for i, u in enumerate(utterances) if u.lang == lang and u.synthetic == synthetic]
            assert sum(drawn[i] for i in clips) / len(clips) == pytest.approx(expected[lang], rel=0.12)
        assert set(expected) == ({*SIZES} if not synthetic or "synthetic_share" in options else set())


def test_effective_epochs_by_hand():
    # Exponent 1 treats every clip alike: 4 of 84 clips a step.
    assert sampler(exponent=1).effective_epochs(21) == pytest.approx(dict.fromkeys(SIZES, 1.0))
    one = [u for u in make() if u.lang == "fr_fr"]
    assert sampler(one, batch_size=8, one_language=False).effective_epochs(10) == pytest.approx({"fr_fr": 5.0})
    # 1000 of 84: every batch holds every clip, whatever the draw.
    assert sampler(batch_size=1000, one_language=False).effective_epochs(3) == pytest.approx(dict.fromkeys(SIZES, 3.0))
    assert sampler(batch_size=1000, synthetic_share=0.5).effective_epochs(3, synthetic=True) == {}


PAIRS = ["fr_fr"] * 8 + ["ru_ru"] * 2


def split(batch):
    return [key for key in batch if key[1] != TRANSLATION], [index for index, view in batch if view == TRANSLATION]


def test_translations_take_their_share_in_the_language_of_the_clips():
    utterances = make()
    one = sampler(utterances, batch_size=8, translations=PAIRS, translation_share=0.25)
    drawn = Counter()
    for step in range(60):
        clips, pairs = split(one.batch(step))
        (lang,) = languages(clips, utterances)
        assert len(clips) == min(6, SIZES[lang]) and len(pairs) == 2 == len(set(pairs))
        (paired,) = {PAIRS[index] for index in pairs}
        assert paired == lang or lang == "es_419"
        drawn[lang, paired] += 1
    assert len(drawn) == 4  # Spanish has no pairs and takes those of either language
    assert one.batch(9) == sampler(utterances, batch_size=8, translations=PAIRS, translation_share=0.25).batch(9)


def test_translations_of_mixed_batches_and_of_small_languages():
    mixed = sampler(one_language=False, batch_size=16, translations=PAIRS, translation_share=0.5)
    found = [{PAIRS[index] for index in split(mixed.batch(step))[1]} for step in range(10)]
    assert {"fr_fr", "ru_ru"} in found
    assert all(len(split(mixed.batch(step))[1]) <= 8 for step in range(10))
    few = sampler(batch_size=16, translations=["ru_ru"] * 3, translation_share=0.5)
    assert len(split(few.batch(0))[1]) == 3


def test_no_translations_change_nothing():
    without = list(sampler())
    assert list(sampler(translations=PAIRS)) == without == list(sampler(translation_share=0.25))


def test_effective_epochs_count_the_clips_alone():
    whole = sampler(batch_size=8).effective_epochs(100)["ru_ru"]
    half = sampler(batch_size=16, translations=PAIRS, translation_share=0.5).effective_epochs(100)["ru_ru"]
    assert whole == half


@pytest.mark.parametrize(("share", "left"), [(1.0, 0), (-0.1, 4), (0.75, 1)])
def test_translations_leave_room_for_speech(share, left):
    with pytest.raises(ConfigError, match=rf"data\.translations\.share={share} leaves {left} of 4"):
        sampler(translations=PAIRS, translation_share=share)
