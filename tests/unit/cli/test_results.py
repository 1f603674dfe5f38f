"""``speechde results``: the file it writes."""

from __future__ import annotations

import pytest

from speechde.cli.results import results
from speechde.errors import DataError
from speechde.reporting.index import index


def test_writes_the_page_into_the_folder(runs, capsys):
    results(runs)
    text = (runs / "README.md").read_text("utf-8")
    assert text == index(runs) and "README.md" in capsys.readouterr().out
    results(runs)
    assert (runs / "README.md").read_text("utf-8") == text  # the page is no input of itself


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="gone is not a folder"):
        results(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_page_of_somebody_else_is_not_replaced(runs):
    (runs / "README.md").write_text("# Our project\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"README\.md is not a page that this command wrote"):
        results(runs)
    assert (runs / "README.md").read_text("utf-8") == "# Our project\n"
