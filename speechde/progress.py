"""How far a long stage is: a bar on a terminal, a plain line now and then in a log file.

A bar redraws itself with carriage returns, which fill the log of a batch job with blank lines and one line of thousands
of characters. Where standard error is no terminal, a stage that takes longer than ``FIRST`` seconds prints a line then,
one every ``EVERY`` to ``SELDOM`` seconds, also while a single step lasts, and one at its end:

    embed: 96/4800 items, 3.2 items/s, 24:30 left
    embed: 4800/4800 items in 25:04, 3.2 items/s
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FIRST = 2.0  # seconds without a line: what is over sooner is not worth one
EVERY, SELDOM = 30.0, 300.0  # seconds between lines: a twentieth of the time so far, but within these
Advance = Callable[[float], None]
_silent = False


def silence(asked: bool = True) -> None:
    """Show no progress in this process, or show it again."""
    global _silent
    _silent = asked


def on_terminal() -> bool:
    """Whether bars can be drawn on standard error (or in a notebook)."""
    if sys.stderr is None:  # closed, as under cron
        return False
    return Console(stderr=True).is_jupyter or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


@contextmanager
def progress(label: str, total: int | None, unit: str, *, done: int = 0, enabled: bool = True) -> Iterator[Advance]:
    """Show how far a stage is, on standard error; yields the function that counts what has been done since.

    Args:
        label: of the stage.
        total: of all its steps; None where it is not known.
        unit: what is counted, in the plural.
        done: of them before, which took no time.
        enabled: False shows nothing.
    """
    if not enabled or _silent:
        yield lambda count: None
    elif on_terminal():
        counts = TextColumn(f"{{task.completed:.0f}}{'' if total is None else '/{task.total:.0f}'} {unit}")
        columns = (TextColumn("{task.description}"), BarColumn(), counts, TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total, completed=done)
            yield lambda count: bar.advance(task, count)
    else:
        with Lines(label, total, unit, done) as lines:
            yield lines.advance


def quiet_libraries() -> None:
    """No bars of transformers, which are over in a second, and none of the hub where nobody watches."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not on_terminal():
        disable_progress_bars()


class Lines:
    """The lines of one stage; a context manager. What ``note`` returns stands at the end of each."""

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.before, self.done = done, float(done)
        self.note: Callable[[], str] = str
        self._shown = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Lines:
        self._start = time.monotonic()
        if not FIRST:
            self.say()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is None and (self._shown or self._seconds >= FIRST):
            self.say()

    def advance(self, count: float) -> None:
        """Count ``count`` more as done."""
        self.done += count

    def say(self) -> None:
        """Print a line now."""
        self._shown, seconds = True, self._seconds
        speed = (self.done - self.before) / seconds if seconds else 0.0
        parts = [f"{self.done:.0f}{'' if self.total is None else f'/{self.total}'} {self.unit}"]
        if self._over.is_set():
            parts[0] += f" in {clock(seconds)}"
        if speed:
            parts.append(f"{speed:.{0 if speed >= 10 else 1 if speed >= 1 else 2}f} {self.unit}/s")
            if self.total is not None and not self._over.is_set():
                parts.append(f"{clock((self.total - self.done) / speed)} left")
        line(f"{self.label}: {', '.join([*parts, *filter(None, [self.note()])])}")

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._start

    def _tick(self) -> None:
        wait = FIRST or EVERY
        while not self._over.wait(wait):
            self.say()
            wait = min(SELDOM, max(EVERY, self._seconds / 20))


def line(text: str) -> None:
    """Print a line on standard error, and go on without it where that is closed or its disk is full."""
    if sys.stderr is not None:  # print would write to standard output
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """``75`` → ``1:15``; with hours where there are some: ``1:02:03``."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
