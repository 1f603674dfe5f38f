"""The command line, in this process."""

from __future__ import annotations

import io
import json
import signal
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from speechde.cli import main as cli


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Ctrl-C interrupts, also where pytest itself runs in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def cache(own_cache):
    """Of every command."""


@pytest.fixture(scope="session")
def models(tiny_model):
    """Folders of a ``continuous`` model, of ``another`` of the same width, and of a ``discrete`` one."""
    kinds = {"continuous": tiny_model(), "another": tiny_model(llm="xlm-roberta"), "discrete": tiny_model("discrete")}
    return SimpleNamespace(**kinds)


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """What ``--json`` printed."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys, monkeypatch):
    """``run("embed", …, stdin=b"…")`` → ``Done``: exit code and what was printed."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments, stdin=b""):
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def lines():
    """Five texts."""
    return ["un autobuz", "o pisică", "una casa", "un chat", "deux oiseaux"]


@pytest.fixture
def vectors(run, models, lines, tmp_path):
    """A file of their vectors."""
    path = tmp_path / "texts.parquet"
    text = "\n".join(lines).encode()
    assert run("embed", "-", "-l", "ro", "-m", models.continuous, "-o", path, stdin=text).code == 0
    return path


@pytest.fixture
def index(run, vectors, tmp_path):
    """An index of them."""
    assert run("index", "build", vectors, "--out", tmp_path / "i").code == 0
    return tmp_path / "i"
