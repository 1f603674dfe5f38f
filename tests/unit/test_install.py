"""The command that gets an extra, for each way in which the package may have been installed."""

from __future__ import annotations

import json
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from speechde import install

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    "torch>=2",
    "espeakng-loader>=0.2.4,<0.3; extra == 'synthetic'",
    "pypinyin>=0.55; extra == 'breadth'",
    "speechde[synthetic]; extra == 'breadth'",
]


@pytest.fixture
def no_checkout(monkeypatch, tmp_path):
    """Installed somewhere; ``no_checkout(record)`` says from where."""
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(metadata, "requires", lambda name: LINES)

    def record(values):
        class Distribution:
            def read_text(self, name):
                return None if values is None else json.dumps(values)

        monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())

    return record


def test_a_checkout_is_installed_again_in_place(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert shlex.split(install.install_command("lora"))[-3:] == ["install", "-e", ".[lora]"]
    monkeypatch.chdir(ROOT.parent)
    assert shlex.split(install.install_command("lora"))[-3:] == ["install", "-e", f"{ROOT}[lora]"]


def test_every_extra_that_an_error_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    sources = [*ROOT.glob("speechde/**/*.py"), *ROOT.glob("hydra_plugins/*.py")]
    named = {part.split("'")[0] for path in sources for part in path.read_text("utf-8").split("install_command('")[1:]}
    assert {"synthetic", "breadth", "onnx", "demo"} <= named <= set(extras)
    texts = {path: path.read_text("utf-8") for path in [*sources, ROOT / "README.md", *ROOT.glob("docs/*.md")]}
    assert not [path for path, text in texts.items() if "pip install 'speechde[" in text]


def test_nothing_that_every_user_gets_is_the_synthesiser():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert not [line for line in project["dependencies"] if line.startswith("espeakng")]
    assert project["optional-dependencies"]["synthetic"][0].startswith("espeakng-loader")
    assert "synthetic" in project["optional-dependencies"]["dev"][-1]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, ["espeakng-loader<0.3,>=0.2.4", "pypinyin>=0.55"]),
        ({"url": "file:///no/such/speechde.whl"}, ["espeakng-loader<0.3,>=0.2.4", "pypinyin>=0.55"]),
        ({"url": ROOT.as_uri()}, [f"speechde[breadth] @ {ROOT.as_uri()}"]),
        (
            {"url": "https://host/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            ["speechde[breadth] @ git+https://host/r@abc"],
        ),
    ],
)
def test_without_a_checkout(no_checkout, record, expected):
    no_checkout(record)
    words = shlex.split(install.install_command("breadth"))
    assert sorted(words[words.index("install") + 1 :]) == sorted(expected)


def test_pip_of_another_python_is_not_meant(monkeypatch, tmp_path):
    monkeypatch.setattr(install.sys, "executable", "/my env/bin/python")
    monkeypatch.setattr(install.shutil, "which", lambda name: "/usr/bin/pip")
    assert install.pip() == "'/my env/bin/python' -m pip"
    monkeypatch.setattr(install.shutil, "which", lambda name: "/my env/bin/pip")
    assert install.pip() == "pip"


def test_torch_and_torchaudio_are_of_one_exact_release():
    """torchaudio 2.11.1 accepts torch 2.11.0 by its metadata and cannot be imported with it."""
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    pins = {one.name: str(one.specifier) for one in wanted if one.name in ("torch", "torchaudio")}
    assert pins["torch"] == pins["torchaudio"] and re.fullmatch(r"==\d+\.\d+\.\d+", pins["torch"])
    for name, pin in pins.items():
        assert Requirement(f"{name}{pin}").specifier.contains(metadata.version(name)), f"{name} installed, {pin} wanted"
