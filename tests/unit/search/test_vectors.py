"""Files of vectors: what is written is read back, and a file of another kind is refused."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechde.errors import DataError
from speechde.search import vectors as module
from speechde.search.vectors import KEY, SCHEMA, Header, join, read_header, read_vectors, write_vectors
from speechde.types import Dropped

ROWS = [{"id": "a", "kind": "speech", "language": "ro_ro", "audio": "/a.ogg", "seconds": 1.5}, {"id": "b", "text": "x"}]


def write(path, rows=ROWS, fingerprint="f", dim=4, **options):
    vectors = np.arange(len(rows) * dim, dtype=np.float32).reshape(-1, dim)
    header = Header(dim, "tiny", fingerprint, **options)
    write_vectors(path, header, rows, vectors)
    return vectors, header


def test_round_trip(tmp_path):
    vectors, header = write(tmp_path / "v.parquet", dropped=[Dropped("c", "empty", "ă")], job="j")
    found = read_vectors([tmp_path / "v.parquet"])
    np.testing.assert_array_equal(found.vectors, vectors)
    assert (found.model, found.fingerprint, len(found), found.vectors.dtype) == ("tiny", "f", 2, np.float32)
    assert found.rows.column_names == SCHEMA.names
    assert found.rows.to_pylist() == [{name: row.get(name) for name in SCHEMA.names} for row in ROWS]
    assert read_header(tmp_path / "v.parquet") == header


def test_other_readers(tmp_path):
    vectors, _ = write(tmp_path / "v.parquet")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "v.parquet"), cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(loaded.with_format("numpy")["embedding"][:], vectors)


def test_several_files(tmp_path):
    first, _ = write(tmp_path / "a.parquet")
    none, _ = write(tmp_path / "none.parquet", rows=[])
    last, header = write(tmp_path / "b.parquet", rows=[{"id": "c"}])
    paths = [tmp_path / f"{name}.parquet" for name in ("a", "none", "b")]
    found = read_vectors(paths)
    np.testing.assert_array_equal(found.vectors, np.concatenate([first, none, last]))
    join(paths, tmp_path / "all.parquet", header)
    joined = read_vectors([tmp_path / "all.parquet"])
    assert joined.rows.equals(found.rows) and read_header(tmp_path / "all.parquet") == header
    write(tmp_path / "x.parquet", fingerprint="g")
    with pytest.raises(DataError, match=r"x\.parquet has vectors of the model g \(tiny\), .*a\.parquet of f"):
        read_vectors([*paths, tmp_path / "x.parquet"])
    with pytest.raises(DataError, match="no file"):
        read_vectors([])


def test_other_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "v.parquet"
    for content, message in ((b"", "not a readable"), (b"PAR1" * 9, "not a readable")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_vectors([path])
    for metadata in ({}, {KEY: b"[]"}, {KEY: b'{"format": 1}'}):
        pq.write_table(pa.table({"embedding": [[1.0]]}).replace_schema_metadata(metadata), path)
        with pytest.raises(DataError, match="does not say which model"):
            read_vectors([path])
    with monkeypatch.context() as patched:
        patched.setattr(module, "FORMAT", 2)
        patched.setattr(Header.__init__, "__defaults__", (*Header.__init__.__defaults__[:-1], 2))
        write(path)
    with pytest.raises(DataError, match="has format 2, this version reads 1"):
        read_vectors([path])
    with pytest.raises(DataError, match="does not exist"):
        read_vectors([tmp_path / "none.parquet"])


def test_damage_behind_the_footer(tmp_path):
    write(tmp_path / "v.parquet", rows=[{"id": f"{n}"} for n in range(2000)])
    data = bytearray((tmp_path / "v.parquet").read_bytes())
    data[4:2000] = bytes(1996)
    (tmp_path / "v.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged.*embed anew"):
        read_vectors([tmp_path / "v.parquet"])
