"""``speechde search INDEX "text" | clip.ogg | picture.png``: what is nearest to a query."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cli.embed import list_dropped
from speechde.cli.options import (
    Device,
    Dtype,
    Json,
    Language,
    Model,
    Prompt,
    language_code,
    open_for,
    print_json,
    print_table,
)
from speechde.errors import ConfigError, DataError

if TYPE_CHECKING:
    from speechde.search.index import Hit

EXAMPLES = (
    'speechde search speech.index "un autobuz de școală galben" --model runs/quickstart/default-s0',
    "speechde search texts.index bear.png --model M -k 5",
    "speechde search texts.index question.ogg --model M --language ro -k 5 --json",
)


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index.")],
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY", help="Texts, audio files, pictures, or anything else that speechde embed takes."
        ),
    ],
    model: Model,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits for each query.")] = 10,
    language: Language = None,
    device: Device = None,
    dtype: Dtype = "float32",
    prompt: Prompt = None,
    json: Json = False,
    text: Annotated[bool, typer.Option("--text", help="Take queries as texts, whatever they look like.")] = False,
    audio: Annotated[bool, typer.Option("--audio", help="Take queries as names of files.")] = False,
) -> None:
    """Find what is nearest to a query, in any language of the index, by voice, text or picture.

    A query that names a file is that file, and any other is a text; one that ends as an audio file or a picture does
    (b.ogg) and names none is an error.

    The model must be the one that made the index. The score is the dot product of the two vectors. The language of the
    query is optional.
    """
    from speechde.search.embed import embed
    from speechde.search.index import SearchIndex
    from speechde.search.items import SPEECH, TEXT, collect

    if text and audio:
        raise ConfigError("--text and --audio exclude each other; give one, or none")
    only = TEXT if text else SPEECH if audio else None
    items, dropped = collect(queries, language_code(language), stdin=sys.stdin.buffer, only=only)
    opened = SearchIndex.load(index)
    encoder = open_for(opened, model, device, dtype)
    opened.check_model(encoder.fingerprint)
    asked = embed(encoder, items, prompt)
    list_dropped([*dropped, *asked.dropped])
    if not asked.items:
        raise DataError(f"none of {len(items)} queries could be used")
    hits = opened.search(asked.vectors, k)
    if json:
        print_json([
            {"query": item.id, "kind": item.kind, "text": item.text, "audio": item.audio, "image": item.image,
             "hits": [{"score": hit.score} | hit.row for hit in some]}
            for item, some in zip(asked.items, hits, strict=True)
        ])  # fmt: skip
        return
    for item, some in zip(asked.items, hits, strict=True):
        if len(asked.items) > 1:
            print(f"# {item.text or item.id}")
        rows = (
            (rank, f"{hit.score:.4f}", hit.row.get("language") or "", *_what(hit)) for rank, hit in enumerate(some, 1)
        )
        print_table(("rank", "score", "language", "text", "id"), rows, numbers=(0, 1))


def _what(hit: Hit) -> tuple[str, str]:
    return hit.row.get("text") or "", hit.id
