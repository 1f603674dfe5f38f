"""Markdown tables whose cells hold what would end them."""

from __future__ import annotations

import pytest

from speechde.reporting.tables import markdown_table


@pytest.mark.parametrize("cell", ["task: search | query: ", r"task: search \| query: "])
def test_a_bar_in_a_cell_does_not_end_it(cell):
    assert markdown_table(["a"], [[cell]]) == ["| a |", "| --- |", r"| task: search \| query:  |"]
