import io
import os
import shutil
import tarfile
from hashlib import sha256

import pytest

from speechde.corpora import npm
from speechde.errors import AssetError


def make_tgz(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data or b""))
    return path


@pytest.fixture
def tgz(tmp_path):
    files = {"package/a/x.html": "né".encode(), "package/link.html": None, "package/../escaped.html": b"evil"}
    return make_tgz(tmp_path / "x.tgz", files)


@pytest.fixture
def digest(tgz):
    return sha256(tgz.read_bytes()).hexdigest()


def find(digest, archive, cache):
    return npm.find_archive("thing", "1.0.0", digest, archive, cache, "data.thing")


def fake_npm(folder, body, monkeypatch):
    """An ``npm`` that is alone on the path; it leaves its arguments in ``call``."""
    script = folder / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" > "{folder}/call"\n{body}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")


def test_read_files_takes_regular_files_of_the_package_only(tgz):
    names = ["a/x.html", "link.html", "../escaped.html", "none.html"]
    assert npm.read_files(tgz, names[:2]) == {"a/x.html": "né"}
    assert "none.html" not in npm.read_files(tgz, names)


def test_damaged_archives(tgz, tmp_path):
    tgz.write_bytes(tgz.read_bytes()[:60])
    with pytest.raises(AssetError, match=r"x\.tgz cannot be read"):
        npm.read_files(tgz, ["a/x.html"])
    latin = make_tgz(tmp_path / "latin.tgz", {"package/a": "né".encode("latin-1")})
    with pytest.raises(AssetError, match=r"latin\.tgz cannot be read"):
        npm.read_files(latin, ["a"])


def test_given_archive(tgz, digest, tmp_path):
    assert find(digest, str(tgz), tmp_path) == tgz
    with pytest.raises(AssetError, match=rf"{digest}, expected 123; set data\.thing=PATH .* thing, version 1\.0\.0"):
        find("123", tgz, tmp_path)
    with pytest.raises(AssetError, match=r"data\.thing=.*none\.tgz is not a file; set data\.thing=PATH"):
        find(digest, tmp_path / "none.tgz", tmp_path)


def test_cached_archive(tgz, digest, tmp_path):
    cached = tmp_path / "thing-1.0.0.tgz"
    shutil.copy(tgz, cached)
    assert find(digest, None, tmp_path) == cached
    with pytest.raises(AssetError, match="expected 123"):
        find("123", None, tmp_path)


def test_npm_fetches_where_there_is_one(tgz, digest, tmp_path, monkeypatch):
    fake_npm(tmp_path, f'cp "{tgz}" thing-1.0.0.tgz', monkeypatch)
    assert find(digest, None, tmp_path / "cache") == tmp_path / "cache" / "thing-1.0.0.tgz"
    assert (tmp_path / "call").read_text().split() == ["pack", "--ignore-scripts", "--silent", "thing@1.0.0"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["thing-1.0.0.tgz"]


def test_failures_leave_nothing_and_name_the_fix(tgz, digest, tmp_path, monkeypatch):
    fake_npm(tmp_path, f'[ -e "{tmp_path}/give" ] && cp "{tgz}" y.tgz || {{ echo no route >&2; exit 1; }}', monkeypatch)
    with pytest.raises(AssetError, match=r"could not be fetched \(npm pack: no route\); set data\.thing=PATH"):
        find(digest, None, tmp_path / "cache")
    (tmp_path / "give").touch()
    with pytest.raises(AssetError, match="expected 123"):
        find("123", None, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_npm_the_configured_registry_is_asked(tgz, digest, tmp_path, monkeypatch):
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if "mirror" not in url:
            raise OSError("no route")
        return io.BytesIO(tgz.read_bytes())

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(npm.urllib.request, "urlopen", urlopen)
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AssetError, match=r"could not be fetched \(no route\)"):
        find(digest, None, tmp_path / "cache")
    monkeypatch.setenv("npm_config_registry", "https://mirror.example/npm/")
    assert find(digest, None, tmp_path / "cache").read_bytes() == tgz.read_bytes()
    assert asked == [f"{npm.REGISTRY}/thing/-/thing-1.0.0.tgz", "https://mirror.example/npm/thing/-/thing-1.0.0.tgz"]
