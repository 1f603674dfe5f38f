"""What ``train.py`` and ``evaluate.py`` have in common: overrides checked before Hydra, errors as one line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from speechde.errors import INTERRUPTED, TERMINATED, SpeechdeError
from speechde.overrides import prepare

GOES_ON = "the same command goes on from what is done"
QUOTING = "Quote what Hydra would read, inside the quotes of the shell: 'key=\"value\"'"


class Stopped(SystemExit):
    """The end of a program that a signal ended, said already."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can correct ends the program with ``error: …`` and code 1, a signal with a line and its own code."""
    try:
        yield
    except Stopped:
        raise
    except KeyboardInterrupt:
        _stop("interrupted", INTERRUPTED)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning turns into code 1
            _stop("interrupted", INTERRUPTED)
        # Lightning's own exception has no code, and is not worth importing it for
        if end.code == TERMINATED or type(end).__name__ == "SIGTERMException":
            _stop("ended by SIGTERM", TERMINATED)
        raise
    except SpeechdeError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if "https://hydra.cc" not in line]
        where = [f"override {given}"] if (given := getattr(error, "override", None)) else []
        sys.exit(f"error: {'; '.join(filter(None, [*where, *lines]))}. {QUOTING}")


def _stop(what: str, code: int) -> None:
    print(f"{what}; {GOES_ON}", file=sys.stderr, flush=True)
    raise Stopped(code)


def start(
    main: Callable[[], object], conf: Path, groups: Sequence[str] | None = None, strings: Sequence[str] = ()
) -> None:
    """Run a ``hydra.main`` function on ``sys.argv``; see ``speechde.overrides.prepare`` for the arguments.

    Its own errors are its own to report (``one_line_errors``): Hydra prints a line about any exception that leaves it.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's errors arrive here, and not on the screen
    # so that temporary files are removed; a handler must not print, as it may come amid a line
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    with one_line_errors():
        sys.argv[1:] = prepare(sys.argv[1:], conf, groups, strings)
        main()
