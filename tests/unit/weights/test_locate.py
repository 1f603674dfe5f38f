"""Which kind of name goes where, and what each failure tells the user."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import speechde.weights.locate as module
from speechde.errors import AssetError, ConfigError
from speechde.weights import resolve


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"x")
    return path


def test_local_folder_as_path_and_string(folder):
    assert resolve(folder) == resolve(str(folder)) == folder


def test_relative_local_folder_goes_before_a_hub_id(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/model"
    assert resolve(name, offline=True).samefile(folder)


def test_local_pickle_folder_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(AssetError, match="only pickled weights"):
        resolve(folder)


def test_unknown_packaged_name_gives_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean 'packaged:gemma-3-270m'"):
        resolve("packaged:gemma-3-270")


@pytest.mark.parametrize("name", ["gemma", "/no/such/folder", "a/b/c", "./nothing", "../nothing", "org/name@"])
def test_what_is_neither_folder_nor_hub_id(name):
    with pytest.raises(AssetError, match=r"neither a folder nor a hub id.*packaged:multilingual-e5-small"):
        resolve(name)


def test_hub_id_offline_names_the_alternatives():
    with pytest.raises(AssetError, match=r"no-such-org/no-such-model.*local folder.*packaged:whisper-base-encoder"):
        resolve("no-such-org/no-such-model", offline=True)


def test_hub_download_is_limited_and_pinned(folder, monkeypatch):
    calls = []

    def download(repo, **options):
        calls.append((repo, options))
        return str(folder)

    monkeypatch.setattr(module, "snapshot_download", download)
    monkeypatch.setattr(module.hub, "unreachable", lambda: None)
    assert resolve("org/na.me@refs/pr/1") == folder
    assert resolve("org/name", offline=True) == folder
    (repo, options), (plain, offline) = calls
    assert (repo, options["revision"], options["local_files_only"]) == ("org/na.me", "refs/pr/1", False)
    assert (plain, offline["revision"], offline["local_files_only"]) == ("org/name", None, True)
    assert sorted(options["allow_patterns"]) == ["*.json", "*.model", "*.safetensors", "*.txt", "README.md"]


def test_hub_repository_of_pickles_is_refused(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(module, "snapshot_download", lambda *a, **k: str(folder))
    monkeypatch.setattr(module.hub, "unreachable", lambda: None)
    with pytest.raises(AssetError, match="no weights"):
        resolve("org/name")


def test_hub_failure_keeps_the_reason(monkeypatch):
    def download(*args, **kwargs):
        raise LocalEntryNotFoundError("cannot find the snapshot\nmore")

    monkeypatch.setattr(module, "snapshot_download", download)
    monkeypatch.setattr(module.hub, "unreachable", lambda: None)
    with pytest.raises(AssetError, match=r"org/name@v1 .*\(cannot find the snapshot\)"):
        resolve("org/name@v1")
