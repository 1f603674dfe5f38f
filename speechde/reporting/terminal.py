"""Markdown on a terminal: a table that is too wide becomes several, each with its first column; nothing is folded."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

LOG_WIDTH = 200  # of what is no terminal
GAP = 2  # between columns


def show_markdown(text: str) -> None:
    """Print Markdown on standard output, as wide as the terminal."""
    console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
    for is_table, lines in groupby(text.splitlines(), lambda line: line.startswith("| ")):
        if is_table:
            head, _, *rows = [_cells(line) for line in lines]
            for table in tables(head, rows, console.width):
                console.print(table)
        else:
            console.print(Markdown("\n".join(lines)))


def tables(head: list[str], rows: list[list[str]], width: int) -> Iterator[Table]:
    """One table, or of a wide one several, that hold its columns in order and begin with its first one."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(cell_len, column)) + GAP for column in columns]
    parts: list[list[int]] = [[0]]
    for column in range(1, len(columns)):
        if len(parts[-1]) > 1 and sum(widths[i] for i in [*parts[-1], column]) > width - 2:  # the edges
            parts.append([0])
        parts[-1].append(column)
    for part in parts:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))  # and the box's own
        for column in part:
            table.add_column(Text(head[column]), overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[column]) for column in part))
        yield table


def _cells(line: str) -> list[str]:
    """The cells of a row, as they are read: without the marks of Markdown."""
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells]
