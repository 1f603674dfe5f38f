"""``speechde index build | add | info``: vectors made searchable."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Json, Overwrite, print_json, print_table
from speechde.errors import DataError

EXAMPLES = {
    "build": (
        "speechde index build speech.parquet --out speech.index",
        "speechde index build shards/*.parquet --out big.index --kind ivfpq",
    ),
    "add": ("speechde index add speech.index new.parquet",),
    "info": ("speechde index info speech.index --json",),
}

Files = Annotated[list[Path], typer.Argument(metavar="VECTORS", help="Files that speechde embed wrote.")]
Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index.")]


def build(
    vectors: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    kind: Annotated[
        str,
        typer.Option(
            help="flat (exact), hnsw, ivfsq or ivfpq (on disk, compressed), or auto: by the number of vectors."
        ),
    ] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make an index of files of vectors.

    auto takes flat up to 50,000 vectors, hnsw up to a million, ivfsq above. The last two find nearly all of what flat
    finds, in less time; ivfsq is a quarter as large, and is searched on disk. ivfpq is a sixteenth as large, and finds
    less.
    """
    from speechde.search.index import SearchIndex, unfinished

    if out.exists() and not overwrite and not unfinished(out):
        raise DataError(f"{out} is there; add to it (speechde index add), name another folder, or give --overwrite")
    SearchIndex.build_from(vectors, kind).save(out, overwrite)
    _show(out, json)


def add(index: Folder, vectors: Files, json: Json = False) -> None:
    """Add files of vectors of the same model to an index; its kind stays.

    An id that is in the index already is an error, and nothing is added.
    """
    from speechde.search.index import SearchIndex
    from speechde.search.vectors import read_vectors

    opened, found = SearchIndex.load(index, mapped=False), read_vectors(vectors)
    opened.add(found.vectors, found.rows, fingerprint=found.fingerprint)
    opened.save(index)
    _show(index, json)


def info(index: Folder, json: Json = False) -> None:
    """Say what an index holds, after checking that its files are whole."""
    _show(index, json)


def _show(folder: Path, json: bool) -> None:
    """What is on disk, read back."""
    from speechde.search.index import SearchIndex

    index = SearchIndex.load(folder, mapped=False)
    facts = {"index": str(folder)} | asdict(index.info)
    facts |= {"bytes": sum(path.stat().st_size for path in folder.iterdir()), "columns": index.rows.column_names}
    for name in ("kind", "language"):
        if name in index.rows.column_names:
            counts = index.rows[name].value_counts().to_pylist()
            facts[f"by_{name}"] = {str(each["values"] or "unknown"): each["counts"] for each in counts}
    if json:
        print_json(facts)
        return
    listed = ((name, _plain(value)) for name, value in facts.items())
    print_table(("what", "value"), listed)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
