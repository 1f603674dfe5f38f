import os
import shutil
from hashlib import sha256
from pathlib import PurePosixPath

import pytest

from speechde.corpora import debian
from speechde.errors import AssetError

FOLDER = PurePosixPath("usr/share/thing")
MEMBERS = {
    f"./{FOLDER}/a/bear.txt": b"A bear.",
    f"./{FOLDER}/a/bear.png": b"picture",
    "./usr/share/doc/thing/copyright": b"GPL-2",
    f"./{FOLDER}/../../../../../../escaped.txt": b"evil",
    "/absolute.txt": b"evil",
    f"./{FOLDER}/a/link.txt": "/etc/passwd",
}


def wanted(path):
    return path.suffix == ".txt" or path.name == "copyright"


def unpack(archive, root):
    return debian.unpack(archive, root, wanted, FOLDER)


def find(archive, cache_dir, digest=None):
    return debian.find_archive("thing", "1.0-1", digest, archive, cache_dir, "data.thing")


@pytest.fixture(params=["dpkg-deb", "python"])
def unpacker(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif shutil.which("dpkg-deb") is None:
        pytest.skip("this system has no dpkg-deb")


def test_unpack_takes_wanted_regular_files_inside_the_tree_only(tmp_path, make_deb, unpacker):
    root = unpack(make_deb(tmp_path / "x.deb", MEMBERS), tmp_path / "out" / "thing")
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
    assert files == ["usr/share/doc/thing/copyright", f"{FOLDER}/a/bear.txt"]
    assert (root / FOLDER / "a/bear.txt").read_bytes() == b"A bear."
    assert not list(tmp_path.rglob("escaped*"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thing"]


def test_unpack_again_changes_nothing(tmp_path, make_deb, unpacker):
    archive = make_deb(tmp_path / "x.deb", MEMBERS)
    root = unpack(archive, tmp_path / "thing")
    archive.unlink()
    assert unpack(archive, root) == root


def test_unpack_damaged_archives_leaves_nothing(tmp_path, make_deb, unpacker):
    archive = make_deb(tmp_path / "x.deb", {**MEMBERS, f"./{FOLDER}/b.txt": os.urandom(200_000)})
    archive.write_bytes(archive.read_bytes()[:-100_000])
    with pytest.raises(AssetError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "root")
    other = make_deb(tmp_path / "other.deb", {"./usr/bin/thing.txt": b"x"})
    with pytest.raises(AssetError, match="holds no usr/share/thing folder"):
        unpack(other, tmp_path / "root")
    (tmp_path / "text.deb").write_text("hello, no archive")
    with pytest.raises(AssetError, match="cannot be unpacked"):
        unpack(tmp_path / "text.deb", tmp_path / "root")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.deb", "text.deb", "x.deb"]


def test_unpack_into_an_occupied_folder(tmp_path, make_deb):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "precious").write_text("mine")
    with pytest.raises(AssetError, match="in the way"):
        unpack(make_deb(tmp_path / "x.deb", MEMBERS), tmp_path / "root")
    assert (tmp_path / "root" / "precious").read_text() == "mine"


def test_find_archive_given(tmp_path, make_deb):
    archive = make_deb(tmp_path / "x.deb", MEMBERS)
    digest = sha256(archive.read_bytes()).hexdigest()
    assert find(str(archive), tmp_path, digest) == archive
    assert find(archive, tmp_path) == archive
    with pytest.raises(AssetError, match=f"{digest}, expected 123; .*sha256=None"):
        find(archive, tmp_path, "123")
    with pytest.raises(
        AssetError, match=r"data\.thing=.* is not a file; set data\.thing=PATH .* thing, version 1\.0-1"
    ):
        find(tmp_path / "none.deb", tmp_path)
    (tmp_path / "text.deb").write_text("hello")
    with pytest.raises(AssetError, match="not a Debian archive"):
        find(tmp_path / "text.deb", tmp_path)


def test_find_archive_cached(tmp_path, make_deb, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    cached = make_deb(tmp_path / "thing_1.0-1_all.deb", MEMBERS)
    assert find(None, tmp_path) == cached
    with pytest.raises(AssetError, match="expected 123"):
        find(None, tmp_path, "123")


def fake_apt(folder, body, monkeypatch, listed="false"):
    """``apt-get`` and ``apt-cache`` first on the path; they append their arguments to ``calls``."""
    for name, lines in (("apt-get", body), ("apt-cache", listed)):
        script = folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "$1" >> "{folder}/calls"\n{lines}\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")


def test_download_updates_the_lists_once(tmp_path, make_deb, monkeypatch, caplog):
    deb = make_deb(tmp_path / "x.deb", MEMBERS)
    lists = tmp_path / "lists"
    update = f'if [ "$1" = update ]; then touch "{lists}"; exit; fi'
    fake_apt(tmp_path, f'{update}\n[ -e "{lists}" ] && cp "{deb}" thing_1_all.deb', monkeypatch)
    cache = tmp_path / "cache"
    found = find(None, cache)
    assert found == cache / "thing_1_all.deb"
    assert (tmp_path / "calls").read_text().split() == ["download", "show", "update", "download"]
    assert "package lists of this system do not have thing: apt-get update" in caplog.text
    assert list(cache.iterdir()) == [found]


def test_lists_that_have_the_package_are_left_alone(tmp_path, monkeypatch, caplog):
    fake_apt(tmp_path, "echo no route >&2; exit 100", monkeypatch, listed="true")
    with pytest.raises(AssetError, match="no route"):
        find(None, tmp_path / "cache")
    assert (tmp_path / "calls").read_text().split() == ["download", "show"] and caplog.text == ""


def test_download_failures_name_the_fix(tmp_path, make_deb, monkeypatch):
    deb = make_deb(tmp_path / "x.deb", MEMBERS)
    give = tmp_path / "give"
    fake_apt(tmp_path, f'[ -e "{give}" ] && cp "{deb}" y.deb || {{ echo no route >&2; exit 100; }}', monkeypatch)
    with pytest.raises(AssetError, match=r"no route.*data\.thing=PATH.*1\.0-1"):
        find(None, tmp_path / "cache")
    give.touch()
    with pytest.raises(AssetError, match="expected 123"):
        find(None, tmp_path / "cache", "123")
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AssetError, match="no apt-get"):
        find(None, tmp_path / "cache")
