"""Vectors in a Parquet file: what ``speechde embed`` writes, and ``index`` and ``mine`` read.

One row per clip, text or picture, with the columns of ``SCHEMA`` and ``embedding``, a list of ``dim`` float32 numbers.
Files of before pictures have no column ``image`` and are read as if it were null. The metadata of the file (key
``speechde``) is JSON: format, dim, model, fingerprint, and what was left out or noted. Any reader of Parquet reads such
a file (pandas, polars, datasets, DuckDB).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechde.cache import atomic_write
from speechde.errors import DataError
from speechde.types import Dropped

FORMAT = 1
KEY = b"speechde"
EMBEDDING = "embedding"
BLOCK = 16_384  # rows read at once
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "kind": pa.string(),  # speech, text or image
        "language": pa.string(),  # FLEURS code; null where it is not known
        "text": pa.string(),  # the text, or the clip's transcript; null where it has none
        "audio": pa.string(),  # path of the clip; null for a text or a picture
        "image": pa.string(),  # path of the picture; null for a text or a clip
        "seconds": pa.float32(),  # of the clip, before silence at its ends is cut; null for the others
    }
)


@dataclass(frozen=True)
class Header:
    """The metadata of a file. ``job`` names what it was made from, so that a finished job is not run again."""

    dim: int
    model: str
    fingerprint: str
    job: str = ""
    dropped: list[Dropped] = field(default_factory=list)
    noted: list[Dropped] = field(default_factory=list)
    format: int = FORMAT

    def schema(self) -> pa.Schema:
        """The schema of a file with this header."""
        vector = pa.field(EMBEDDING, pa.list_(pa.float32(), self.dim))
        return SCHEMA.append(vector).with_metadata({KEY: json.dumps(asdict(self), ensure_ascii=False)})


@dataclass(frozen=True)
class Vectors:
    """Vectors ``(n, dim)`` float32 of one model, and the rows they belong to (without ``embedding``)."""

    vectors: np.ndarray
    rows: pa.Table
    model: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)


def write_vectors(path: Path, header: Header, rows: Sequence[Mapping], vectors: np.ndarray) -> None:
    """Write ``vectors (n, dim)`` and a row of ``SCHEMA`` for each; the file appears whole or not at all."""
    columns = [pa.array([row.get(name) for row in rows], kind) for name, kind in zip(SCHEMA.names, SCHEMA.types,
               strict=True)]  # fmt: skip
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns.append(pa.FixedSizeListArray.from_arrays(flat, header.dim))
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=header.schema()), temporary)


def read_header(path: Path) -> Header:
    """The metadata of a file.

    Raises:
        DataError: it is missing, no Parquet file, or not one of these.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        stated = json.loads(metadata[KEY])
        if stated["format"] != FORMAT:
            raise DataError(f"{path} has format {stated['format']}, this version reads {FORMAT}; embed anew")
        lists = {name: [Dropped(**item) for item in stated.pop(name)] for name in ("dropped", "noted")}
        return Header(**stated, **lists)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; give a file that speechde embed wrote") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} does not say which model made its vectors; write it with speechde embed") from error
    except PermissionError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable Parquet file: {_first_line(error)}") from error


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """The metadata of files that belong together.

    Raises:
        DataError: one cannot be read, or they are of different models.
    """
    headers = [read_header(path) for path in paths]
    for path, header in zip(paths, headers, strict=True):
        if header.fingerprint != headers[0].fingerprint:
            raise DataError(
                f"{path} has vectors of the model {header.fingerprint} ({header.model}), {paths[0]} of "
                f"{headers[0].fingerprint} ({headers[0].model}); vectors of two models do not compare"
            )
    return headers


def read_vectors(paths: Iterable[Path]) -> Vectors:
    """Vectors of one or several files, joined in order.

    Raises:
        DataError: no file; one that cannot be read; files of different models.
    """
    paths = [Path(path) for path in paths]
    headers = read_headers(paths)
    if not paths:
        raise DataError("no file of vectors was given")
    tables = [_read_table(path) for path in paths]
    arrays = [_array(table, header.dim) for table, header in zip(tables, headers, strict=True)]
    rows = pa.concat_tables(
        [table.drop_columns(EMBEDDING).replace_schema_metadata() for table in tables], promote_options="default"
    )
    return Vectors(np.concatenate(arrays), rows, headers[0].model, headers[0].fingerprint)


def read_blocks(paths: Iterable[Path]) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Vectors ``(n, dim)`` float32 and rows of files, at most ``BLOCK`` at a time, in order.

    Raises:
        DataError: a file cannot be read.
    """
    for path in paths:
        dim = read_header(path).dim
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BLOCK):
                    table = pa.Table.from_batches([batch])
                    yield _array(table, dim), table.drop_columns(EMBEDDING).replace_schema_metadata()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged ({_first_line(error)}); embed anew") from error


def read_rows(paths: Iterable[Path], rows: np.ndarray, dim: int) -> np.ndarray:
    """The vectors ``(n, dim)`` float32 of some rows, in rising order, of files one after another."""
    out, start = np.empty((len(rows), dim), np.float32), 0
    for vectors, _ in read_blocks(paths):
        first, last = np.searchsorted(rows, (start, start + len(vectors)))
        out[first:last] = vectors[rows[first:last] - start]
        start += len(vectors)
    return out


def join(paths: Sequence[Path], out: Path, header: Header) -> None:
    """Write the rows of ``paths`` into one file, holding one of them in memory at a time."""
    with atomic_write(out) as temporary, pq.ParquetWriter(temporary, header.schema()) as writer:
        for path in paths:
            if len(table := _read_table(path)):
                writer.write_table(_with_columns(table, header))


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({_first_line(error)}); delete it, and embed anew") from error


def _with_columns(table: pa.Table, header: Header) -> pa.Table:
    """The table of a part with all columns; one of before pictures lacks theirs."""
    every = pa.concat_tables([header.schema().empty_table(), table], promote_options="default")
    return every.replace_schema_metadata(header.schema().metadata)


def _array(table: pa.Table, dim: int) -> np.ndarray:
    chunks = [chunk.flatten().to_numpy() for chunk in table[EMBEDDING].chunks]
    return np.concatenate([np.empty(0, np.float32), *chunks]).reshape(-1, dim)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
