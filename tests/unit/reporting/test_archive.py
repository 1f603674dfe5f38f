"""Archived runs: what comparisons read of them is what they read of the run."""

from __future__ import annotations

import json

import pytest

from speechde.errors import DataError
from speechde.reporting.archive import archive_run, kept_queries, read_metrics, read_queries


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "run" / "results"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"seed": 0}', encoding="utf-8")
    records = [
        {
            "direction": direction,
            "lang": "el_gr",
            "id": id_,
            "sentence": "Ένα πλοίο",
            "rank": rank,
            "retrieved": "x",
        }
        for direction in ("audio_to_text", "text_to_audio")
        for id_, rank in (("a", 1), ("b", 70_000))
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return folder


def test_what_is_kept(results, tmp_path):
    target = tmp_path / "kept" / "run"
    archive_run(results, target)
    whole = [record for record in read_queries(results) if record["direction"] == "audio_to_text"]
    assert [record.pop("retrieved") for record in whole] == ["x", "x"]
    assert list(read_queries(target)) == whole
    assert (target / "metrics.json").read_bytes() == (results / "metrics.json").read_bytes()


def test_a_later_run_takes_the_place(results, tmp_path):
    target = tmp_path / "kept"
    archive_run(results, target)
    (results / "metrics.json").write_text('{"seed": 1}', encoding="utf-8")
    archive_run(results, target, ("text_to_audio",))
    assert json.loads((target / "metrics.json").read_text(encoding="utf-8")) == {"seed": 1}
    assert {record["direction"] for record in read_queries(target)} == {"text_to_audio"}


def test_a_run_that_is_killed_while_it_is_kept_again_leaves_what_was_there(results, tmp_path, monkeypatch):
    target = tmp_path / "kept"
    archive_run(results, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("speechde.reporting.archive.pq.write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        archive_run(results, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


@pytest.mark.parametrize("name", ["hits.parquet", "metrics.json", "queries.jsonl"])
def test_damaged_files_are_named(results, tmp_path, name):
    folder = results
    if name == "hits.parquet":
        folder = tmp_path / "kept"
        archive_run(results, folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        DataError, match=f"{path} is damaged .* delete {folder}, and run the command that made it again"
    ):
        read_metrics(path) if name == "metrics.json" else list(read_queries(folder))


def test_a_folder_without_queries(results):
    (results / "queries.jsonl").unlink()
    assert kept_queries(results) is None and list(read_queries(results)) == []
