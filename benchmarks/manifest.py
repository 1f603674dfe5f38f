"""The start of a run on a manifest of a million rows: read it, look for every file, find leaks, count, and plan.

``train.py … plan_only=true`` in a process of its own, against the time and the memory that were set as limits. The rows
are generated: ten languages, texts of five to eighteen made-up words, a thousand files again and again.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Different, Result
from benchmarks.inputs import Inputs
from benchmarks.large_batch import ROOT

ROWS, FILES = 1_000_000, 1000
SECONDS, MEGABYTES = 60.0, 4096.0  # the limits
LANGS = ("fr_fr", "de_de", "es_419", "it_it", "ro_ro", "nl_nl", "pt_br", "ru_ru", "pl_pl", "cs_cz")
SEEN = LANGS[:8]
LETTERS = "abcdefghiklmnoprstuvéèçàöüăж"


def run(inputs: Inputs) -> Iterator[Result]:
    """A row of time, and one of memory."""
    rows = 300 if inputs.tiny else ROWS
    path = write(inputs.scratch / "rows.tsv", rows)
    seconds, peak = planned(inputs, path, rows)
    path.unlink()
    what, facts = f"start of a run on a manifest of {rows} rows", {"rows": rows}
    yield Result("manifest_seconds", f"{what}: processor time", "the limit that was set", "s",
                 {"ours": [seconds], "peer": [SECONDS]}, 1.0, True, facts)  # fmt: skip
    yield Result("manifest_memory", f"{what}: peak memory", "the limit that was set", "MB",
                 {"ours": [peak], "peer": [MEGABYTES]}, 1.0, True, facts)  # fmt: skip


def write(path: Path, rows: int) -> Path:
    """A manifest of so many rows and, beside it, its empty files, which a plan does not open."""
    draw = random.Random(0)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(20_000)]
    files = [path.with_name(f"clip{n}.wav") for n in range(min(rows, FILES))]
    for file in files:
        file.touch()
    with path.open("w", encoding="utf-8") as out:
        out.write("id\tlang\ttext\taudio\tsplit\tspeaker\tseconds\n")
        for n in range(rows):
            split = {0: "dev", 1: "test"}.get(n // len(LANGS) % 100, "train")
            text = " ".join(draw.choices(words, k=draw.randint(5, 18))).capitalize() + "."
            row = (f"c{n}", LANGS[n % len(LANGS)], text, files[n % len(files)].name, split, f"s{n % 999}",
                   f"{2 + n % 9}.5")  # fmt: skip
            out.write("\t".join(row) + "\n")
    return path


def planned(inputs: Inputs, path: Path, rows: int) -> tuple[float, float]:
    """Processor seconds and peak resident MB of a run that stops after its plan.

    Raises:
        Different: it did not count every row.
    """
    command = [sys.executable, "train.py", "recipe=quickstart_narrow", "data=manifest", f"data.path={path}",
               f"data.seen=[{','.join(SEEN)}]", "tasks.speech.shares.synthetic=0", "plan_only=true",
               f"frontend.encoder={inputs.encoder}", f"model.source={inputs.small}", "model.speech_layer=0",
               "model.num_layers=null", f"runs_dir={inputs.scratch / 'runs'}"]  # fmt: skip
    output = path.with_suffix(".txt")
    with output.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = output.read_text(encoding="utf-8")
    counted = re.search(r"^all +all +(\d+)", text, re.MULTILINE)
    if process.returncode or not counted:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-2000:]}")
    if int(counted[1]) != rows:
        raise Different(f"{counted[1]} of {rows} rows were counted")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
