"""``speechde results``: the page of all committed results, ``results/README.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechde.cache import atomic_write
from speechde.errors import DataError

EXAMPLES = ("speechde results",)


def results(folder: Annotated[Path, typer.Argument(help="The folder of committed results.")] = Path("results")) -> None:
    """Write FOLDER/README.md anew: one row per run, the baselines, the sweeps; a test fails when it is stale."""
    from speechde.reporting.index import INTRODUCTION, PAGE, index

    text, page = index(folder), folder / PAGE
    opening = INTRODUCTION.partition("`")[0]
    if page.is_file() and not page.read_bytes().startswith(opening.encode()):
        raise DataError(
            f"{page} is not a page that this command wrote, and is not replaced; give the folder of results"
        )
    with atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"results: {page}")
