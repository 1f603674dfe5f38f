"""What ``speechde compare`` prints."""

from __future__ import annotations

import json

import pytest

from speechde.cli.compare import compare
from speechde.errors import ConfigError, DataError


@pytest.fixture
def runs(tmp_path):
    for name, ranks in (("a", (1, 1, 2)), ("b", (2, 1))):
        results = tmp_path / name / "results"
        results.mkdir(parents=True)
        rows = {"per_language": {"ca_es": {"role": "seen", "gallery": 3}}}
        (results / "metrics.json").write_text(json.dumps({"audio_to_text": rows}), encoding="utf-8")
        records = [
            {"direction": "audio_to_text", "lang": "ca_es", "id": f"q{i}", "sentence": f"s{i}", "rank": rank}
            for i, rank in enumerate(ranks)
        ]
        (results / "queries.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return tmp_path / "a", tmp_path / "b"


def test_table(runs, capsys):
    compare([*runs], common=True)
    out = capsys.readouterr().out
    assert "Common queries only" in out and "| ca_es | seen | 2 | 100.0 | 50.0 | +50.0 " in out


def test_json(runs, capsys):
    compare([*runs], common=True, json=True)
    (values,) = json.loads(capsys.readouterr().out)
    assert values["left_out"] == [1, 0]
    assert values["languages"][0]["difference"] == 0.5 and values["means"][0]["won"] == 1


def test_other_queries_are_refused(runs):
    with pytest.raises(DataError, match="'q2'"):
        compare([*runs])


def test_seeds_and_what_is_kept(runs, tmp_path, capsys):
    a, b = runs
    compare([a, a], against=[b], common=True, output=tmp_path / "out")
    said = capsys.readouterr().out
    assert (tmp_path / "out/table.md").read_text("utf-8") == said.removesuffix("\n")
    (kept,) = json.loads((tmp_path / "out/comparison.json").read_text("utf-8"))["comparisons"]
    assert kept["a"] == f"{a} + {a}" and kept["means"][0]["difference"] == 0.5
    with pytest.raises(ConfigError, match="3 runs were given; give two, or seeds of A and --against each seed of B"):
        compare([a, a, b])
