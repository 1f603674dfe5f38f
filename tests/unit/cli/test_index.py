"""``speechde index``: from files of vectors to an index, and what is refused."""

from __future__ import annotations

import json

from speechde.search import index as module


def test_build_add_and_info(run, models, vectors, tmp_path):
    built = run("index", "build", vectors, "--out", tmp_path / "i", "--kind", "hnsw", "--json").json
    assert (built["kind"], built["count"], built["dim"], built["model"]) == ("hnsw", 5, 8, str(models.continuous))
    assert built["by_kind"] == {"text": 5} and built["by_language"] == {"ro_ro": 5}
    more = tmp_path / "more.parquet"
    run("embed", "drei Hunde", "-m", models.continuous, "-o", more)
    added = run("index", "add", tmp_path / "i", more)
    assert added.code == 0 and "count\t6" in added.out
    info = run("index", "info", tmp_path / "i", "--json").json
    assert info["count"] == 6 and info["by_language"] == {"ro_ro": 5, "unknown": 1}
    again = run("index", "add", tmp_path / "i", more)
    assert again.code == 1 and "1 ids are in the index already (first: 'argument 1')" in again.err
    assert run("index", "info", tmp_path / "i", "--json").json == info


def test_another_model_is_refused(run, models, index, vectors, tmp_path):
    done = run("search", index, "un chat", "-m", models.another)
    assert done.code == 1 and f"({models.continuous}), these are of the model" in done.err
    other = tmp_path / "other.parquet"
    run("embed", "x", "-m", models.another, "-o", other)
    for command in (["index", "add", index, other], ["index", "build", vectors, other, "-o", tmp_path / "j"],
                    ["mine", vectors, other]):  # fmt: skip
        done = run(*command)
        assert done.code == 1 and "of the model" in done.err
    assert not (tmp_path / "j").exists()


def test_damage_is_an_error(run, models, index):
    (path,) = index.glob("index-*.faiss")
    path.write_bytes(path.read_bytes()[:-4])
    for command in (["index", "info", index], ["search", index, "a", "-m", models.continuous]):
        done = run(*command)
        assert done.code == 1 and "is damaged" in done.err and len(done.err.splitlines()) == 1
    assert run("index", "info", index.parent).code == 1


def test_an_index_is_not_replaced_unasked(run, vectors, index):
    before = (index / "index.json").read_bytes()
    done = run("index", "build", vectors, "--out", index)
    assert done.code == 1 and "speechde index add" in done.err and (index / "index.json").read_bytes() == before
    assert run("index", "build", vectors, "--out", index, "--overwrite").code == 0


def test_bad_vectors(run, tmp_path, vectors):
    (tmp_path / "cut.parquet").write_bytes(vectors.read_bytes()[:-9])
    (tmp_path / "clips.jsonl").write_text(json.dumps({"id": "a"}), "utf-8")
    for name, message in (("none", "does not exist"), ("cut", "not a readable Parquet file")):
        done = run("index", "build", tmp_path / f"{name}.parquet", "--out", tmp_path / "j")
        assert done.code == 1 and message in done.err
    assert run("index", "build", vectors, "--out", tmp_path / "j", "--kind", "tree").code == 2
    assert run("index", "build", vectors, vectors, "--out", tmp_path / "j").code == 1
    assert not (tmp_path / "j").exists()


def test_a_full_disk(run, index, models, tmp_path, monkeypatch):
    more = tmp_path / "more.parquet"
    run("embed", "x", "-m", models.continuous, "-o", more)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module.pq, "write_table", full)
        done = run("index", "add", index, more)
    assert done.code == 1 and done.err == "error: the disk is full\n"
    assert run("index", "info", index, "--json").json["count"] == 5
