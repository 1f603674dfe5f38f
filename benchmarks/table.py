"""The table of ``docs/performance.md``, made from the files of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import FOLDER
from speechde.cache import atomic_write
from speechde.reporting.tables import markdown_table

PAGE = FOLDER.parents[1] / "docs" / "performance.md"
START, END = "<!-- table: python -m benchmarks.table -->", "<!-- end of table -->"
HEADER = ["name", "what", "against", "unit", "ours", "peer", "ratio", "at least", "reached"]


def table(folder: Path = FOLDER) -> str:
    """One row for each file of ``folder``, in the order of their names."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return "\n".join(markdown_table(HEADER, [_row(record) for record in records]))


def page(text: str, folder: Path = FOLDER) -> str:
    """``text`` with its table replaced by that of ``folder``."""
    before, rest = text.split(START)
    return f"{before}{START}\n\n{table(folder)}\n\n{END}{rest.split(END)[1]}"


def update() -> None:
    """Write the table into the page."""
    text = page(PAGE.read_text(encoding="utf-8"))
    with atomic_write(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _row(record: Mapping) -> list[str]:
    numbers = [_number(record[key]) for key in ("ours", "peer")]
    ratio, target = f"{record['ratio']:.2f}×", record["target"]
    asked = ["", ""] if target is None else [f"{target:.2f}×", "yes" if record["reached"] else "no"]
    return [f"`{record['name']}`", record["what"], record["peer_name"], record["unit"], *numbers, ratio, *asked]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    update()
