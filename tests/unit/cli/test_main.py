"""Help, exit codes, errors and interrupts of all commands, in the one place that handles them."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from speechde import __version__
from speechde.cli import main as cli
from speechde.errors import AssetError, ConfigError, DataError


def every_command(group=None, path=()):
    group = group or get_command(cli.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(every_command())


def test_the_commands():
    assert {" ".join(path) for path in COMMANDS} >= {
        "embed", "index build", "index add", "index info", "search", "mine", "units", "compare", "report", "mteb",
        "data stats", "doctor"}  # fmt: skip


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_help(run, path):
    """Every command says what it does, explains every option and argument, and ends with examples that parse."""
    done = run(*path, "--help")
    command = COMMANDS[path]
    assert done.code == 0 and len(command.help) > 40
    assert [p.name for p in command.params if not p.help] == []
    title, *examples = re.sub(r"\[/?\w+\]", "", command.epilog).splitlines()
    assert title == "Examples" and title in done.out and examples
    for example in examples:
        words = shlex.split(example.rpartition("| ")[2].strip().removeprefix("$ "))
        assert tuple(words[: len(path) + 1]) == ("speechde", *path)
        command.make_context(path[-1], words[len(path) + 1 :])  # raises for an unknown option


def test_help_of_the_whole(run):
    done = run("--help")
    assert done.code == 0 and "Exit codes" in done.out
    for panel in (cli.USE, cli.EVALUATE, cli.SETUP):
        assert panel in done.out
    assert run("--version").out == f"{__version__}\n"
    assert run().code == 2 and run("frobnicate").code == 2


@pytest.fixture
def failing(monkeypatch, run):
    """``failing(error)`` → how a command ends that raises it."""

    def call(error):
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.callback()
        def nothing():
            pass

        @app.command()
        def fail():
            if callable(error):
                error()
            raise error

        monkeypatch.setattr(cli, "app", app)
        return run("fail")

    return call


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("no\nclip"), 1, "error: no clip\n"),
        (AssetError("gone"), 1, "error: gone\n"),
        (ConfigError("odd"), 2, "error: odd\n"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 1, "error: the disk is full (/x/y)\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "error: Permission denied (/x)\n"),
        (MemoryError(), 1, "error: out of memory; use fewer or shorter clips at once, or a machine with more\n"),
        (type("OutOfMemoryError", (RuntimeError,), {})(), 1,
         "error: the accelerator is out of memory; use --device cpu or --dtype bfloat16\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (lambda: signal.raise_signal(signal.SIGINT), 130, "interrupted\n"),
        (lambda: signal.raise_signal(signal.SIGTERM), 143, ""),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_a_code(failing, error, code, message):
    before = signal.getsignal(signal.SIGTERM)
    done = failing(error)
    assert (done.code, done.err, done.out) == (code, message, "")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["embed", "a", "--frobnicate"], "No such option: --frobnicate"),
        (["embed", "a"], "Missing option '--model' / '-m'."),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["mine", "a", "b", "-k", "x"], "Invalid value for '-k'"),
        (["index", "serch"], "No such command 'serch'"),
    ],
)
def test_the_last_line_is_the_error(run, arguments, last):
    done = run(*arguments)
    assert done.code == 2 and done.out == "" and "─" not in done.err
    usage, *_, error = done.err.splitlines()
    assert usage.startswith("Usage: speechde") and error.startswith(f"error: {last}")


def shell(arguments, redirect):
    """A command in a process of its own, started by a shell that closes or redirects its streams."""
    command = f"exec {shlex.quote(sys.executable)} -m speechde {arguments} {redirect}"
    return subprocess.run(["bash", "-c", command], capture_output=True, timeout=300)


def test_closed_streams(run, index, monkeypatch):
    assert shell(f"index info {index}", "<&- >&- 2>&-").returncode == 0
    for name in ("stdin", "stdout", "stderr"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, None)
            assert cli.main(["index", "info", str(index)]) == 0
            assert cli.main(["index", "info", f"{index}x"]) == 1
            assert cli.main(["embed", "-", "-m", "x", "-o", "x.parquet"]) == 1


def test_nobody_reads(index):
    """As the shell's other tools: no message, and the exit code of SIGPIPE."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "speechde", "index", "info", str(index)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=300)
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.PIPE_CLOSED, b"")


def test_nobody_reads_on(failing):
    """Found while a command writes, where typer would make it exit code 1."""
    assert failing(BrokenPipeError(errno.EPIPE, "Broken pipe")).code == cli.PIPE_CLOSED


def test_a_full_disk_behind_standard_output(index):
    done = shell(f"index info {index}", "> /dev/full")
    assert (done.returncode, done.stderr) == (1, b"error: the disk is full\n")


def test_an_encoding_that_lacks_a_character(models, tmp_path, run, monkeypatch):
    run("embed", "автобус 🚌", "-m", models.continuous, "-o", tmp_path / "a.parquet")
    run("embed", "автобус 🚌", "кот", "-m", models.continuous, "-o", tmp_path / "b.parquet")
    printed = []
    for options in ([], ["--json"]):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
            assert cli.main(["mine", str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), *options]) == 0
            printed.append(sys.stdout.buffer.getvalue())
    assert rb"\u0430\u0432" in printed[0] and json.loads(printed[1])[0]["a"]["text"] == "автобус 🚌"


def test_no_home(run, index, monkeypatch):
    """Neither HOME nor a user of that number; what needs no folder of its own works."""
    for name in ("HOME", "XDG_CACHE_HOME", "SPEECHDE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert run("index", "info", index).code == 0
    error = run("doctor").err
    assert error.startswith("error: ~/.cache begins with a home directory that is not known") and error.count("\n") == 1
    assert "SPEECHDE_CACHE=FOLDER" in error
    assert "~nobody-here/m begins with a home directory" in run("search", index, "a", "--model", "~nobody-here/m").err


def test_a_bug_keeps_its_traceback(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())
    with pytest.raises(RuntimeError, match="mine"):
        failing(RuntimeError("mine"))


def test_messages_go_to_standard_error(run, monkeypatch):
    def speak(*_, **__):
        logging.getLogger("speechde.x").info("a note")
        logging.getLogger("speechde.x").warning("a worry")
        return ["found"]

    monkeypatch.setattr("speechde.reporting.compare.compare_all", speak)
    monkeypatch.setattr("speechde.reporting.compare.format_comparison", lambda _: "result")
    loud, quiet = run("compare", "a", "b"), run("--quiet", "compare", "a", "b")
    assert (loud.out, loud.err) == ("result\n", "a note\nwarning: a worry\n")
    assert (quiet.out, quiet.err) == ("result\n", "warning: a worry\n")


def test_help_is_quick_and_light():
    code = (
        "import sys; sys.argv = ['speechde', '--help']\n"
        "from speechde.cli.main import main; assert main() == 0\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'faiss', 'hydra', 'pytorch_lightning'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "speechde", "index", "info", "none"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: none is no index") and len(done.stderr.splitlines()) == 1
