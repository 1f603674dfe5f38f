"""Cache keys are stable and injective where it matters; writes are all or nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from speechde.cache import (
    atomic_directory,
    atomic_rows,
    atomic_write,
    cache_root,
    check_readable,
    expanded,
    fingerprint,
    sha256_file,
)
from speechde.config import build
from speechde.errors import ConfigError


def test_cache_root_order(monkeypatch, tmp_path):
    monkeypatch.delenv("SPEECHDE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == Path.home() / ".cache" / "speechde"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "speechde"
    monkeypatch.setenv("SPEECHDE_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


def test_fingerprint_is_pinned_and_ignores_key_order():
    assert fingerprint({"b": [1, 2.5, "é"], "a": None}) == fingerprint({"a": None, "b": [1, 2.5, "é"]})
    # A changed value here silently orphans every existing cache.
    assert fingerprint({"layer": 4, "model": "x"}) == hashlib.sha256(b'{"layer":4,"model":"x"}').hexdigest()[:16]


@pytest.mark.parametrize(
    "other", [{"a": 2}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"a": [1]}, {"b": 1}, {"a": {"a": 1}}]
)
def test_fingerprint_separates(other):
    assert fingerprint({"a": 1}) != fingerprint(other)


@pytest.mark.parametrize("bad", [{1: "a"}, [{"a": {2: 3}}], {"a": Path("x")}, {"a": {1, 2}}])
def test_fingerprint_refuses_what_json_would_blur(bad):
    with pytest.raises(TypeError):
        fingerprint(bad)


def test_fingerprint_refuses_nan():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint([float("nan")])


def test_sha256_file_over_several_blocks(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_atomic_write_replaces_and_leaves_only_the_target(tmp_path):
    target = tmp_path / "new" / "a.npz"
    for text in ("first", "second"):
        with atomic_write(target) as temporary:
            assert temporary.suffix == ".npz" and temporary.parent == target.parent
            temporary.write_text(text)
    assert target.read_text() == "second"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_write_failure_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_in_the_way_is_noticed_before_the_work(tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)), atomic_write(tmp_path):
        pytest.fail("the work was done")


def test_atomic_write_without_a_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        pass


@pytest.fixture
def umask():
    """Files are made for all to read and for the group to write."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def mode(path):
    return oct(path.stat().st_mode & 0o777)


def test_files_get_the_mode_of_open(tmp_path, umask):
    """Whatever wrote them: safetensors makes files that only their owner reads, and so does tempfile."""

    def private(path):
        path.write_text("x")
        path.chmod(0o600)

    with atomic_write(tmp_path / "a") as temporary:
        private(temporary)
    with atomic_directory(tmp_path / "d") as temporary:
        (temporary / "below").mkdir()
        private(temporary / "below/x")
    assert (mode(tmp_path / "a"), mode(tmp_path / "d/below/x"), mode(tmp_path / "d")) == ("0o664", "0o664", "0o775")
    private(tmp_path / "kept")
    with atomic_write(tmp_path / "kept") as temporary:
        temporary.write_text("y")
    assert mode(tmp_path / "kept") == "0o600", "a file that is replaced keeps its own"


def test_a_file_that_may_not_be_read(tmp_path, another_user):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    with another_user():
        check_readable(tmp_path, tmp_path / "absent")
        with pytest.raises(PermissionError, match="secret"):
            check_readable(tmp_path / "absent", tmp_path / "secret")


def test_atomic_directory_appears_whole(tmp_path):
    target = tmp_path / "deep" / "folder"
    with atomic_directory(target) as temporary:
        (temporary / "x").write_text("1")
        assert not target.exists()
    assert [p.name for p in target.iterdir()] == ["x"]
    assert list(target.parent.iterdir()) == [target]


def test_atomic_directory_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), atomic_directory(tmp_path / "folder") as temporary:
        (temporary / "x").write_text("1")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_atomic_directory_first_writer_wins(tmp_path):
    target = tmp_path / "folder"
    with atomic_directory(target) as slow:
        with atomic_directory(target) as fast:
            (fast / "x").write_text("fast")
        (slow / "x").write_text("slow")
    assert (target / "x").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_directory_does_not_replace_a_file(tmp_path):
    (tmp_path / "taken").write_text("file")
    with pytest.raises(OSError), atomic_directory(tmp_path / "taken") as temporary:
        (temporary / "x").write_text("1")
    assert (tmp_path / "taken").read_text() == "file"
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_rows_of_unknown_number_are_an_ordinary_array(tmp_path):
    rows = np.random.default_rng(0).normal(size=(1234, 7))
    with atomic_rows(tmp_path / "a/x.npy", 7) as append:
        for part in np.array_split(rows, 11):
            append(part)
        assert not (tmp_path / "a/x.npy").exists(), "before it is whole"
    found = np.load(tmp_path / "a/x.npy", mmap_mode="r")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rows.astype(np.float32))
    with atomic_rows(tmp_path / "none.npy", 3):
        pass
    assert np.load(tmp_path / "none.npy").shape == (0, 3)


def test_rows_that_end_in_an_error_leave_the_old_file(tmp_path):
    with atomic_rows(tmp_path / "x.npy", 2) as append:
        append(np.ones((1, 2)))
    with pytest.raises(OSError, match="disk full"), atomic_rows(tmp_path / "x.npy", 2) as append:
        append(np.zeros((5, 2)))
        raise OSError("disk full")
    assert np.load(tmp_path / "x.npy").tolist() == [[1, 1]] and len(list(tmp_path.iterdir())) == 1


def test_a_user_without_a_home_directory_is_told_what_to_set(monkeypatch, tmp_path):
    for name in ("HOME", "SPEECHDE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the user has no entry in passwd
    with pytest.raises(ConfigError, match=r"~/\.cache begins with a home directory.*SPEECHDE_CACHE=FOLDER"):
        cache_root()
    monkeypatch.setenv("SPEECHDE_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert expanded("a/~/b") == Path("a/~/b")


def test_paths_of_a_configuration_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = build({"data": {"path": "~/a.tsv"}, "runs_dir": "~/runs", "init": "~/m"})
    assert (config.data.path, config.runs_dir) == (f"{tmp_path}/a.tsv", f"{tmp_path}/runs")
    assert config.init == f"{tmp_path}/m" and build({"model": {"source": "~x"}}).model.source == "~x"
