"""``speechde embed AUDIO_OR_TEXT… --model M --out vectors.parquet``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cli.options import (
    Device,
    Dim,
    Dtype,
    Json,
    Language,
    Model,
    Overwrite,
    Prompt,
    language_code,
    open_model,
    print_json,
)
from speechde.errors import ConfigError

if TYPE_CHECKING:
    from speechde.types import Dropped

LISTED = 20  # left-out items that are printed; the file's metadata and --json have all
EXAMPLES = (
    "speechde embed clips/ --model runs/quickstart/default-s0 --out speech.parquet",
    "speechde embed album/ --model M --out album.parquet",
    "speechde embed captions.txt --model M --language ro --out texts.parquet",
    "speechde embed corpus.tsv --texts --model M --out texts.parquet",
    "speechde embed clips/ --model M --dim 128 --out speech.parquet",
    "speechde embed 'clips/**/*.ogg' --model M --out speech.parquet --shard 3/16",
    "speechde embed clips/ --model M --out speech.parquet --ray 32",
    "cut -f2 corpus.tsv | speechde embed - --model M --out texts.parquet",
)

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="AUDIO_OR_TEXT",
        help="Audio files; pictures; folders; patterns in quotes; manifests (.tsv, .jsonl, .parquet); .txt files, a "
        "text a line; - for standard input, a text a line; or texts themselves.",
    ),
]


def embed(
    inputs: Inputs,
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write.")],
    language: Language = None,
    texts: Annotated[bool, typer.Option("--texts", help="Take the texts of manifests, not their clips.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="3/16: embed the third of 16 shares of the inputs, and stop.")
    ] = None,
    ray: Annotated[
        int, typer.Option(min=0, help="Embed with so many Ray workers, here or on the cluster of RAY_ADDRESS.")
    ] = 0,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = "float32",
    dim: Dim = None,
    prompt: Prompt = None,
    json: Json = False,
) -> None:
    """Turn clips, texts and pictures into vectors, in one Parquet file.

    Clips and pictures that cannot be used are counted, listed and left out; if none can, that is an error. Clips longer
    than 240 s are embedded in parts, whose mean is taken. The language is optional.

    Stopped at any moment, the same command goes on where it was. To use several machines, give each a share with
    --shard and the same --out on a disk they share, and at the end run the command without --shard; or give all of it
    to a Ray cluster with --ray.
    """
    from speechde.search.embed import embed_items
    from speechde.search.items import collect

    if out.suffix.lower() != ".parquet":
        raise ConfigError(f"--out {out} is written as Parquet; give a name that ends in .parquet")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give the name of a file")
    share = parse_shard(shard)
    items, dropped = collect(inputs, language_code(language), texts=texts, stdin=sys.stdin.buffer)
    encoder = open_model(model, device, dtype, dim)
    make = None
    if ray:
        from speechde.search.ray_embed import Opening, make_with_ray

        make = partial(make_with_ray, Opening(model, encoder.fingerprint, device, dtype, dim), ray)
    how = {"prompt": prompt, "dropped": dropped, "shard": share, "overwrite": overwrite, "make": make}
    report = embed_items(encoder, items, out, model=model, **how)
    list_dropped(report.dropped)
    if json:
        print_json(asdict(report) | {"out": str(out), "shard": shard, "dropped_counts": report.dropped_counts()})
    elif share[1] > 1:
        print(f"share {shard}: {report.vectors} vectors; when all are done, run the command without --shard")
    else:
        print(f"{out}: {report.vectors} vectors, {len(report.dropped)} inputs left out")


def parse_shard(shard: str | None) -> tuple[int, int]:
    """``3/16`` → ``(3, 16)``; None is ``(1, 1)``, all of it.

    Raises:
        ConfigError: it is not such a pair.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard {shard} is no share; give NUMBER/COUNT, from 1/16 to 16/16 for 16 of them")
    return int(match[1]), int(match[2])


def list_dropped(dropped: Sequence[Dropped]) -> None:
    """Say on standard error what was left out and why, the first ``LISTED`` of it by name."""
    for item in dropped[:LISTED]:
        print(f"left out: {item.id}: {item.reason}{f' ({item.detail})' if item.detail else ''}", file=sys.stderr)
    if len(dropped) > LISTED:
        print(f"left out: {len(dropped) - LISTED} more", file=sys.stderr)
