"""What is recorded about a run beside its numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from speechde import provenance


def test_commit_and_its_absence(monkeypatch):
    def fake(head, changes):
        monkeypatch.setattr(provenance, "_git", lambda *a: head if a[0] == "rev-parse" else changes)

    fake("abc123", "")
    assert provenance.commit() == "abc123"
    fake("abc123", " M file")
    assert provenance.commit() == "abc123+"
    monkeypatch.setattr(provenance, "_git", lambda *a: (_ for _ in ()).throw(FileNotFoundError()))
    assert provenance.commit() == "unknown"


def test_hardware_is_one_line():
    line = provenance.hardware()
    assert "\n" not in line and re.search(r"\d+ (×|cores)", line)


def test_a_folder_for_results_is_tried_and_not_made(tmp_path, monkeypatch):
    """All processes of a run try at once: one that took back what it made would pull it from under another."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a folder was made"))
    provenance.check_writable(tmp_path / "a/b", None, tmp_path)
    assert not list(tmp_path.iterdir())
