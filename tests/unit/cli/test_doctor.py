"""``speechde doctor``: what it finds, and the commands that it gives."""

from __future__ import annotations

import json
from email.message import Message

import pytest
import torch
from packaging.requirements import Requirement

from speechde import install
from speechde.cache import sha256_file
from speechde.cli import doctor as module
from speechde.weights import packaged


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with one converted checkpoint, and nothing else."""
    monkeypatch.setenv("SPEECHDE_CACHE", str(tmp_path / "cache"))
    folder = packaged.converted_folder("whisper-base-encoder", tmp_path / "cache")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    record = {"sha256": sha256_file(folder / "model.safetensors")}
    (folder / "speechde_source.json").write_text(json.dumps(record))
    return folder


def asset(found, name):
    return next(each for each in found["assets"] if each["name"] == name)


def test_what_is_there_and_what_is_missing(run, cache):
    found = run("doctor", "--json").json
    assert found["problems"] == [] and all(package["ok"] for package in found["packages"])
    assert {"torch", "faiss-cpu", "typer"} <= {package["name"] for package in found["packages"]}
    assert found["devices"][0]["name"] == "cpu" and len(found["devices"]) == 1 + torch.cuda.device_count()
    there = asset(found, "packaged:whisper-base-encoder")
    assert there["state"] == "there" and there["sha256"] == sha256_file(cache / "model.safetensors")
    assert there["bytes"] == sum(path.stat().st_size for path in cache.iterdir())
    missing = asset(found, "packaged:gemma-3-270m")
    assert missing["state"] == "missing" and missing["command"] == "speechde doctor --fetch packaged:gemma-3-270m"
    assert {"folder": str(cache.parent), "bytes": there["bytes"]} in found["caches"]
    text = run("doctor")
    assert text.code == 0 and missing["command"] in text.out and there["sha256"][:16] in text.out


def test_damaged_weights(run, cache):
    (cache / "model.safetensors").write_bytes(b"weighty")
    (cache / "speechde_source.json").touch()  # written after the weights, as the conversion does
    assert run("doctor").code == 0, "hashes are recorded, and computed on request alone"
    done = run("doctor", "--verify")
    assert done.code == 1 and "damaged: packaged:whisper-base-encoder" in done.err
    assert f"rm -r '{cache}' && speechde doctor --fetch packaged:whisper-base-encoder" in done.out


def test_fetch(run, cache, monkeypatch, tmp_path):
    got = []
    names = {"packaged:x": (tmp_path / "x", lambda: got.append("x")), "stamps": (tmp_path, lambda: got.append("s"))}
    monkeypatch.setattr(module, "_assets", lambda: names)
    assert run("doctor", "--fetch", "packaged:x").code == 0 and got == ["x"]
    done = run("doctor", "--fetch", "packaged:y")
    assert done.code == 2 and "allowed: packaged:x, stamps. Did you mean 'packaged:x'" in done.err


def test_the_commands_fetch_the_real_thing(cache, monkeypatch):
    """Each name reaches the function that gets it, with this cache."""
    called = []
    monkeypatch.setattr("speechde.weights.resolve", lambda name: called.append(name))
    monkeypatch.setattr("speechde.corpora.stamps.find_archive", lambda *a: called.append(a))
    monkeypatch.setattr("speechde.corpora.stamps.unpack", lambda *a: called.append(a))
    monkeypatch.setattr("speechde.corpora.synthetic.find_texts", lambda *a: called.append(a))
    assets = module._assets()
    for _, get in assets.values():
        get()
    root = cache.parents[1]
    assert called == [
        *(f"packaged:{name}" for name in packaged.PACKAGED),
        (None, root / "downloads"),
        (None, assets["stamps"][0]),  # what find_archive gave
        (None, root),
    ]


def test_missing_and_old_packages(run, cache, monkeypatch):
    lines = ["torch>=99", "no-such-package>=1,<2", "nor-this>=3; extra == 'more'"]
    monkeypatch.setattr(module, "requirements", lambda: [Requirement(line) for line in lines])
    about = Message()
    about["Provides-Extra"] = "more"
    monkeypatch.setattr(module.metadata, "metadata", lambda _: about)
    done = run("doctor", "--json")
    assert done.code == 1 and "torch, no-such-package" in done.err
    assert [package["command"] for package in done.json["packages"]] == [
        f"{install.pip()} install 'torch>=99'", f"{install.pip()} install 'no-such-package<2,>=1'"]  # fmt: skip
    assert done.json["extras"] == [
        {"name": "more", "missing": ["nor-this"], "command": install.install_command("more")}]  # fmt: skip
    assert done.json["assets"] == [] and done.json["devices"] == []
