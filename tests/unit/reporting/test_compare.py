"""Two runs over the same queries: differences, intervals, refusals."""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest

from speechde.errors import ConfigError, DataError
from speechde.evaluation.metrics import bootstrap_means, interval
from speechde.reporting.archive import archive_run
from speechde.reporting.compare import compare_runs, format_comparison, sign_test


def write_run(folder, ranks, roles=None, galleries=None, direction="audio_to_text"):
    """``ranks``: language → list of (id, sentence, rank)."""
    results = folder / "results"
    results.mkdir(parents=True)
    rows = {
        lang: {"role": (roles or {}).get(lang, "seen"), "gallery": (galleries or {}).get(lang, 4)} for lang in ranks
    }
    (results / "metrics.json").write_text(json.dumps({direction: {"per_language": rows}}), encoding="utf-8")
    records = [
        {"direction": direction, "lang": lang, "id": id_, "sentence": sentence, "rank": rank, "retrieved": ""}
        for lang, queries in ranks.items()
        for id_, sentence, rank in queries
    ]
    records.append({"direction": "text_to_audio", "lang": "ca_es", "id": "x", "sentence": "x", "rank": 1})
    (results / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return folder


def queries(*ranks, prefix="q"):
    """Two recordings of each sentence."""
    return [(f"{prefix}{i}", f"s{i // 2}", rank) for i, rank in enumerate(ranks)]


@pytest.fixture
def runs(tmp_path):
    roles = {"ca_es": "seen", "es_419": "seen", "sw_ke": "zero_shot"}
    # Catalan: A wins the first sentence with both recordings, the second is a draw (1:1), the third is B's by one.
    a = {"ca_es": queries(1, 1, 1, 2, 3, 1), "es_419": queries(1, 1), "sw_ke": queries(1, 2, 2, 2)}
    b = {"ca_es": queries(2, 5, 9, 1, 1, 1), "es_419": queries(1, 1), "sw_ke": queries(1, 1, 1, 1)}
    return write_run(tmp_path / "a", a, roles), write_run(tmp_path / "b", b, roles)


def test_archived_runs_compare_alike(runs, tmp_path):
    kept = [tmp_path / "kept" / run.name for run in runs]
    for run, target in zip(runs, kept, strict=True):
        archive_run(run / "results", target)
    assert compare_runs(*kept).means == compare_runs(*runs).means
    with pytest.raises(DataError, match="no text_to_audio query in common"):
        compare_runs(*kept, direction="text_to_audio")


def test_differences_by_hand(runs):
    result = compare_runs(*runs)
    assert [(row.name, row.role) for row in result.languages] == [
        ("ca_es", "seen"), ("es_419", "seen"), ("sw_ke", "zero_shot"),
    ]  # fmt: skip
    catalan, spanish, swahili = result.languages
    assert (catalan.recall_a, catalan.recall_b) == (pytest.approx(4 / 6), pytest.approx(3 / 6))
    assert catalan.difference == pytest.approx(1 / 6)
    assert (catalan.won, catalan.lost, catalan.p) == (1, 1, 1.0)
    assert (spanish.difference, spanish.ci95, spanish.p) == (0.0, (0.0, 0.0), 1.0)
    assert (swahili.won, swahili.lost, swahili.p) == (0, 2, 0.5)
    assert swahili.difference == pytest.approx(-3 / 4) and swahili.ci95 == (-1.0, -0.5)


def test_means_weigh_languages_equally_and_keep_roles_apart(runs):
    seen, zero_shot = compare_runs(*runs).means
    assert (seen.name, seen.languages, seen.queries) == ("seen", 2, 8)
    assert seen.recall_a == pytest.approx((4 / 6 + 1) / 2)
    assert seen.difference == pytest.approx((1 / 6 + 0) / 2)
    assert (seen.won, seen.lost) == (1, 1)
    assert zero_shot.difference == pytest.approx(-3 / 4)
    # half of the interval of Catalan, because Spanish does not vary
    catalan = compare_runs(*runs).languages[0].ci95
    assert seen.ci95 == pytest.approx([value / 2 for value in catalan])


def test_swapping_the_runs_changes_the_sign(runs):
    forth, back = compare_runs(*runs), compare_runs(*runs[::-1])
    for one, other in zip(forth.languages + forth.means, back.languages + back.means, strict=True):
        assert one.difference == -other.difference
        assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
        assert (one.won, one.lost, one.p) == (other.lost, other.won, other.p)


def test_paired_interval_is_narrower_than_that_of_one_run(tmp_path):
    rng = np.random.default_rng(0)
    hits = rng.random(400) < 0.5
    better = hits | (rng.random(400) < 0.1)
    a, b = ([(f"q{i}", f"s{i}", 1 if hit else 2) for i, hit in enumerate(side)] for side in (better, hits))
    result = compare_runs(write_run(tmp_path / "a", {"ca_es": a}), write_run(tmp_path / "b", {"ca_es": b}))
    (row,) = result.languages
    low, high = row.ci95
    assert 0 < low < row.difference < high
    alone = interval(bootstrap_means(hits, np.arange(400)))
    assert high - low < 0.7 * (alone[1] - alone[0])
    assert row.lost == 0 and row.p == pytest.approx(2 * 0.5**row.won)


def test_a_language_seen_by_one_run_alone_is_in_a_mean_of_its_own(tmp_path):
    ranks = {"ca_es": queries(1, 2), "sw_ke": queries(1, 1)}
    a = write_run(tmp_path / "a", ranks, {"sw_ke": "zero_shot"})
    b = write_run(tmp_path / "b", ranks, {"sw_ke": "seen"})
    assert [(row.name, row.languages) for row in compare_runs(a, b).means] == [("seen", 1), ("zero_shot/seen", 1)]


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (3, 3), (9, 1), (2, 12), (150, 100)])
def test_sign_test_is_the_sum_of_binomials(won, lost):
    n, k = won + lost, min(won, lost)
    assert sign_test(won, lost) == pytest.approx(min(1, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n))


def test_sign_test_of_many_queries_does_not_overflow():
    assert sign_test(5000, 5000) == 1.0
    assert 0 < sign_test(5400, 4600) < 1e-14


def test_other_queries_are_refused_by_number_and_example(tmp_path):
    a = write_run(tmp_path / "a", {"ca_es": queries(1, 1, 2, 2)})
    b = write_run(tmp_path / "b", {"ca_es": [*queries(1, 2), ("new", "s9", 1)]})
    with pytest.raises(DataError, match=r"2 of .*a \(ca_es 'q2'\), 1 of .*b \(ca_es 'new'\)"):
        compare_runs(a, b)
    result = compare_runs(a, b, common=True)
    assert result.left_out == (2, 1)
    assert result.languages[0].queries == 2 and result.languages[0].difference == 0.5
    assert "2 queries of A alone and 1 of B alone are left out" in format_comparison(result)


def test_a_language_of_one_run_alone_is_left_out_of_the_common_queries(tmp_path):
    a = write_run(tmp_path / "a", {"ca_es": queries(1, 1)})
    b = write_run(tmp_path / "b", {"ca_es": queries(1, 1), "sw_ke": queries(1, 1)})
    with pytest.raises(DataError, match=r"0 of .*a, 2 of .*b \(sw_ke 'q0'\)"):
        compare_runs(a, b)
    assert [row.name for row in compare_runs(a, b, common=True).languages] == ["ca_es"]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    a = write_run(tmp_path / "a", {"ca_es": queries(1, 1)})
    other = write_run(tmp_path / "other", {"ca_es": [("q0", "s0", 1), ("q1", "changed", 1)]})
    with pytest.raises(DataError, match=r"1 queries have another transcript .*'q1'"):
        compare_runs(a, other)
    with pytest.raises(DataError, match="in common"):
        compare_runs(a, write_run(tmp_path / "none", {"ca_es": queries(1, prefix="z")}), common=True)
    larger = write_run(tmp_path / "larger", {"ca_es": queries(1, 1)}, galleries={"ca_es": 5})
    with pytest.raises(DataError, match=r"galleries of \(4, 5\) items"):
        compare_runs(a, larger)
    with pytest.raises(ConfigError, match="audio_to_text"):
        compare_runs(a, a, "audio_to_txt")
    with pytest.raises(DataError, match=r"metrics\.json is missing"):
        compare_runs(a, tmp_path / "nowhere")
    committed = tmp_path / "committed"
    committed.mkdir()
    for command, hint in (
        (None, "the command that made it"),
        ("python train.py recipe=tiny", "python train.py recipe=tiny"),
    ):
        (committed / "metrics.json").write_text(json.dumps({"command": command}), encoding="utf-8")
        with pytest.raises(DataError, match=f"keeps its scores but not its queries .*; run again: {hint}$"):
            compare_runs(a, committed)
    path = other / "results/queries.jsonl"
    path.write_text(path.read_text("utf-8").replace('"sentence"', '"old"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"queries\.jsonl:1 has no 'sentence'"):
        compare_runs(a, other)


def test_format(runs):
    text = format_comparison(compare_runs(*runs))
    assert f"A: {runs[0]}" in text and "12 queries in both" in text and "Common" not in text
    assert "A − B [95 % CI]" in text and "after" not in text
    named = format_comparison(compare_runs(*runs), ("after", "before"))
    assert f"after: {runs[0]}" in named and "after R@1 | before R@1 | after − before [95 % CI]" in named
    assert "| sw_ke | zero_shot | 4 | 25.0 | 100.0 | -75.0 [-100.0, -50.0] | 0 | 2 | 0.5 |" in text
    assert "| zero_shot | 1 | 4 | 25.0 | 100.0 | -75.0 [-100.0, -50.0] | 0 | 2 | 0.5 |" in text


def test_seeds_count_by_the_share_that_hits(runs, tmp_path):
    a, b = runs
    roles = {"ca_es": "seen", "es_419": "seen", "sw_ke": "zero_shot"}
    other = write_run(
        tmp_path / "a2", {"ca_es": queries(*[2] * 6), "es_419": queries(1, 1), "sw_ke": queries(*[1] * 4)}, roles
    )
    catalan, _, swahili = compare_runs([a, other], b).languages
    assert catalan.recall_a == pytest.approx((4 / 6 + 0) / 2) and catalan.recall_b == pytest.approx(3 / 6)
    # sentences of A by both seeds: 1, 0.5, 0.5 hits of two; of B: 0, 1, 2
    assert (catalan.won, catalan.lost) == (1, 2)
    assert swahili.recall_a == pytest.approx((1 / 4 + 1) / 2)
    assert compare_runs([a], [b]).means == compare_runs(a, b).means


def test_seeds_must_have_the_same_queries(runs, tmp_path):
    other = write_run(tmp_path / "c", {"ca_es": queries(1, 1)})
    with pytest.raises(DataError, match="no seeds of one configuration"):
        compare_runs([runs[0], other], runs[1])
