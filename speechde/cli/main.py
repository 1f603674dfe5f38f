"""The command ``speechde``: its parts, and the one place where errors and interrupts become exit codes.

Results go to standard output, everything else to standard error. A command is a function in a module of its own, with
``EXAMPLES``; heavy imports are inside it, so that ``speechde --help`` is quick. It raises what it has to say: nothing
but this module prints an error or ends the process.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.markup import escape

from speechde import __version__, progress
from speechde.cli import (
    compare,
    contact_sheet,
    data,
    demo,
    doctor,
    embed,
    evaluate_parts,
    evaluate_text,
    export,
    index,
    mine,
    mteb,
    negatives,
    pictures,
    report,
    results,
    search,
    soup,
    units,
)
from speechde.errors import INTERRUPTED, TERMINATED, ConfigError, SpeechdeError

OK, FAILURE, USAGE, PIPE_CLOSED = 0, 1, 2, 141
EXIT_CODES = """
Exit codes: 0 all is well (bad clips among good ones are counted and listed); 1 it failed, and the last line says why;
2 a wrong option or value; 130 interrupted (Ctrl-C); 141 nobody reads its output any more (| head). Files appear whole
or not at all, whenever a command is stopped.
"""
# click's exception, or that of the copy which newer versions of typer hold
UsageProblem = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
USE, EVALUATE, SETUP = "Use a model", "Evaluate", "Data and set-up"

app = typer.Typer(
    name="speechde",
    help="Embed, search and mine speech and text, across languages, with a trained model.",
    epilog=f"{' '.join(EXIT_CODES.split())}\n\nTraining has its own entry: python train.py --help",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(group: typer.Typer, command: Callable, examples: Sequence[str], panel: str | None = None) -> None:
    """Make a function a command of ``group``, under its own name; its help ends with the examples."""
    lines = ["[bold]Examples[/bold]", *(f"  [cyan]$ {escape(line)}[/cyan]" for line in examples)]
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    help_text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # wrapped by the terminal's width
    name = command.__name__.rstrip("_").replace("_", "-")
    group.command(name, help=help_text, epilog="\n".join(lines), rich_help_panel=panel)(command)


index_group = typer.Typer(help="Make vectors searchable: build, add, info.", no_args_is_help=True)
for command in (index.build, index.add, index.info):
    register(index_group, command, index.EXAMPLES[command.__name__])

data_group = typer.Typer(help="A corpus: what it holds, and as a manifest.", no_args_is_help=True)
for command in (data.stats, data.manifest):
    register(data_group, command, data.EXAMPLES[command.__name__])

pictures_group = typer.Typer(help="Pictures as files of examples: corpora, and your own.", no_args_is_help=True)
for command in (pictures.stamps, pictures.emoji, pictures.openclipart, pictures.manifest):
    register(pictures_group, command, pictures.EXAMPLES[command.__name__])

register(app, embed.embed, embed.EXAMPLES, USE)
app.add_typer(index_group, name="index", rich_help_panel=USE)
register(app, search.search, search.EXAMPLES, USE)
register(app, mine.mine, mine.EXAMPLES, USE)
register(app, negatives.negatives, negatives.EXAMPLES, USE)
register(app, units.units, units.EXAMPLES, USE)
register(app, demo.demo, demo.EXAMPLES, USE)
register(app, soup.soup, soup.EXAMPLES, USE)
register(app, export.export, export.EXAMPLES, USE)
register(app, evaluate_text.evaluate_text, evaluate_text.EXAMPLES, EVALUATE)
register(app, compare.compare, compare.EXAMPLES, EVALUATE)
register(app, evaluate_parts.evaluate_parts, evaluate_parts.EXAMPLES, EVALUATE)
register(app, contact_sheet.contact_sheet, contact_sheet.EXAMPLES, EVALUATE)
register(app, report.report, report.EXAMPLES, EVALUATE)
register(app, results.results, results.EXAMPLES, EVALUATE)
register(app, mteb.mteb, mteb.EXAMPLES, EVALUATE)
app.add_typer(data_group, name="data", rich_help_panel=SETUP)
app.add_typer(pictures_group, name="pictures", rich_help_panel=SETUP)
register(app, doctor.doctor, doctor.EXAMPLES, SETUP)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only, no progress.")] = False,
) -> None:
    """Options of every command."""
    logging.getLogger("speechde").setLevel(logging.WARNING if quiet else logging.INFO)
    progress.silence(quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, print what went wrong as one line, and return the exit code.

    An error that nobody foresaw is a bug, and passes with its traceback.
    """
    _prepare_streams()
    _log_to_stderr()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that temporary files are removed
    try:
        code = app(arguments if arguments is None else list(arguments), prog_name="speechde", standalone_mode=False)
        if code == INTERRUPTED:
            _say("interrupted")
        sys.stdout.flush()
        return code or OK
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # which typer turns into exit code 1
            return _pipe_closed()
        return OK if end.code is None else end.code if isinstance(end.code, int) else FAILURE
    except UsageProblem as error:
        return _wrong_usage(error)
    except typer.Abort:
        _say("error: stopped; the input that was asked for has ended")
        return FAILURE
    except BrokenPipeError:
        return _pipe_closed()
    except SpeechdeError as error:
        _say(f"error: {error}")
        return USAGE if isinstance(error, ConfigError) else FAILURE
    except MemoryError:
        _say("error: out of memory; use fewer or shorter clips at once, or a machine with more")
        return FAILURE
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _say(f"error: {'the disk is full' if error.errno == errno.ENOSPC else error.strerror or error}{where}")
        return FAILURE
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own, which is not worth importing torch for
            raise
        _say("error: the accelerator is out of memory; use --device cpu or --dtype bfloat16")
        return FAILURE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def entry() -> None:
    """What the installed script runs."""
    sys.exit(main())


def _prepare_streams() -> None:
    """Streams that take everything: closed ones (cron, ``>&-``) lead nowhere, and no character is an error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their file descriptors
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does


def _pipe_closed() -> int:
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # so that nothing is left to be written at the end
    return PIPE_CLOSED


def _wrong_usage(error: UsageProblem) -> int:
    """Say what is wrong with the command line, how it should be, and the error last; help where it was empty."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return error.exit_code
    if context := getattr(error, "ctx", None):
        _say(context.get_usage())
        _say(f"Try '{context.command_path} --help'.")
    _say(f"error: {error.format_message()}")
    return error.exit_code


def _say(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr)


class _Lines(logging.Formatter):
    """``warning: …`` for warnings and worse, the bare message for the rest."""

    def format(self, record: logging.LogRecord) -> str:
        label = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return label + record.getMessage()


def _log_to_stderr() -> None:
    logger = logging.getLogger("speechde")
    logger.propagate = False
    for handler in [handler for handler in logger.handlers if isinstance(handler.formatter, _Lines)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logger.addHandler(handler)
