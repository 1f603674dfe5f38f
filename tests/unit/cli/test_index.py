"""``speechde index``: from files of vectors to an index, and what is refused."""

from __future__ import annotations

import json
import os
import signal

import pytest

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


@pytest.mark.parametrize(
    ("owner", "step", "time"),
    [(module.faiss, "write_index", 1), (os, "replace", 1), (module.pq, "write_table", 1), (os, "replace", 2),
     (module, "sha256_file", 1), (os, "replace", 3)],
)  # fmt: skip
@pytest.mark.parametrize("after", [False, True])
def test_killed_while_an_index_is_first_saved(run, vectors, tmp_path, owner, step, time, after):
    """By SIGKILL before and after each step of the save: the same command makes the index, and all others say so."""
    out, calls, real = tmp_path / "i", [], getattr(owner, step)

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) == time and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        made = real(*arguments, **options)
        if len(calls) == time:
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    if not (child := os.fork()):
        signal.alarm(60)
        setattr(owner, step, dying)
        run("index", "build", vectors, "--out", out)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = {path.name for path in out.iterdir()}
    if time == 3 and after:
        assert run("index", "info", out).code == 0, "it was whole"
        return
    assert left and "index.json" not in left
    for command in (["index", "info", out], ["index", "add", out, vectors]):
        done = run(*command)
        assert done.code == 1 and "is no index yet: its making was stopped; build it again" in done.err
    built = run("index", "build", vectors, "--out", out)
    assert built.code == 0 and "count\t5" in built.out, built.err
    assert len(list(out.iterdir())) == 4, "nothing of the killed one is left"


def test_a_folder_of_something_else(run, vectors, tmp_path):
    for name in (".tmp-x", "notes.txt"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).touch()
    for options in ([], ["--overwrite"]):
        assert run("index", "build", vectors, "--out", tmp_path / "mine", *options).code == 1
    assert len(list((tmp_path / "mine").iterdir())) == 2


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
