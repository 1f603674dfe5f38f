"""``speechde results``: the page of all committed results, ``results/README.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechde.cache import atomic_write

EXAMPLES = ("speechde results",)


def results(folder: Annotated[Path, typer.Argument(help="The folder of committed results.")] = Path("results")) -> None:
    """Write FOLDER/README.md anew: one row per run, the baselines, the sweeps; a test fails when it is stale."""
    from speechde.reporting.index import PAGE, index

    text = index(folder)
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"results: {folder / PAGE}")
