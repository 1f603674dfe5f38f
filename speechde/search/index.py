"""Vectors that can be searched: a FAISS index and, beside it, a Parquet table that says what each vector is.

A folder with three files:

    index.json            format, kind, metric, dim, count, model, fingerprint; name, size and SHA-256 of the other two
    index-<key>.faiss     the vectors, as FAISS writes them
    rows-<key>.parquet    one row per vector, in order: column ``id`` (unique), and any others; of kinds that are
                          mapped an Arrow file, ``rows-<key>.arrow``

A save writes both data files under new names, and then replaces ``index.json``, which is what names them. Killed at
any moment, it leaves the old index or the new one, whole; a folder cannot be replaced that way by renaming it. Of a
first save it leaves what is no index yet: files of those names without ``index.json``, which the next save takes over.

Scores are dot products, as in evaluation; ``search.kinds`` has the kinds. Those of lists (``MAPPED``) are opened
without reading them: a query reads the lists that it looks into and the rows that it finds. Their sizes alone are then
compared with those that were written; ``load(folder, mapped=False)`` reads and hashes all.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from speechde.cache import atomic_write, sha256_file
from speechde.errors import AssetError, DataError, unknown_value
from speechde.progress import progress
from speechde.search.kinds import KINDS, MAPPED, add_vectors, kind_for, new_index, read_faiss, sample_for, write_faiss
from speechde.search.vectors import read_blocks, read_headers

FORMAT = 1
INFO = "index.json"
CHUNK = 1_000_000  # rows of a block of an Arrow file
LOCK = ".lock"
WAIT = 60  # seconds for another process that saves
_PATTERNS = ("index-*.faiss", "rows-*.parquet", "rows-*.arrow", ".tmp-*")

Rows = pa.Table | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One found vector: its dot product with the query, its id, and its row of the table."""

    score: float
    id: str
    row: dict[str, Any]


@dataclass(frozen=True)
class IndexInfo:
    """What ``index.json`` says of an index; ``model`` is a name for people, ``fingerprint`` decides what fits."""

    kind: str
    dim: int
    count: int
    model: str
    fingerprint: str
    metric: str = "inner_product"
    format: int = FORMAT


class SearchIndex:
    """Vectors of one model with their rows; make one with ``build`` or ``load``."""

    def __init__(self, index: faiss.Index, rows: pa.Table, kind: str, model: str, fingerprint: str) -> None:
        self._index, self.rows = index, rows
        self._kind, self._model, self._fingerprint = kind, model, fingerprint
        self._mapped = False
        self._origin: tuple[Path, str] | None = None  # folder and index.json that this was read from

    @classmethod
    def build(cls, vectors: np.ndarray, rows: Rows, *, model: str, fingerprint: str, kind: str = "auto") -> SearchIndex:
        """Index ``vectors (n, dim)``; ``rows`` has a mapping, or a row of a table, for each, with a unique ``id``.

        Args:
            model: name of the model, to be shown.
            fingerprint: ``SpeechTextEncoder.fingerprint`` of the model that made the vectors.
            kind: one of ``KINDS``, or ``auto``: what ``kind_for`` takes for so many vectors.

        Raises:
            ConfigError: an unknown kind.
            DataError: no vectors, or too few for the kind; shapes that do not fit; NaN; ids that repeat.
        """
        if kind not in (*KINDS, "auto"):
            raise unknown_value("index kind", kind, (*KINDS, "auto"))
        vectors = _checked(vectors)
        if not len(vectors):
            raise DataError("an index needs at least one vector; none was given")
        table = _table(rows, len(vectors))
        kind = kind_for(len(vectors)) if kind == "auto" else kind
        index = new_index(vectors, kind)
        add_vectors(index, vectors)
        return cls(index, table, kind, model, fingerprint)

    @classmethod
    def build_from(cls, files: Sequence[Path], kind: str = "auto") -> SearchIndex:
        """Index files of vectors (``search.vectors``), as ``build`` does, with a block of their vectors in memory.

        Raises:
            ConfigError, DataError: as ``build`` and ``read_headers``.
        """
        if kind not in (*KINDS, "auto"):
            raise unknown_value("index kind", kind, (*KINDS, "auto"))
        headers = read_headers(files)
        count = sum(pq.read_metadata(path).num_rows for path in files)
        if not count:
            raise DataError("an index needs at least one vector; none was given")
        kind = kind_for(count) if kind == "auto" else kind
        index = new_index(_checked(sample_for(kind, files, count, headers[0].dim)), kind, count)
        tables = []
        with progress("index", count, "vectors") as advance:
            for vectors, rows in read_blocks(files):
                index.add(_checked(vectors))
                tables.append(rows)
                advance(len(vectors))
        return cls(
            index,
            _table(pa.concat_tables(tables, promote_options="default"), count),
            kind,
            headers[0].model,
            headers[0].fingerprint,
        )

    @property
    def info(self) -> IndexInfo:
        """Kind, sizes and model."""
        return IndexInfo(self._kind, self._index.d, self._index.ntotal, self._model, self._fingerprint)

    def __len__(self) -> int:
        return self._index.ntotal

    def check_model(self, fingerprint: str) -> None:
        """Refuse a model that did not make this index.

        Raises:
            DataError: its fingerprint is another.
        """
        if fingerprint != self._fingerprint:
            raise DataError(
                f"the index holds vectors of the model {self._fingerprint} ({self._model}), these are of the model "
                f"{fingerprint}; use that model, or build an index with this one"
            )

    def add(self, vectors: np.ndarray, rows: Rows, *, fingerprint: str) -> None:
        """Add vectors of the same model. The kind stays; the centroids of lists are not fitted again.

        Raises:
            DataError: vectors of another model or width, NaN, or an id that is there already; an index that is mapped.
                Nothing is added.
        """
        self._refuse_mapped()
        vectors = self._fitting(vectors, fingerprint)
        table = _table(rows, len(vectors))
        there = table["id"].filter(pc.is_in(table["id"], value_set=self.rows["id"].combine_chunks()))
        if len(there):
            raise DataError(
                f"{len(there)} ids are in the index already (first: {there[0].as_py()!r}); give new ones, or build the "
                "index again"
            )
        try:
            joined = pa.concat_tables([self.rows, table], promote_options="default")
        except pa.ArrowException as error:
            raise DataError(f"the rows do not fit those of the index: {error}") from error
        add_vectors(self._index, vectors)
        self.rows = joined

    def search(self, queries: np.ndarray, k: int = 10, *, fingerprint: str | None = None) -> list[list[Hit]]:
        """The best ``k`` of each query ``(n, dim)`` or ``(dim,)``, best first; fewer where the index has fewer.

        Args:
            fingerprint: of the model that made the queries; None leaves that unchecked.

        Raises:
            DataError: queries of another model or width, NaN, or ``k`` below 1.
        """
        if k < 1:
            raise DataError(f"k={k} is not a number of hits; give 1 or more")
        queries = self._fitting(np.atleast_2d(queries), fingerprint)
        scores, found = self._index.search(queries, min(k, len(self)))
        hits = []
        for row_scores, row_found in zip(scores, found, strict=True):
            kept = row_found >= 0  # approximate kinds fill up with -1
            rows = [
                self.rows.slice(row, 1).to_pylist()[0] for row in row_found[kept].tolist()
            ]  # take would join chunks
            pairs = zip(row_scores[kept].tolist(), rows, strict=True)
            hits.append([Hit(score, row["id"], row) for score, row in pairs])
        return hits

    def save(self, folder: str | Path, overwrite: bool = True) -> None:
        """Write the folder, replacing an index that is there; whatever stops it, an old index stays whole.

        Args:
            overwrite: False refuses to replace an index.

        Raises:
            DataError: the folder holds something else, or another process has changed the index since it was loaded;
                or this index is mapped.
            OSError: it cannot be written.
        """
        self._refuse_mapped()
        folder = Path(folder)
        if folder.exists() and not (folder / INFO).is_file() and not unfinished(folder):
            raise DataError(f"{folder} is there and is no index; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / LOCK, timeout=WAIT):
                if not overwrite and (folder / INFO).is_file():
                    raise DataError(f"{folder} is there; add to it, name another folder, or overwrite it")
                self._save(folder)
        except Timeout as error:
            raise DataError(f"{folder} has been written to by another process for {WAIT} s; try again later") from error
        finally:
            if {path.name for path in folder.iterdir()} <= {LOCK}:  # nothing came of a new folder
                shutil.rmtree(folder)

    def _save(self, folder: Path) -> None:
        if self._origin and self._origin[0] == folder.resolve() and _read_text(folder / INFO) != self._origin[1]:
            raise DataError(f"{folder} was changed by another process since it was read; load it again, and add again")
        key = uuid.uuid4().hex[:8]
        suffix = "arrow" if self._kind in MAPPED else "parquet"
        paths = {"vectors": folder / f"index-{key}.faiss", "rows": folder / f"rows-{key}.{suffix}"}
        try:
            with atomic_write(paths["vectors"]) as temporary:
                write_faiss(self._index, temporary)
            with atomic_write(paths["rows"]) as temporary:
                _write_rows(self.rows, temporary)
            files = {
                part: {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for part, path in paths.items()
            }
            text = json.dumps(asdict(self.info) | {"files": files}, indent=2, ensure_ascii=False) + "\n"
            with atomic_write(folder / INFO) as temporary:
                temporary.write_text(text, encoding="utf-8")
            self._origin = folder.resolve(), text
        finally:  # what failed, or else the older index and whatever a killed save left
            kept = _named(folder)
            for path in [path for pattern in _PATTERNS for path in folder.glob(pattern)]:
                if kept is not None and path.name not in kept:
                    path.unlink()

    @classmethod
    def load(cls, folder: str | Path, mapped: bool = True) -> SearchIndex:
        """Read an index whose files are those that were written.

        Args:
            mapped: leave the vectors and rows of kinds of ``MAPPED`` where they are, to be searched and no more.

        Raises:
            AssetError: there is none, it is damaged, or a newer version wrote it.
        """
        folder = Path(folder)
        text = _read_text(folder / INFO)
        try:
            return cls._load(folder, text, mapped)
        except AssetError:
            # another process that saves between two reads removes the files of the older index.json
            if (newer := _read_text(folder / INFO)) == text:
                raise
            return cls._load(folder, newer, mapped)

    @classmethod
    def _load(cls, folder: Path, text: str, mapped: bool) -> SearchIndex:
        try:
            stated = json.loads(text)
            if stated["format"] != FORMAT:
                raise AssetError(f"{folder} has format {stated['format']}, this version reads {FORMAT}; build it again")
            files = stated.pop("files")
            info = IndexInfo(**stated)
            mapped = mapped and info.kind in MAPPED
            paths = {part: _verified(folder, files[part], not mapped) for part in ("vectors", "rows")}
            index = read_faiss(paths["vectors"], mapped)
            rows = _read_rows(paths["rows"], mapped)
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
            if isinstance(error, AssetError | PermissionError):
                raise
            raise AssetError(f"{folder} is damaged ({error}); build it again, or restore a copy") from error
        if not info.count == index.ntotal == len(rows) or info.dim != index.d:
            raise AssetError(f"{folder} is damaged: its files disagree on the number of vectors; build it again")
        loaded = cls(index, rows, info.kind, info.model, info.fingerprint)
        loaded._origin, loaded._mapped = (folder.resolve(), text), mapped
        return loaded

    def _refuse_mapped(self) -> None:
        if self._mapped:
            raise DataError(
                "this index was opened to be searched; load it with mapped=False to add to it or to save it"
            )

    def _fitting(self, vectors: np.ndarray, fingerprint: str | None) -> np.ndarray:
        if fingerprint is not None:
            self.check_model(fingerprint)
        vectors = _checked(vectors)
        if vectors.shape[1] != self._index.d:
            raise DataError(f"vectors of {vectors.shape[1]} numbers do not fit an index of {self._index.d}")
        return vectors


def _checked(vectors: np.ndarray) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise DataError(f"vectors have shape {vectors.shape}; give (n, dim)")
    if bad := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise DataError(f"{bad} of {len(vectors)} vectors are not finite; leave them out")
    return vectors


def _table(rows: Rows, count: int) -> pa.Table:
    try:
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
    except pa.ArrowException as error:
        raise DataError(f"the rows are no table: {error}") from error
    if len(table) != count:
        raise DataError(f"{len(table)} rows were given for {count} vectors; give one each")
    if count and ("id" not in table.column_names or not pa.types.is_string(table["id"].type)):
        raise DataError(f"rows need a column 'id' of strings; they have {', '.join(table.column_names) or 'none'}")
    if count and table["id"].null_count:
        raise DataError(f"{table['id'].null_count} rows have no id; give each one")
    if repeated := count and count - pc.count_distinct(table["id"]).as_py():
        raise DataError(f"{repeated} ids occur more than once; an id names one vector")
    return table


def unfinished(folder: Path) -> bool:
    """Whether a folder holds nothing, or nothing but what a first save left that was killed."""
    if not folder.is_dir():
        return False
    return all(path.name == LOCK or any(path.match(pattern) for pattern in _PATTERNS) for path in folder.iterdir())


def _named(folder: Path) -> set[str] | None:
    """The files that ``index.json`` names; none where there is no index, and None where it cannot be read."""
    if not (folder / INFO).is_file():
        return set()
    try:
        return {file["name"] for file in json.loads(_read_text(folder / INFO))["files"].values()}
    except (AssetError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except PermissionError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError) and unfinished(path.parent):
            raise AssetError(f"{path.parent} is no index yet: its making was stopped; build it again") from error
        raise AssetError(
            f"{path.parent} is no index: {path.name} cannot be read; make one with speechde index build"
        ) from error


def _verified(folder: Path, stated: Mapping[str, Any], hashed: bool) -> Path:
    name = stated["name"]
    path = folder / name
    if Path(name).name != name:
        raise AssetError(f"{folder / INFO} names the file {name!r}, which is not in its folder; build the index again")
    if not path.is_file():
        raise AssetError(f"{path} is missing; build the index again, or restore a copy")
    if path.stat().st_size != stated["bytes"] or (hashed and sha256_file(path) != stated["sha256"]):
        raise AssetError(
            f"{path} is damaged: its size or its SHA-256 is not the stored one; build the index again, or restore it"
        )
    return path


def _write_rows(rows: pa.Table, path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(rows, path)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=CHUNK)


def _read_rows(path: Path, mapped: bool) -> pa.Table:
    if path.suffix == ".parquet":  # an ivfpq that was written before rows were mapped has one too
        return pq.read_table(path)
    return pa.ipc.open_file(pa.memory_map(str(path)) if mapped else pa.BufferReader(path.read_bytes())).read_all()
