"""Runs side by side: what is one system, what is ranked with what, and differences."""

from __future__ import annotations

import json

import pytest

from speechde.errors import DataError
from speechde.reporting.compare import compare_runs
from speechde.reporting.pages import html, markdown
from speechde.reporting.summary import find_runs, summarise


def rewrite(path, **changes):
    metrics = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(metrics | changes), encoding="utf-8")


def test_seeds_are_one_system_and_the_best_on_dev_is_first(runs):
    """Decisions may look at nothing else."""
    for seed in (0, 1):
        rewrite(runs / f"tiny/x:1-s{seed}/results/metrics.json", **{"dev_recall@1": 0.9})
    (board,) = summarise(find_runs([runs]))["boards"]
    names = [system["name"] for system in board["systems"]]
    assert names == ["tiny x:1", "tiny", "tiny data.seen:[fr_fr]"]
    tiny = next(system for system in board["systems"] if system["name"] == "tiny")
    scores = [
        json.loads((runs / f"tiny/default-s{seed}/results/metrics.json").read_text("utf-8"))["audio_to_text"]["seen"]
        for seed in (0, 1)
    ]
    assert tiny["seeds"] == [0, 1]
    assert tiny["seen"]["recall@1"] == pytest.approx(sum(score["recall@1"] for score in scores) / 2)
    assert tiny["seen"]["seeds"] == [f(score["recall@1"] for score in scores) for f in (min, max)]
    assert tiny["seen"]["ci95"][0] == pytest.approx(sum(score["ci95"][0] for score in scores) / 2)
    assert tiny["per_language"]["ro_ro"]["role"] == "zero_shot"


def test_void_runs_are_last_and_compared_with_nothing(runs):
    """They say why, on every page."""
    config = {"trainer": {"one_language": False}}
    for seed in (0, 1):
        rewrite(runs / f"tiny/x:1-s{seed}/results/metrics.json", config=config, **{"dev_recall@1": 0.9})
    summary = summarise(find_runs([runs]))
    (board,) = summary["boards"]
    assert [bool(system["void"]) for system in board["systems"]] == [False, False, True]
    assert [row["name"] for row in board["differences"]] == ["tiny data.seen:[fr_fr]"]
    reason = "recordings of one sentence in two languages were negatives of each other"
    for page in (markdown(summary, "t"), html(summary, "t")):
        assert "tiny x:1 (void)" in page and reason in page
    for seed in (0, 1):
        rewrite(runs / f"tiny/x:1-s{seed}/results/metrics.json", version=2)
    assert not any(system["void"] for system in summarise(find_runs([runs]))["boards"][0]["systems"])


def test_differences_are_those_of_compare_over_the_seeds(runs):
    (board,) = summarise(find_runs([runs]))["boards"]
    rows = {row["name"]: row for row in board["differences"]}
    assert set(rows) == {"tiny x:1", "tiny data.seen:[fr_fr]"}
    variant, default = ([runs / f"tiny/{name}-s{seed}" for seed in (0, 1)] for name in ("x:1", "default"))
    expected = {row.role: row for row in compare_runs(variant, default).means}
    for role in ("seen", "zero_shot"):
        mean = rows["tiny x:1"]["means"][role]
        assert mean["difference"] == expected[role].difference < 0
        assert mean["ci95"] == expected[role].ci95 and mean["p"] == expected[role].p
    assert rows["tiny data.seen:[fr_fr]"]["seeds"] == [0]
    assert rows["tiny data.seen:[fr_fr]"]["means"]["seen"]["languages"] == 1


def test_a_later_evaluation_of_a_run_is_the_same_run_and_gives_its_baselines(runs, write_run):
    baselines = {"notes": ["none"]}
    write_run(runs / "tiny/default-s0/evaluation-made-up", 0.3, 0, baselines=baselines, data=only_test(runs))
    (board,) = summarise(find_runs([runs]))["boards"]
    tiny = next(system for system in board["systems"] if system["name"] == "tiny")
    assert tiny["seeds"] == [0, 1] and tiny["train"]["recordings"] == 20
    assert board["baselines"] == {"tiny": baselines}


def only_test(runs):
    data = json.loads((runs / "tiny/default-s0/results/metrics.json").read_text("utf-8"))["data"]
    return {key: value for key, value in data.items() if key != "train"}


def test_other_queries_are_another_board(runs, write_run):
    write_run(runs / "other/default-s0", recipe="other", langs=("ca_es", "fr_fr"))
    boards = summarise(find_runs([runs]))["boards"]
    assert [len(board["systems"]) for board in boards] == [3, 1]
    assert boards[1]["systems"][0]["name"] == "other"


def test_runs_that_cannot_be_compared_are_named(runs):
    path = runs / "tiny/x:1-s0/results/queries.jsonl"
    path.write_text(path.read_text("utf-8").replace('"sentence"', '"old"'), encoding="utf-8")
    (board,) = summarise(find_runs([runs]))["boards"]
    assert [row["name"] for row in board["differences"]] == ["tiny data.seen:[fr_fr]"]
    assert len(board["notes"]) == 1 and "tiny x:1 is not compared" in board["notes"][0]


def test_without_queries_runs_are_ranked_but_not_compared(runs):
    for path in runs.rglob("queries.jsonl"):
        path.unlink()
    (board,) = summarise(find_runs([runs]))["boards"]
    assert len(board["systems"]) == 3 and board["differences"] == [] and board["notes"] == []


@pytest.mark.parametrize("text", ["{", "[]", '{"recipe": "tiny"}'])
def test_damaged_metrics(runs, text):
    (runs / "tiny/x:1-s0/results/metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"x:1-s0.*not the metrics of a run"):
        find_runs([runs])


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(DataError, match=r"holds no metrics\.json"):
        find_runs([tmp_path])
