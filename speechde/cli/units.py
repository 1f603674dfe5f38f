"""``speechde units AUDIO…``: the unit sequences that a discrete model reads."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import typer

from speechde.cache import atomic_write
from speechde.cli.embed import list_dropped
from speechde.cli.options import Device, Model, Overwrite, open_model, refuse_existing
from speechde.errors import ConfigError, unknown_value
from speechde.text import quoted

SUFFIXES = (".tsv", ".jsonl")
EXAMPLES = (
    "speechde units a.ogg b.ogg --model runs/stamps/default-s0",
    "speechde units clips/ --model M --out units.jsonl",
)


def units(
    audio: Annotated[
        list[str], typer.Argument(metavar="AUDIO", help="Audio files, folders, patterns in quotes, or manifests.")
    ],
    model: Model,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, .tsv or .jsonl; default: standard output.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a clip.")] = False,
) -> None:
    """Print the units of clips, or write them to a file.

    A line is the clip's id, a tab, and its units: numbers from 0, runs merged and unit BPE applied where the model was
    trained so. Only models of a discrete frontend have units. Clips that cannot be used are listed and left out.
    """
    if out and out.suffix.lower() not in SUFFIXES:
        raise unknown_value("--out suffix", out.suffix, SUFFIXES)
    refuse_existing(out, overwrite)
    from speechde.search.embed import units_of
    from speechde.search.items import IMAGE, SPEECH, TEXT, collect
    from speechde.types import Dropped

    items, dropped = collect(audio)
    if written := [item.id for item in items if item.kind == TEXT]:
        raise ConfigError(f"{written[0]} is a text; only clips have units")
    dropped += [Dropped(item.id, "a picture has no units") for item in items if item.kind == IMAGE]
    items = [item for item in items if item.kind == SPEECH]
    encoder = open_model(model, device)
    as_json = json or (out is not None and out.suffix.lower() == ".jsonl")
    lines = (_line(id_, found.tolist(), as_json) for id_, found in units_of(encoder, items, dropped))
    try:
        if out is None:
            sys.stdout.writelines(lines)
        else:
            with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(lines)
    finally:
        list_dropped(dropped)


def _line(id_: str, units: list[int], as_json: bool) -> str:
    if as_json:
        return json_format.dumps({"id": id_, "units": units}, ensure_ascii=False) + "\n"
    return f"{quoted(id_)}\t{' '.join(map(str, units))}\n"
