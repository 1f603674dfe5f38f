"""``speechde report PATH…``: any set of runs on one page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

SUMMARY = "summary.json"
EXAMPLES = ("speechde report runs/ablation --out report", "speechde report runs results --title 'All runs'")


def report(
    paths: Annotated[list[Path], typer.Argument(help="Run directories, or folders that hold runs or results.")],
    out: Annotated[Path, typer.Option(help="Folder for index.html, README.md and summary.json.")] = Path("report"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "speechde: runs compared",
) -> None:
    """Rank runs, draw them and compare each with the default of its recipe: one HTML page, and one in Markdown."""
    from speechde.reporting.archive import write_files
    from speechde.reporting.pages import html, markdown
    from speechde.reporting.summary import find_runs, summarise

    command = ["speechde", "report", *map(str, paths), "--out", str(out), "--title", title]
    summary = {"command": shlex.join(command), **summarise(find_runs(paths))}
    whole = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    pages = {"index.html": html(summary, title), "README.md": markdown(summary, title)}
    write_files(out, pages | {SUMMARY: whole})
    print(f"report: {out / 'index.html'}")
