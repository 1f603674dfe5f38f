"""Progress: lines where nobody watches, a bar on a terminal, nothing where none is asked for."""

from __future__ import annotations

import os
import sys
import time

import pytest

from speechde import progress as module
from speechde.progress import clock, line, progress


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "FIRST", 0.0)


def test_lines_of_a_log_file(at_once, capfd):
    with progress("embed", 8, "items", done=2) as advance:
        for _ in range(6):
            advance(1)
    out, err = capfd.readouterr()
    first, last = err.splitlines()
    assert first == "embed: 2/8 items" and last.startswith("embed: 8/8 items in 0:00, ") and "items/s" in last
    assert out == "" and "\r" not in err and "\x1b" not in err and not err.endswith("\n\n")


def test_a_stage_that_is_soon_over_prints_nothing(capfd):
    with progress("embed", 8, "items") as advance:
        advance(8)
    assert capfd.readouterr() == ("", "")


def test_a_line_now_and_then_while_one_step_lasts(monkeypatch, capfd):
    for name in ("FIRST", "EVERY", "SELDOM"):
        monkeypatch.setattr(module, name, 0.05)
    with progress("fetch", None, "files"):
        time.sleep(0.3)
    *lines, last = capfd.readouterr().err.splitlines()
    assert len(lines) >= 2 and set(lines) == {"fetch: 0 files"} and last == "fetch: 0 files in 0:00"


def test_what_fails_has_no_last_line(at_once, capfd):
    with pytest.raises(KeyError), progress("embed", 8, "items"):
        raise KeyError
    assert capfd.readouterr().err == "embed: 0/8 items\n"


@pytest.mark.parametrize("silent", ["not asked for", "silenced"])
def test_nothing_where_none_is_asked_for(at_once, capfd, monkeypatch, silent):
    monkeypatch.setattr(module, "_silent", silent == "silenced")
    with progress("embed", 8, "items", enabled=silent == "silenced") as advance:
        advance(8)
    assert capfd.readouterr() == ("", "")


def test_standard_error_may_be_closed(at_once, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress("embed", 1, "items") as advance:
        advance(1)
    with open(os.devnull) as closed:
        monkeypatch.setattr(sys, "stderr", closed)  # not writable
        line("lost")
    assert capfd.readouterr() == ("", "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 10_000)
    except OSError:  # the other end is closed, and all is read
        return b""


def test_a_bar_on_a_terminal(at_once, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    with open(slave, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        with progress("embed", 8, "items") as advance:
            advance(8)
    shown = b"".join(iter(lambda: _read(master), b"")).decode()
    assert "8/8 items" in shown and "\x1b[" in shown
    monkeypatch.setenv("TERM", "dumb")
    assert not module.on_terminal()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-1, "0:00"), (59.6, "1:00"), (75, "1:15"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
