"""``speechde compare RUN_A RUN_B``: does A beat B over the same queries?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Json, print_json

EXAMPLES = (
    "speechde compare runs/quickstart/default-s0 runs/quickstart/model.init:random-s0",
    "speechde compare RUN_A RUN_B --direction text_to_audio --common --json",
)


def compare(
    run_a: Annotated[Path, typer.Argument(help="Directory of an evaluated run.")],
    run_b: Annotated[Path, typer.Argument(help="Directory of the run it is compared with.")],
    direction: Annotated[
        str, typer.Option(help="What is retrieved from what: audio_to_text, text_to_audio, …")
    ] = "audio_to_text",
    common: Annotated[bool, typer.Option("--common", help="Only the queries that both runs have.")] = False,
    json: Json = False,
) -> None:
    """Compare two evaluated runs query by query.

    Prints the differences in recall@1 for each language and over languages, with the 95 % interval of a paired
    bootstrap over sentences and the p of a sign test. Runs of other queries or galleries are refused, unless only the
    common queries are asked for.
    """
    from speechde.reporting.compare import compare_runs, format_comparison
    from speechde.reporting.terminal import show_markdown

    comparison = compare_runs(run_a, run_b, direction, common)
    if json:
        print_json(comparison.as_dict())
    elif sys.stdout.isatty():
        show_markdown(format_comparison(comparison))
    else:
        print(format_comparison(comparison))
