"""``python train.py`` that is told to stop says so, by its last line and exit code, and goes on when asked again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# sends itself the signal when a function is called for the second time
SIGNALLED = """
import importlib, os, runpy, sys
number, module, name = int(sys.argv[1]), *sys.argv[2].split(":")
owner = importlib.import_module(module)
*parts, last = name.split(".")
for part in parts:
    owner = getattr(owner, part)
real, calls = getattr(owner, last), []
def count(*arguments, **options):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), number)
    return real(*arguments, **options)
setattr(owner, last, count)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def command(tiny_overrides):
    return [ROOT / "train.py", *(f"{key}={value}" for key, value in (tiny_overrides | {"trainer.steps": 4}).items())]


@pytest.mark.parametrize(
    "where", ["speechde.training.recall:DevRecall.__call__", "speechde.features.whisper:WhisperFrames.encode"]
)
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "ended by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_while_it_trains_or_encodes(command, python, tmp_path, number, code, said, where):
    stopped = python("-c", SIGNALLED, int(number), where, *command)
    assert stopped.returncode == code, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == f"{said}; the same command goes on from what is done", stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not list((tmp_path / "runs").rglob("metrics.json"))
    done = python(*command)
    assert done.returncode == 0 and list((tmp_path / "runs").rglob("metrics.json")), done.stderr
