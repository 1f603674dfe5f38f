"""``speechde compare RUN_A RUN_B``: does A beat B over the same queries?"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Json, print_json
from speechde.errors import ConfigError

EXAMPLES = (
    "speechde compare runs/quickstart/default-s0 runs/quickstart/model.init:random-s0",
    "speechde compare RUN_A RUN_B --direction text_to_audio --common --json",
    "speechde compare tuned-s0 tuned-s1 tuned-s2 --against untrained --output comparison",
)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_A RUN_B", help="Directories of evaluated runs, or of text evaluations.")
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="B, once for each seed; all of the others are then seeds of A."),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(help="What is compared: audio_to_text (the default), text_to_audio …; a task of texts (all)."),
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Only the queries that both have.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for comparison.json and table.md.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare two evaluated runs, or two text evaluations, query by query.

    Prints the differences in recall@1 (of ATEB's sets: accuracy) for each language and over languages, with the 95 %
    interval of a paired bootstrap over sentences and the p of a sign test. Of several seeds a query counts by the share
    that answer it. Runs of other queries or galleries are refused, unless only the common queries are asked for.
    """
    from speechde.reporting.compare import compare_all, format_comparison, write_comparison
    from speechde.reporting.terminal import show_markdown

    if not against and len(runs) != 2:
        raise ConfigError(f"{len(runs)} runs were given; give two, or seeds of A and --against each seed of B")
    one, other = (runs, against) if against else (runs[:1], runs[1:])
    found = compare_all(one, other, direction, common)
    if output:
        write_comparison(output, found, shlex.join(["speechde", *sys.argv[1:]]))
    if json:
        print_json([each.as_dict() for each in found])
    elif sys.stdout.isatty():
        show_markdown("\n".join(map(format_comparison, found)))
    else:
        print("\n".join(map(format_comparison, found)))
