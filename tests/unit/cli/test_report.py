"""``speechde report``: the files it writes."""

from __future__ import annotations

import json

import pytest

from speechde.cli.report import report
from speechde.errors import DataError
from speechde.reporting.pages import markdown


def test_writes_a_page_in_two_forms_and_its_numbers(runs, tmp_path, capsys):
    report([runs], tmp_path / "out", "A title")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "index.html", "summary.json"]
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    assert markdown(summary, "A title") == (tmp_path / "out/README.md").read_text("utf-8")
    assert "<title>A title</title>" in (tmp_path / "out/index.html").read_text("utf-8")
    assert "out/index.html" in capsys.readouterr().out


def test_a_folder_without_runs_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no metrics\.json"):
        report([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
