"""The page of all results: what is committed is current, and every shape of file finds its place."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from speechde.errors import DataError
from speechde.reporting.archive import write_hits
from speechde.reporting.compare import compare_all, compare_runs, write_comparison
from speechde.reporting.index import index
from speechde.reporting.summary import find_runs, summarise
from speechde.versions import VERSION

RESULTS = Path(__file__).resolve().parents[3] / "results"


def rows(page, heading):
    """Cells of the first table below a heading, its header left out."""
    lines = page.split(f"## {heading}", 1)[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")][2:]


@pytest.fixture
def results(runs, tmp_path):
    """What a repository commits of ``runs``: no queries, no folder named ``results`` inside."""
    for run in sorted(runs.glob("*/*")):
        target = tmp_path / "committed" / run.relative_to(runs)
        target.mkdir(parents=True)
        for name in ("metrics.json", "table.md"):
            shutil.copy(run / "results" / name, target)
    return tmp_path / "committed"


def test_the_committed_page_is_current():
    assert (RESULTS / "README.md").read_text("utf-8") == index(RESULTS), "results/README.md is stale: run make results"


def test_links_of_the_committed_page_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", (RESULTS / "README.md").read_text("utf-8"))
    assert len(links) > 4 and [link for link in links if not (RESULTS / link).exists()] == []


def test_a_row_for_every_run(results):
    page = index(results)
    table = rows(page, "made up, test split: 36 recorded clips in 3 languages")
    assert [row[:4] for row in table] == [
        ["[tiny](tiny/default-s0/table.md)", "–", "modern", "0"],
        ["[tiny](tiny/default-s1/table.md)", "–", "modern", "1"],
        ["[tiny](tiny/x:1-s0/table.md)", "`x:1`", "modern", "0"],
        ["[tiny](tiny/x:1-s1/table.md)", "`x:1`", "modern", "1"],
    ]
    metrics = json.loads((results / "tiny/x:1-s1/metrics.json").read_text("utf-8"))
    seen, zero_shot = (metrics["audio_to_text"][role] for role in ("seen", "zero_shot"))
    expected = [
        "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in (mean["recall@1"], *mean["ci95"])))
        for mean in (seen, zero_shot)
    ]
    assert table[3][4] == "15 recorded and 5 *synthetic* clips" and table[3][5:7] == expected
    assert table[3][7:9] == ["12", "8.3 / 8.3"] and table[3][-1] == "`python train.py recipe=tiny seed=1`"
    assert len(rows(page, "made up, test split: 24 recorded clips in 2 languages")) == 1


def test_a_later_evaluation_gives_its_baselines_and_no_second_row(results, write_run):
    mean = {"recall@1": 0.5, "ci95": [0.4, 0.6], "recall@5": 1.0, "mrr": 0.7, "lead": 0.1, "lead_ci95": [0.0, 0.2]}
    answer = {"direction": "audio_to_text", "seconds_per_query": 0.5, "per_language": {}, "seen": mean}
    later = write_run(results / "later", data=only_test(results), baselines={"chance": answer, "model": answer})
    page = index(results)
    assert len(rows(page, "made up, test split: 36 recorded")) == 4
    table = rows(page, "Baselines on the queries of tiny, seed 0")
    assert [row[:3] for row in table] == [
        ["model", "seen", "50.0 [40.0, 60.0]"],
        ["chance", "seen", "50.0 [40.0, 60.0]"],
    ]
    assert table[1][3] == "+10.0 [+0.0, +20.0]" and "(later/results/table.md)" in page
    shutil.rmtree(results / "tiny")
    assert rows(index(results), "made up, test split")[0][4] == "–"  # the run is not committed: its evaluation is a row
    assert later.is_dir()


def only_test(results):
    data = json.loads((results / "tiny/default-s0/metrics.json").read_text("utf-8"))["data"]
    return {key: value for key, value in data.items() if key != "train"}


def test_controls_are_a_column(results):
    path = results / "tiny/default-s0/metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    other = json.loads((results / "tiny/x:1-s0/metrics.json").read_text("utf-8"))["audio_to_text"]
    path.write_text(json.dumps(metrics | {"controls": {"random LLM": other}}), encoding="utf-8")
    page = index(results)
    cells = [row[10] for row in rows(page, "made up, test split: 36")]
    expected = " / ".join(f"{100 * other[role]['recall@1']:.1f}" for role in ("seen", "zero_shot"))
    assert "random LLM R@1" in page and cells == [expected, "–", "–", "–"]


def test_a_report_is_a_table_of_systems(results, runs):
    (results / "sweep").mkdir()
    summary = summarise(find_runs([runs]))
    (results / "sweep/summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (results / "sweep/README.md").write_text("a page", encoding="utf-8")
    shutil.copytree(results / "tiny", results / "sweep/runs/tiny")  # its runs have no rows of their own
    page = index(results)
    assert len(rows(page, "made up, test split: 36")) == 4
    table = {row[0]: row for row in rows(page, "sweep: 3 systems on made up")}
    assert "[the whole page](sweep/README.md)" in page and table["tiny"][4:] == ["–", "–"]
    both = ([runs / f"tiny/{name}-s{seed}" for seed in (0, 1)] for name in ("x:1", "default"))
    seen = compare_runs(*both).means[0]
    assert table["tiny x:1"][4] == "{:+.1f} [{:+.1f}, {:+.1f}]".format(
        *(100 * value for value in (seen.difference, *seen.ci95))
    )


def test_text_benchmarks_are_a_table(results):
    mean = {"languages": 2, "chance": 0.25, "recall@1": 0.5, "ci95": [0.4, 0.6], "recall@5": 0.75, "mrr": 0.6}
    metrics = {
        "tasks": {"sib200": {"per_language": {}, "seen": mean, "unknown": mean}},
        "sample": {"queries per language": 100},
        **{"hardware": "h", "commit": "c", "command": "speechde a|b"},
    }
    folder = results / "text" / "small"
    folder.mkdir(parents=True)
    (folder / "text.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "table.md").touch()
    page = index(results)
    assert "## Text benchmarks" in page and "## Other measurements" not in page
    start, scores = "[small](text/small/table.md) | sib200", "2 | 25.0 | 50.0 [40.0, 60.0] | 75.0 | 0.600 | 100 | h | c"
    for role in ("seen", "training unknown"):
        assert " | ".join([f"| {start}", role, scores, "`speechde a\\|b` |"]) in page


def test_other_files_are_listed(results):
    (results / "benchmarks").mkdir()
    (results / "benchmarks/ranks.json").write_text('{"command": "python b.py | tee x", "hardware": "h"}', "utf-8")
    (results / "adapt").mkdir()
    (results / "adapt/metrics.json").write_text('{"before": 1}', encoding="utf-8")
    (results / "adapt/table.md").write_text("a page", encoding="utf-8")
    assert rows(index(results), "Other measurements") == [
        ["[adapt/metrics.json](adapt/metrics.json) ([page](adapt/table.md))", "–", "–", "–"],
        ["[benchmarks/ranks.json](benchmarks/ranks.json)", "h", "–", r"`python b.py \| tee x`"],
    ]


def test_what_cannot_be_read_is_named(results):
    (results / "tiny/x:1-s0/metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"x:1-s0/metrics\.json is not JSON"):
        index(results)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        index(results / "nowhere")


def write_text_run(folder, overrides, ranks, seed=0):
    """A run on text alone, as it is archived; ``ranks`` of its queries."""
    scores = {"split": "test", "queries": len(ranks), "gallery": 2, "chance": 0.5, "ci95": [0.4, 0.6], "mrr": 0.7}
    task = scores | {"recall@1": sum(rank == 1 for rank in ranks) / (len(ranks) or 1), "recall@5": 1.0}
    metrics = {
        "recipe": "ateb", "overrides": overrides, "seed": seed, "dev_recall@1": 0.5, "hardware": "h", "commit": "c",
        "command": "train", "version": VERSION, "tasks": {"ateb": task}, "wall_seconds": {"total": 90.0},
        "data": {"tasks": {"ateb": {"examples": 7}}},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "tasks.json").write_text(json.dumps(metrics), encoding="utf-8")
    hits = [{"direction": "ateb", "lang": "test", "id": str(n), "sentence": str(n // 2), "rank": rank}
            for n, rank in enumerate(ranks)]  # fmt: skip
    write_hits(hits, folder, ("ateb",))
    return folder


def test_runs_on_text_are_held_against_the_one_that_changed_least(results):
    base = write_text_run(results / "ateb/base", "ateb.task:xstest", [1, 1, 2, 2])
    ids = write_text_run(results / "ateb/ids", "ateb.target:label+id+ateb.task:xstest", [1, 1, 1, 1])
    write_text_run(results / "ateb/other-seed", "ateb.target:label+id+ateb.task:xstest", [1, 1, 1, 1], seed=1)
    write_text_run(results / "ateb/other-set", "ateb.task:creak", [1, 2, 2, 2])
    table = rows(index(results), "Runs on text alone, on their test split")
    assert [(row[1], row[2]) for row in table] == [
        ("ateb.target:label+id ateb.task:xstest", "0"), ("ateb.target:label+id ateb.task:xstest", "1"),
        ("ateb.task:creak", "0"), ("ateb.task:xstest", "0"),
    ]  # fmt: skip
    assert table[3][3:9] == ["ateb", "7", "4", "50.0", "50.0", "50.0 [40.0, 60.0]"]
    (difference,) = compare_runs(ids, base, "ateb").means
    assert difference.difference == 0.5
    low, high = (100 * bound for bound in difference.ci95)
    assert [row[9] for row in table] == [f"+50.0 [{low:+.1f}, {high:+.1f}]", "–", "–", "–"]
    (base / "hits.parquet").unlink()
    assert rows(index(results), "Runs on text alone")[0][9] == "–"


def test_runs_by_language_are_held_against_each_other_by_role(results):
    """And one whose base had other tasks against none."""
    folders = [write_text_run(results / f"ateb/{name}", overrides, [])
               for name, overrides in (("base", "default"), ("drop", "image.drop:0.5"))]  # fmt: skip
    write_text_run(results / "ateb/other", "image.drop:0.5+tasks.x:1", [1, 2])
    for folder, ranks in zip(folders, ([2, 2, 1, 1], [1, 1, 1, 2]), strict=True):
        metrics = json.loads((folder / "tasks.json").read_text("utf-8"))
        row = metrics["tasks"].pop("ateb") | {"queries": 2, "recall@1": 0.5}
        metrics["tasks"] = {"pictures, languages of training": row | {"languages": {"fr_fr": row}},
                            "pictures, other languages": row | {"languages": {"ro_ro": row}}}  # fmt: skip
        metrics["data"]["tasks"] = {"pictures": {"examples": 9}}
        (folder / "tasks.json").write_text(json.dumps(metrics), encoding="utf-8")
        hits = [{"direction": "pictures", "lang": f"test {'fr_fr' if n < 2 else 'ro_ro'}", "id": str(n),
                 "sentence": str(n), "rank": rank} for n, rank in enumerate(ranks)]  # fmt: skip
        write_hits(hits, folder, ("pictures",))
    (found,) = compare_all(folders[1], folders[0])
    assert [(mean.role, mean.difference) for mean in found.means] == [("zero_shot", -0.5), ("trained_on", 1.0)]
    table = rows(index(results), "Runs on text alone, on their test split")
    told = [(*row[1:2], *row[3:5], row[9].partition(" ")[0]) for row in table]
    assert told == [
        ("–", "pictures, languages of training", "9", "–"),
        ("–", "pictures, other languages", "9", "–"),
        ("image.drop:0.5", "pictures, languages of training", "9", "+100.0"),
        ("image.drop:0.5", "pictures, other languages", "9", "-50.0"),
        ("image.drop:0.5 tasks.x:1", "ateb", "7", "–"),
    ]


def test_comparisons_are_a_table(results):
    one, other, base = (
        write_text_run(results / f"ateb/{name}", name, ranks)
        for name, ranks in (("a", [1, 1, 2, 2]), ("b", [1, 1, 1, 2]), ("c", [2, 2, 2, 2]))
    )
    write_comparison(results / "ateb/compared", compare_all([one, other], base), "speechde compare …")
    (row,) = rows(index(results), "Differences, query by query")
    assert row[:8] == ["a, b", "c", "ateb", "trained on", "1", "4", "62.5", "0.0"]
    assert row[8].startswith("+62.5 [") and row[-1] == "`speechde compare …`"
