"""An index finds what a plain search finds, and is never half an index."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import faiss
import numpy as np
import pyarrow as pa
import pytest

from speechde.errors import AssetError, ConfigError, DataError
from speechde.search import index as module
from speechde.search import kinds
from speechde.search import vectors as files
from speechde.search.index import INFO, SearchIndex
from speechde.search.kinds import KINDS, kind_for

DIM = 16


def unit(count, dim=DIM, seed=0):
    """Unit vectors in clusters, as embeddings of sentences are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 20), dim))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rows(count, start=0):
    return [{"id": f"v{i}", "text": f"text {i}"} for i in range(start, start + count)]


def build(count=30, kind="flat", seed=0, **changes):
    arguments = {"model": "tiny", "fingerprint": "f1", "kind": kind} | changes
    return SearchIndex.build(unit(count, seed=seed), rows(count), **arguments)


def ids(hits):
    return [[hit.id for hit in some] for some in hits]


def test_flat_is_brute_force():
    vectors, queries = unit(500), unit(20, seed=1)
    hits = build(500).search(queries, 7)
    scores = queries @ vectors.T
    expected = np.argsort(-scores, axis=1)[:, :7]
    assert ids(hits) == [[f"v{i}" for i in some] for some in expected]
    found = [[hit.score for hit in some] for some in hits]
    np.testing.assert_allclose(found, np.take_along_axis(scores, expected, 1), atol=1e-6)
    assert hits[0][0].row == {"id": hits[0][0].id, "text": f"text {expected[0, 0]}"}


@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.97), ("ivfsq", 0.95), ("ivfpq", 0.6)])
def test_recall_of_the_approximate_kinds(kind, least, tmp_path):
    """Ten nearest of 4,000; the bounds are a little below what the kinds reach."""
    vectors, queries = unit(4000), unit(100, seed=1)
    exact = ids(SearchIndex.build(vectors, rows(4000), model="m", fingerprint="f").search(queries, 10))
    index = SearchIndex.build(vectors, rows(4000), model="m", fingerprint="f", kind=kind)
    found = ids(index.search(queries, 10))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert least <= recall < (1 if kind == "ivfpq" else 1.01), recall
    index.save(tmp_path / kind)
    assert ids(SearchIndex.load(tmp_path / kind).search(queries, 10)) == found


def test_kind_by_size(monkeypatch):
    assert [kind_for(n) for n in (1, 50_000, 50_001, 1_000_000, 1_000_001)] == ["flat"] * 2 + ["hnsw"] * 2 + ["ivfsq"]
    monkeypatch.setattr(kinds, "FLAT_UP_TO", 10)
    assert (build(10, "auto").info.kind, build(11, "auto").info.kind) == ("flat", "hnsw")


@pytest.mark.parametrize("kind", KINDS)
def test_reopen_and_add(kind, tmp_path):
    count = kinds.MIN_FITTED["ivfpq"]
    vectors = unit(count + 40)
    SearchIndex.build(vectors[:count], rows(count), model="m", fingerprint="f", kind=kind).save(tmp_path / "i")
    for start in (count, count + 20):
        index = SearchIndex.load(tmp_path / "i", mapped=False)
        index.add(vectors[start : start + 20], rows(20, start), fingerprint="f")
        index.save(tmp_path / "i")
    index = SearchIndex.load(tmp_path / "i")
    assert len(index) == count + 40 and index.info.kind == kind
    assert np.mean([best[0].id == f"v{i}" for i, best in enumerate(index.search(vectors, 1))]) > 0.85
    suffix = ".arrow" if kind in kinds.MAPPED else ".parquet"
    assert {path.suffix for path in (tmp_path / "i").iterdir()} == {"", ".faiss", ".json", suffix}


@pytest.mark.parametrize("kind", kinds.MAPPED)
def test_lists_are_searched_on_disk(kind, tmp_path):
    """Opened, an index finds what it found; neither its vectors nor its rows are read, nor changed."""
    count = 3000
    vectors, queries = unit(count), unit(20, seed=1)
    made = SearchIndex.build(vectors, rows(count), model="m", fingerprint="f", kind=kind)
    made.save(tmp_path / "i")
    opened, read = (SearchIndex.load(tmp_path / "i", mapped=mapped) for mapped in (True, False))
    expected = made.search(queries, 5)
    assert opened.search(queries, 5) == read.search(queries, 5) == expected
    assert type(faiss.downcast_InvertedLists(opened._index.invlists)).__name__ == "OnDiskInvertedLists"
    for change in (lambda: opened.add(unit(1), rows(1, count), fingerprint="f"), lambda: opened.save(tmp_path / "j")):
        with pytest.raises(DataError, match="load it with mapped=False"):
            change()
    (data,) = (tmp_path / "i").glob("rows-*.arrow")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 255
    data.write_bytes(damaged)
    SearchIndex.load(tmp_path / "i")  # what is not read is not checked
    with pytest.raises(AssetError, match="is damaged"):
        SearchIndex.load(tmp_path / "i", mapped=False)
    data.write_bytes(damaged[:-1])
    with pytest.raises(AssetError, match="is damaged"):
        SearchIndex.load(tmp_path / "i")


@pytest.mark.parametrize("kind", [*KINDS, "auto"])
def test_files_are_indexed_block_by_block(kind, tmp_path, monkeypatch):
    """As vectors in memory are; the lists are fitted to all of them, as there are so few."""
    monkeypatch.setattr(files, "BLOCK", 700)
    vectors, paths = unit(1500), [tmp_path / f"{n}.parquet" for n in range(3)]
    for path, start, stop in zip(paths, (0, 900, 900), (900, 900, 1500), strict=True):
        described = [row | {"kind": "text"} for row in rows(stop - start, start)]
        files.write_vectors(path, files.Header(DIM, "m", "f"), described, vectors[start:stop])
    read = files.read_vectors(paths)
    whole = SearchIndex.build(read.vectors, read.rows, model="m", fingerprint="f", kind=kind)
    streamed = SearchIndex.build_from(paths, kind)
    assert streamed.info == whole.info and streamed.rows.equals(whole.rows)
    queries = unit(50, seed=1)
    found, expected = ids(streamed.search(queries, 10)), ids(whole.search(queries, 10))
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)]) > 0.999
    with pytest.raises(ConfigError, match="index kind"):
        SearchIndex.build_from(paths, "tree")


def test_added_rows_may_have_other_columns():
    index = build(3)
    index.add(unit(1, seed=5), pa.table({"id": ["new"], "seconds": [1.5]}), fingerprint="f1")
    assert index.search(unit(1, seed=5), 1)[0][0].row == {"id": "new", "text": None, "seconds": 1.5}


def test_fewer_hits_than_asked_for():
    assert [len(some) for some in build(3).search(unit(2), 10)] == [3, 3]
    assert len(build(3).search(unit(1)[0], 1)) == 1


def test_wrong_model_and_shape(tmp_path):
    index = build()
    with pytest.raises(DataError, match=r"the model f1 \(tiny\), these are of the model f2"):
        index.search(unit(1), fingerprint="f2")
    with pytest.raises(DataError, match="the model f2"):
        index.add(unit(1), rows(1, 99), fingerprint="f2")
    with pytest.raises(DataError, match="vectors of 8 numbers do not fit an index of 16"):
        index.search(unit(1, 8))
    with pytest.raises(DataError, match=r"ids are in the index already.*'v3'"):
        index.add(unit(1), rows(1, 3), fingerprint="f1")
    with pytest.raises(DataError, match="1 of 1 vectors are not finite"):
        index.search(np.full((1, DIM), np.nan))
    with pytest.raises(DataError, match="k=0"):
        index.search(unit(1), 0)
    with pytest.raises(DataError, match="do not fit those of the index"):
        index.add(unit(1), pa.table({"id": ["x"], "text": [1.5]}), fingerprint="f1")
    assert len(index) == len(index.rows) == 30


@pytest.mark.parametrize(
    ("count", "table", "message"),
    [
        (0, [], "at least one vector"),
        (2, rows(1), "1 rows were given for 2 vectors"),
        (2, [{"id": "a"}, {"id": "a"}], "1 ids occur more than once"),
        (1, [{"name": "a"}], "need a column 'id'"),
        (2, [{"id": "a"}, {"id": None}], "1 rows have no id"),
        (1, [{"id": 1}], "of strings"),
    ],
)
def test_rows_that_do_not_fit(count, table, message):
    with pytest.raises(DataError, match=message):
        SearchIndex.build(unit(count) if count else np.empty((0, 4)), table, model="m", fingerprint="f")


def test_unknown_kind_and_too_few_vectors():
    with pytest.raises(ConfigError, match=r"'hsnw'.*Did you mean 'hnsw'"):
        build(kind="hsnw")
    with pytest.raises(DataError, match="at least 1024 vectors, not 30"):
        build(kind="ivfpq")


@pytest.mark.parametrize("part", ["index-*.faiss", "rows-*.parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_noticed(tmp_path, part, damage):
    build().save(tmp_path)
    (path,) = tmp_path.glob(part)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(AssetError, match=f"{path.name} is (damaged|missing).*build the index again"):
        SearchIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": 2}, "has format 2, this version reads 1"),
        (lambda d: d | {"count": 31}, "disagree on the number"),
        (lambda d: {k: v for k, v in d.items() if k != "dim"}, "is damaged"),
        (lambda d: d | {"files": d["files"] | {"rows": d["files"]["rows"] | {"name": "../rows"}}}, "not in its folder"),
        (lambda d: [1], "is damaged"),
    ],
)
def test_bad_descriptions(tmp_path, change, message):
    build().save(tmp_path)
    stated = json.loads((tmp_path / INFO).read_text("utf-8"))
    (tmp_path / INFO).write_text(json.dumps(change(stated)), "utf-8")
    with pytest.raises(AssetError, match=message):
        SearchIndex.load(tmp_path)


def test_no_index(tmp_path):
    with pytest.raises(AssetError, match=r"no index.*speechde index build"):
        SearchIndex.load(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is there and is no index"):
        build().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("step", ["write_table", "write_faiss"])
def test_a_full_disk_leaves_the_old_index(tmp_path, monkeypatch, step):
    build(30).save(tmp_path / "i")

    def full(_, path, *rest):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.pq if step == "write_table" else module, step, full)
    for folder in ("i", "new"):
        with pytest.raises(OSError, match="No space left"):
            build(20).save(tmp_path / folder)
    assert not (tmp_path / "new").exists()
    assert len(SearchIndex.load(tmp_path / "i")) == 30 and len(list((tmp_path / "i").iterdir())) == 4


@pytest.mark.parametrize("step", ["pq.write_table", "sha256_file", "json.dumps"])
def test_killed_while_saving(tmp_path, step):
    """The old index stays whole, and the next save removes what the killed one left."""
    build(30).save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    code = (
        "import os, signal; import numpy as np; from speechde.search import index as m\n"
        f"old = m.{step}\n"
        "def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
        "i = m.SearchIndex.build(np.eye(16)[:3], [{'id': str(n)} for n in range(3)], model='m', fingerprint='f')\n"
        f"m.{step} = die\n"
        f"i.save({str(tmp_path)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len({path.name for path in tmp_path.iterdir()} - names) > 0
    index = SearchIndex.load(tmp_path)
    assert len(index) == 30
    index.add(unit(2, seed=3), rows(2, 30), fingerprint="f1")
    index.save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4 and len(SearchIndex.load(tmp_path)) == 32


def test_two_first_saves_at_once(tmp_path):
    """Both were told that there is no index; the one that comes second replaces nothing unasked."""
    build(30).save(tmp_path / "i", overwrite=False)
    with pytest.raises(DataError, match="is there; add to it"):
        build(20).save(tmp_path / "i", overwrite=False)
    assert len(SearchIndex.load(tmp_path / "i")) == 30


def test_a_failed_save_over_a_damaged_index(tmp_path, monkeypatch):
    build(30).save(tmp_path)
    (tmp_path / INFO).write_text("[", "utf-8")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(module, "write_faiss", full)
        build(20).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    build(20).save(tmp_path)
    assert len(SearchIndex.load(tmp_path)) == 20 and len(list(tmp_path.iterdir())) == 4


def test_two_processes_that_add(tmp_path):
    """The second would lose what the first added, so it is refused."""
    build(30).save(tmp_path)
    first, second = SearchIndex.load(tmp_path), SearchIndex.load(tmp_path)
    for index, start in ((first, 30), (second, 40)):
        index.add(unit(5), rows(5, start), fingerprint="f1")
    first.save(tmp_path)
    with pytest.raises(DataError, match="changed by another process"):
        second.save(tmp_path)
    assert len(SearchIndex.load(tmp_path)) == 35


def test_a_save_between_the_reads_of_a_load(tmp_path, monkeypatch):
    build(30).save(tmp_path)
    verified, saved = module._verified, []

    def slow(folder, stated, hashed):
        if not saved:
            saved.append(True)
            build(20).save(tmp_path)
        return verified(folder, stated, hashed)

    monkeypatch.setattr(module, "_verified", slow)
    assert len(SearchIndex.load(tmp_path)) == 20


def test_what_is_written_down(tmp_path):
    index = build(kind="hnsw")
    index.save(tmp_path)
    stated = json.loads((tmp_path / INFO).read_text("utf-8"))
    files = stated.pop("files")
    assert stated == asdict(index.info)
    assert stated == {"kind": "hnsw", "dim": DIM, "count": 30, "model": "tiny", "fingerprint": "f1",
                      "metric": "inner_product", "format": 1}  # fmt: skip
    assert set(files) == {"vectors", "rows"} and all(len(file["sha256"]) == 64 for file in files.values())


@pytest.mark.parametrize("part", ["index.json", "index-*", "rows-*"])
def test_files_that_may_not_be_read_are_not_damaged(tmp_path, another_user, part):
    build(3).save(tmp_path / "i")
    next((tmp_path / "i").glob(part)).chmod(0)
    with another_user(), pytest.raises(PermissionError):
        SearchIndex.load(tmp_path / "i")
