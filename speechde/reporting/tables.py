"""Names, colours and cells that tables and charts share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ROLE_NAMES = {
    "seen": "seen",
    "synthetic_only": "heard as synthetic speech alone",
    "zero_shot": "zero-shot",
    "proxy": "zero-shot, proxy voice",
}
# apart for colour-blind readers too (Okabe and Ito)
ROLE_COLOURS = {"seen": "#0072b2", "synthetic_only": "#009e73", "zero_shot": "#e69f00", "proxy": "#56b4e9"}
CHANCE_COLOUR = "#cc0000"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table; a bar in a cell, which would end it, is escaped where it is not yet."""
    lines = (header, ["---"] * len(header), *rows)
    return ["| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in cells) + " |" for cells in lines]


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def recall_cell(row: Mapping, score: str = "recall@1") -> str:
    """Recall@1, or another score, with its interval where it has one."""
    bounds = row["ci95"] if score == "recall@1" else row.get(f"{score}_ci95")
    interval = "" if bounds is None else f" [{percent(bounds[0])}, {percent(bounds[1])}]"
    return percent(row[score]) + interval


def points_cell(difference: float, ci95: Sequence[float]) -> str:
    """A difference in points of recall@1, with its interval."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in (difference, *ci95)))
