"""Batches are a pure function of seed and step, and hold examples of one task."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from speechde.errors import ConfigError, DataError
from speechde.training.mixture import Mixture, Share, Task

SIZES = {"es_419": 4, "fr_fr": 16, "ru_ru": 64}


PAIRS = ["fr_fr"] * 8 + ["ru_ru"] * 2
RECORDED, SYNTHETIC, TRANSLATION = "recorded", "synthetic", "translation"


def make(synthetic=0):
    """Stratum and source of each example."""
    real = [(lang, RECORDED) for lang, n in SIZES.items() for _ in range(n)]
    return real + [(lang, SYNTHETIC) for lang in SIZES for _ in range(synthetic)]


def task(examples=None, *, translations=(), translation_share=0.0, synthetic_share=0.0, apart=False, **options):
    examples = make() if examples is None else examples
    examples = [*examples, *((lang, TRANSLATION) for lang in translations)]
    shares = {SYNTHETIC: Share(synthetic_share, apart), TRANSLATION: Share(translation_share, elsewhere=True)}
    strata, sources = ([each[side] for each in examples] for side in (0, 1))
    return Task("speech", strata, sources, **{"batch_size": 4, "shares": shares} | options)


def sampler(examples=None, *, steps=5, seed=0, **options):
    return Mixture([task(examples, **options)], steps=steps, seed=seed)


def languages(batch, examples):
    return Counter(examples[row.example][0] for row in batch)


def split(batch, clips=84):
    """Examples of clips, and translations as they are numbered among themselves."""
    return [row for row in batch if row.example < clips], [row.example - clips for row in batch if row.example >= clips]


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


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_have_equally_many_where_they_must(ranks):
    """Of what comes of the strata and of what comes from elsewhere, each, and of a small language too."""
    batches = sampler(batch_size=14, translations=PAIRS, translation_share=0.4)
    for step in range(20):
        whole = batches.batch(step)
        drawn = [batches.batch(step, rank, ranks, equal=True) for rank in range(ranks)]
        parts = [[len(part) for part in split(rows)] for rows in drawn]
        assert all(part == parts[0] for part in parts)
        assert set().union(*drawn) <= set(whole) and sum(map(len, drawn)) > len(whole) - 2 * ranks
    batches.start(3, 0, ranks, equal=True)
    assert next(iter(batches)) == batches.batch(3, 0, ranks, equal=True)


def test_more_ranks_than_clips():
    one = sampler()
    one.start(0, 4, 5)
    with pytest.raises(DataError, match="4 examples for 5 processes"):
        next(iter(one))


def test_one_language_a_batch_without_repeats():
    examples = make()
    for step in range(40):
        batch = sampler(examples).batch(step)
        assert len(languages(batch, examples)) == 1
        assert len(batch) == 4 == len({row.example for row in batch})


def test_a_small_language_gives_a_smaller_batch():
    examples = make()
    sizes = {
        next(iter(languages(batch, examples))): len(batch)
        for batch in (sampler(examples, batch_size=32).batch(step) for step in range(40))
    }
    assert sizes == {"es_419": 4, "fr_fr": 16, "ru_ru": 32}


def test_mixed_batches_hold_several_languages():
    examples = make()
    mixed = [languages(sampler(examples, one_stratum=False, batch_size=8).batch(s), examples) for s in range(20)]
    assert max(map(len, mixed)) == 3
    assert all(sum(each.values()) <= 8 for each in mixed)
    one = sampler(examples, one_stratum=False, batch_size=8)
    assert one.batch(3) == one.batch(3) != one.batch(4)


@pytest.mark.parametrize(("exponent", "expected"), [(0, [1, 1, 1]), (0.5, [2, 4, 8]), (1, [4, 16, 64])])
def test_exponent(exponent, expected):
    examples = make()
    one = sampler(examples, exponent=exponent)
    expected = np.array(expected) / sum(expected)
    np.testing.assert_allclose(one.tasks[0].probabilities, expected)
    drawn = sum((Counter(set(languages(one.batch(step), examples))) for step in range(600)), Counter())
    np.testing.assert_allclose([drawn[lang] / 600 for lang in SIZES], expected, atol=0.07)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_group_of_languages_has_a_fixed_share(share):
    one = sampler(group={"fr_fr", "ru_ru", "no clips"}, group_share=share)
    np.testing.assert_allclose(one.tasks[0].probabilities, [1 - share, share / 3, 2 * share / 3])
    everything = task(group=SIZES, group_share=share)
    np.testing.assert_array_equal(everything.probabilities, task().probabilities)


def test_synthetic_share():
    examples = make(synthetic=30)
    for share, count in ((0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)):
        one = sampler(examples, synthetic_share=share, batch_size=8, views=3)
        for step in range(30):
            batch = one.batch(step)
            made = [row for row in batch if examples[row.example][1] == SYNTHETIC]
            assert len(made) == count
            assert all(row.view == 0 for row in made)  # one version of each
            assert len(languages(batch, examples)) == 1


@pytest.mark.parametrize("one_stratum", [True, False])
def test_synthetic_speech_apart(one_stratum):
    """A batch is recorded or synthetic as a whole, and the share is that of the batches."""
    examples = make(synthetic=30)
    one = sampler(examples, synthetic_share=0.25, apart=True, batch_size=4, one_stratum=one_stratum)
    kinds = [{examples[row.example][1] for row in one.batch(step)} for step in range(400)]
    assert all(len(kind) == 1 for kind in kinds)
    assert np.mean([kind == {SYNTHETIC} for kind in kinds]) == pytest.approx(0.25, abs=0.06)
    assert one.batch(7) == one.batch(7)


def test_share_without_synthetic_speech_and_the_other_way_round():
    assert len(sampler(exponent=0, batch_size=4, synthetic_share=0.5).batch(0)) == 4
    only = [each for each in make(synthetic=8) if each[1] == SYNTHETIC]
    assert len(sampler(only, batch_size=4, synthetic_share=0.0).batch(0)) == 4


def test_views_are_drawn_alike():
    drawn = Counter(row.view for step in range(200) for row in sampler(views=3).batch(step))
    assert set(drawn) == {0, 1, 2} and min(drawn.values()) > 200


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 1}, ConfigError, r"speech: batch_size=1.*at least 2"),
        ({"synthetic_share": 1.5}, ConfigError, r"speech: the share of synthetic is 1\.5; it must be from 0 to 1"),
        ({"synthetic_share": -0.1}, ConfigError, r"the share of synthetic is -0\.1"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        sampler(**options)


def test_a_share_of_the_examples_is_read_without_the_prompts_of_its_task():
    plain, bare = sampler(batch_size=16), sampler(batch_size=16, bare=0.25)
    rows = [row for step in range(200) for row in bare.batch(step)]
    assert [row._replace(bare=False) for row in rows] == [row for step in range(200) for row in plain.batch(step)]
    assert np.mean([row.bare for row in rows]) == pytest.approx(0.25, abs=0.03)
    halves = [bare.batch(7, rank, 2) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(bare.batch(7))


def test_no_clip_is_an_error():
    with pytest.raises(DataError, match=r"no training example; check data\.seen"):
        task([])


@pytest.mark.parametrize(
    "options",
    [
        {"exponent": 0.5},
        {"exponent": 0, "batch_size": 32},  # more than two of the languages have
        {"synthetic_share": 0.25, "batch_size": 8},
        {"one_stratum": False, "batch_size": 12, "exponent": 0.3, "synthetic_share": 0.5},
        {"synthetic_share": 0.4, "apart": True, "batch_size": 8},
        {"synthetic_share": 0.4, "apart": True, "batch_size": 8, "one_stratum": False},
    ],
)
def test_effective_epochs_are_the_drawn_ones(options):
    examples = make(synthetic=10 if "synthetic_share" in options else 0)
    one = sampler(examples, **options)
    steps = 1500
    drawn = Counter(row.example for step in range(steps) for row in one.batch(step))
    for source in (RECORDED, SYNTHETIC):
        (expected,) = one.effective_epochs(steps, "" if source == RECORDED else source)
        for lang in expected:
            clips = [i for i, each in enumerate(examples) if each == (lang, source)]
            assert sum(drawn[i] for i in clips) / len(clips) == pytest.approx(expected[lang], rel=0.12)
        assert set(expected) == ({*SIZES} if source == RECORDED or "synthetic_share" in options else set())


def test_effective_epochs_by_hand():
    # Exponent 1 treats every clip alike: 4 of 84 clips a step.
    assert sampler(exponent=1).effective_epochs(21)[0] == pytest.approx(dict.fromkeys(SIZES, 1.0))
    one = [each for each in make() if each[0] == "fr_fr"]
    assert sampler(one, batch_size=8, one_stratum=False).effective_epochs(10)[0] == pytest.approx({"fr_fr": 5.0})
    # 1000 of 84: every batch holds every clip, whatever the draw.
    assert sampler(batch_size=1000, one_stratum=False).effective_epochs(3)[0] == pytest.approx(
        dict.fromkeys(SIZES, 3.0)
    )
    assert sampler(batch_size=1000, synthetic_share=0.5).effective_epochs(3, SYNTHETIC) == [{}]


def test_translations_take_their_share_in_the_language_of_the_clips():
    examples = make()
    one = sampler(examples, batch_size=8, translations=PAIRS, translation_share=0.25)
    drawn = Counter()
    for step in range(60):
        clips, pairs = split(one.batch(step))
        (lang,) = languages(clips, examples)
        assert len(clips) == min(6, SIZES[lang]) and len(pairs) == 2 == len(set(pairs))
        (paired,) = {PAIRS[index] for index in pairs}
        assert paired == lang or lang == "es_419"
        drawn[lang, paired] += 1
    assert len(drawn) == 4  # Spanish has no pairs and takes those of either language
    assert one.batch(9) == sampler(examples, batch_size=8, translations=PAIRS, translation_share=0.25).batch(9)


def test_translations_of_mixed_batches_and_of_small_languages():
    mixed = sampler(one_stratum=False, batch_size=16, translations=PAIRS, translation_share=0.5)
    found = [{PAIRS[index] for index in split(mixed.batch(step))[1]} for step in range(10)]
    assert {"fr_fr", "ru_ru"} in found
    assert all(len(split(mixed.batch(step))[1]) <= 8 for step in range(10))
    few = sampler(batch_size=16, translations=["ru_ru"] * 3, translation_share=0.5)
    assert len(split(few.batch(0))[1]) == 3


def test_no_translations_change_nothing():
    without = list(sampler())
    assert list(sampler(translations=PAIRS)) == without == list(sampler(translation_share=0.25))


def test_effective_epochs_count_the_clips_alone():
    whole = sampler(batch_size=8).effective_epochs(100)[0]["ru_ru"]
    half = sampler(batch_size=16, translations=PAIRS, translation_share=0.5).effective_epochs(100)[0]["ru_ru"]
    assert whole == half


@pytest.mark.parametrize(
    ("share", "left"),
    [(1.0, "shares of translation leave 0 of 4"), (-0.1, "translation is -0.1"), (0.75, "leave 1 of 4")],
)
def test_translations_leave_room_for_speech(share, left):
    with pytest.raises(ConfigError, match=left):
        sampler(translations=PAIRS, translation_share=share)


def test_a_batch_holds_one_task_and_tasks_have_their_rates():
    tasks = [task(rate=3.0), task([("en_us", RECORDED)] * 50, batch_size=8)]
    both = Mixture(tasks, steps=10, seed=0)
    kinds = [{row.task for row in both.batch(step)} for step in range(400)]
    assert all(len(kind) == 1 for kind in kinds)
    assert np.mean([kind == {0} for kind in kinds]) == pytest.approx(0.75, abs=0.06)
    assert {len(both.batch(step)) for step in range(50) if kinds[step] == {1}} == {8}
    assert both.batch(7) == Mixture(tasks, steps=3, seed=0).batch(7) != both.batch(8)
    epochs = both.effective_epochs(400)
    drawn = Counter(row.task for step in range(400) for row in both.batch(step))
    assert epochs[0] == pytest.approx(task().effective_epochs(300))
    assert epochs[1]["en_us"] == pytest.approx(100 * 8 / 50)
    assert drawn[1] / 50 == pytest.approx(epochs[1]["en_us"], rel=0.2)


def test_several_sources_have_shares():
    examples = [(lang, source) for lang in SIZES for source in (RECORDED, SYNTHETIC, "noisy") for _ in range(20)]
    shares = {SYNTHETIC: Share(0.25), "noisy": Share(0.5)}
    one = Task("speech", *zip(*examples, strict=True), batch_size=8, shares=shares)
    batch = Mixture([one], steps=1, seed=0).batch(0)
    assert Counter(examples[row.example][1] for row in batch) == {RECORDED: 2, SYNTHETIC: 2, "noisy": 4}


@pytest.mark.parametrize("tasks", [[], [task(rate=0.0)]])
def test_there_must_be_a_task_to_draw(tasks):
    with pytest.raises(ConfigError, match="every rate above 0"):
        Mixture(tasks, steps=1, seed=0)


GOLDEN = [  # (example, view) of steps 0 and 7, as runs drew them before there were tasks
    (
        {"synthetic_share": 0.4, "apart": True, "views": 3},
        [
            [(91, 0), (84, 0), (93, 0), (92, 0), (90, 0), (88, 0)],
            [(32, 2), (38, 1), (61, 2), (81, 0), (50, 0), (27, 2)],
        ],
    ),
    (
        {"synthetic_share": 0.4, "one_stratum": False, "views": 2, "translations": PAIRS, "translation_share": 0.25},
        [
            [(6, 1), (57, 0), (74, 0), (108, 0), (116, 0), (122, 0)],
            [(0, 1), (14, 0), (27, 1), (110, 0), (115, 0), (123, 0)],
        ],
    ),
    (
        {"translations": PAIRS, "translation_share": 0.25, "synthetic_share": 0.25},
        [
            [(0, 0), (2, 0), (3, 0), (89, 0), (116, 0), (117, 0)],
            [(79, 0), (33, 0), (57, 0), (107, 0), (122, 0), (123, 0)],
        ],
    ),
    (
        {"group": ["fr_fr"], "group_share": 0.3, "exponent": 0.0},
        [[(0, 0), (1, 0), (2, 0), (3, 0)], [(56, 0), (51, 0), (39, 0), (33, 0), (62, 0), (77, 0)]],
    ),
]


@pytest.mark.parametrize(("options", "expected"), GOLDEN)
def test_batches_of_earlier_runs_are_drawn_again(options, expected):
    one = sampler(make(synthetic=10), batch_size=6, seed=3, **options)
    assert [[(row.example, row.view) for row in one.batch(step)] for step in (0, 7)] == expected


def test_a_batch_is_of_one_length():
    """Of each source; all bins are drawn, each example as often as the others; too few for two bins are one."""
    examples = [("fr_fr", RECORDED)] * 40 + [("fr_fr", SYNTHETIC)] * 24 + [("es_419", RECORDED)] * 5
    lengths = [*np.random.default_rng(0).permutation(40), *range(0, 48, 2), *range(5)]
    options = {"batch_size": 8, "synthetic_share": 0.5, "length_bins": 4, "exponent": 1.0}
    batches = sampler(examples, lengths=lengths, steps=3000, **options)
    drawn = Counter()
    for batch in batches:
        drawn.update(row.example for row in batch)
        of = {source: [lengths[row.example] for row in batch if examples[row.example] == ("fr_fr", source)]
              for source in (RECORDED, SYNTHETIC)}  # fmt: skip
        for source, widest in ((RECORDED, 10), (SYNTHETIC, 12)):
            if of[source]:
                assert len(of[source]) == 4 and max(of[source]) // widest == min(of[source]) // widest
        if of[RECORDED]:
            assert of[RECORDED][0] // 10 == of[SYNTHETIC][0] // 12
    (epochs,) = batches.effective_epochs(3000)
    assert np.array([drawn[i] for i in range(40)]).mean() == pytest.approx(epochs["fr_fr"], rel=0.05)
    assert min(drawn[i] for i in range(40)) > 0.8 * epochs["fr_fr"] and all(drawn[i] for i in range(64, 69))


def test_without_bins_batches_are_those_of_before():
    lengths = [*range(84)]
    assert list(sampler(lengths=lengths)) == list(sampler()) == list(sampler(length_bins=4))
