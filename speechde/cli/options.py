"""Options that several commands have, spelled and explained in one place; and what opens a model or prints a table."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechde import languages
from speechde.errors import ConfigError, DataError, unknown_value

if TYPE_CHECKING:
    from speechde import SpeechTextEncoder
    from speechde.search.index import SearchIndex

DTYPES = ("float32", "bfloat16", "float16")

Model = Annotated[str, typer.Option("--model", "-m", help="Model folder, run directory, or hub id (org/name).")]
Language = Annotated[
    str | None, typer.Option("--language", "-l", help="Language of all inputs (ro, ro_ro, Romanian); not needed.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the GPU when there is one.")]
Dtype = Annotated[str, typer.Option(help=f"Of the weights in memory: {', '.join(DTYPES)}.")]
Dim = Annotated[
    int | None, typer.Option(help="Size of the vectors, one that the model was trained at; default: the largest.")
]
Prompt = Annotated[str | None, typer.Option(help="Name of a prompt of the model, such as qa-query or query.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def open_model(
    name: str, device: str | None = None, dtype: str = "float32", dim: int | None = None
) -> SpeechTextEncoder:
    """The encoder that ``--model``, ``--device``, ``--dtype`` and ``--dim`` ask for.

    Raises:
        ConfigError: a device or number format that is unknown, or that this machine does not have; a size that the
            model was not trained at.
        AssetError: there is no such model.
    """
    if dtype not in DTYPES:
        raise unknown_value("--dtype", dtype, DTYPES)
    import torch
    from transformers.utils import logging

    from speechde import SpeechTextEncoder
    from speechde.progress import quiet_libraries

    quiet_libraries()
    logging.set_verbosity_error()
    check_device(device)
    return SpeechTextEncoder.from_pretrained(Path(name) if Path(name).is_dir() else name, device=device,
                                             dtype=getattr(torch, dtype), dim=dim)  # fmt: skip


def open_for(index: SearchIndex, name: str, device: str | None, dtype: str) -> SpeechTextEncoder:
    """``open_model``, at the size of the vectors of an index where the model has it."""
    from speechde.checkpoint.folder import find_model, read_settings

    sizes = read_settings(find_model(name)).dims
    return open_model(name, device, dtype, index.info.dim if index.info.dim in sizes else None)


def check_device(device: str | None) -> None:
    """Refuse a device that is unknown, or that this machine does not have, as ``ConfigError``."""
    import torch

    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise ConfigError(
            f"--device: {device!r} cannot be used here; speechde doctor lists what there is, cpu always works"
        ) from error


def refuse_existing(out: Path | None, overwrite: bool) -> None:
    """Refuse to write a file that is there, as ``DataError``; None is standard output."""
    if out and out.exists() and not overwrite:
        raise DataError(f"{out} is there; name another file, or give --overwrite")


def language_code(tag: str | None) -> str | None:
    """The FLEURS code of ``--language``."""
    return None if tag is None else languages.resolve(tag)


def print_json(value: Any) -> None:
    """One JSON document on standard output, in ASCII where that cannot take all of Unicode."""
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=not unicode, allow_nan=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> None:
    """A table on standard output: aligned for a terminal, tab-separated for a pipe, so that nothing is cut there.

    ``numbers`` are the columns that are aligned on the right.
    """
    cells = [[re.sub(r"[\t\r\n]+", " ", str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [list(head), *cells]))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, name in enumerate(head):
        table.add_column(name, justify="right" if column in numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)
