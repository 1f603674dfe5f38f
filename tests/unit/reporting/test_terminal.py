"""Tables on a terminal: as wide as it is, whole, and with every cell."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console

from speechde.reporting import terminal
from speechde.reporting.tables import markdown_table

HEAD = ["code", "name", "R@1 [95 % CI]", "R@1, gallery 36", "WER", "T→A R@1", "A→En R@1", "A→En BLEU", "random LLM R@1"]
ROWS = [["ca_es", "Catalan", "69.4 [63.0, 75.3]", "82.5", "42.9", "70.0", "19.6", "–", "3.1"],
        ["ja_jp", "Japanese", "9.4 [3.0, 15.3]", "12.5", "42.9 \\*", "7.0", "1.6", "1.4", "0.4"]]  # fmt: skip


def shown(capsys, monkeypatch, width: int) -> list[str]:
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(width=width))
    terminal.show_markdown("\n".join(["# a title", "", *markdown_table(HEAD, ROWS), "", "and a note"]))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("width", "parts"), [(40, 4), (80, 2), (130, 1), (200, 1)])
def test_a_wide_table_becomes_several(capsys, monkeypatch, width, parts):
    lines = shown(capsys, monkeypatch, width)
    assert max(map(cell_len, lines)) <= width
    for first, cells in (("code", HEAD), ("ca_es", ROWS[0]), ("ja_jp", [*ROWS[1][:4], "42.9 *", *ROWS[1][5:]])):
        own = [line for line in lines if line.strip().startswith(first)]
        assert len(own) == parts, "each part begins with the first column, and no cell is folded"
        found = [cell for line in own for cell in line.strip().split("  ") if cell.strip() not in ("", first)]
        assert [cell.strip() for cell in found] == cells[1:]
    assert any("a title" in line for line in lines) and any("and a note" in line for line in lines)
