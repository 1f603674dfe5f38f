"""Threads that wait sleep, unless the user has said otherwise: the policy stands when torch's OpenMP is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def run(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["speechde", "train", "evaluate", "speechde.cli.main"])
def test_every_way_in_sets_it_before_torch(module):
    done = run(f"import {module}, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)")
    assert done.stdout == "PASSIVE False\n", done.stderr


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_stays(name):
    done = run(f"import speechde, os; print({{k: os.environ.get(k) for k in {VARIABLES}}})", **{name: "1"})
    assert done.stdout.strip() == str({key: "1" if key == name else None for key in VARIABLES}), done.stderr


def test_openmp_reads_it():
    done = run("import speechde, torch", OMP_DISPLAY_ENV="TRUE")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
