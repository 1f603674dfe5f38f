"""``speechde mine A B --margin ratio``: pairs of two sets that say the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechde.cache import atomic_write
from speechde.cli.options import Json, Overwrite, print_json, refuse_existing
from speechde.errors import DataError
from speechde.text import quoted

if TYPE_CHECKING:
    from speechde.search.mining import Pair

COLUMNS = ("id", "kind", "language", "text", "audio")
EXAMPLES = (
    "speechde mine speech.parquet texts.parquet --margin ratio --threshold 1.05 --out pairs.tsv",
    "speechde mine romanian.parquet bulgarian.parquet --margin distance -k 8 --json",
)


def mine(
    a: Annotated[Path, typer.Argument(metavar="A", help="File that speechde embed wrote.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same model.")],
    margin: Annotated[str, typer.Option(help="ratio or distance.")] = "ratio",
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours that a pair is compared with.")] = 4,
    threshold: Annotated[float | None, typer.Option(help="Least margin of a pair; default: all pairs.")] = None,
    neighbours: Annotated[str, typer.Option(help="flat: exact; hnsw: faster, may miss some; auto: by size.")] = "flat",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="TSV to write; default: standard output.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the pairs of two sets of clips or texts that say the same, speech or text on either side.

    The margin of a pair is its cosine compared with those of its k nearest neighbours on both sides. Pairs are mutual:
    each is the other's best. They are written as TSV, best first: score, then id, kind, language, text and audio of
    both sides; a field with a quotation mark, a tab or a line break is quoted, as pandas and spreadsheets read it. With
    ratio, 1 is no better than the neighbours; a useful threshold is 1.03 to 1.1, and depends on the model: look at some
    pairs.
    """
    from speechde.search.mining import mine as find
    from speechde.search.vectors import read_headers, read_vectors

    if a.resolve() == b.resolve():
        raise DataError(f"{a} was given twice; every row would be its own best pair, so give two files")
    refuse_existing(out, overwrite)
    read_headers([a, b])  # refuses two models before it reads the vectors
    left, right = read_vectors([a]), read_vectors([b])
    pairs = find(left.vectors, right.vectors, margin=margin, k=k, threshold=threshold, neighbours=neighbours)
    rows_a, rows_b = left.rows.to_pylist(), right.rows.to_pylist()
    found = [(pair, rows_a[pair.a], rows_b[pair.b]) for pair in pairs]
    if out:
        with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(_tsv(found))
    if json:
        print_json([{"score": pair.score, "a": _known(row_a), "b": _known(row_b)} for pair, row_a, row_b in found])
    elif out:
        print(f"{out}: {len(pairs)} pairs of {len(left)} and {len(right)} rows")
    else:
        sys.stdout.writelines(_tsv(found))


def _known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in COLUMNS}


def _cell(value: str | None, name: str) -> str:
    """Texts are for reading and have their spaces made plain; ids and paths name files and stay as they are."""
    return " ".join((value or "").split()) if name == "text" else value or ""


def _tsv(found: Sequence[tuple[Pair, dict, dict]]) -> Iterator[str]:
    yield "\t".join(["score", *(f"{name}_{side}" for side in "ab" for name in COLUMNS)]) + "\n"
    for pair, *rows in found:
        cells = [quoted(_cell(row[name], name)) for row in rows for name in COLUMNS]
        yield "\t".join([f"{pair.score:.6f}", *cells]) + "\n"
