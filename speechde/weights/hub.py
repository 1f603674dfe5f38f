"""Calls to the model hub that fail soon, once and in one sentence.

The hub's client tries six times for every file, prints a line for each try, and lets the errors of its HTTP library
through, whose classes change with its version. So the hub is asked first whether it answers at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_session

from speechde.errors import AssetError, SpeechdeError

PATIENCE = 3.0  # seconds for the first answer; looking a name up may take longer than any timeout of the client
_answered: set[str] = set()


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids every call."""
    return constants.HF_HUB_OFFLINE


def unreachable() -> str | None:
    """Why the hub cannot be reached, decided within ``PATIENCE`` seconds; None when it answers, with whatever status.

    A hub that has answered once is not asked again in this process.
    """
    endpoint = constants.ENDPOINT
    if offline():
        return "HF_HUB_OFFLINE=1 forbids it"
    if endpoint in _answered:
        return None
    reasons = [f"{endpoint} did not answer within {PATIENCE:g} s"]

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=PATIENCE)
            _answered.add(endpoint)
        except Exception as error:  # any reason why there is no answer
            reasons.append(f"{endpoint}: {first_line(error)}")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return None if endpoint in _answered else reasons[-1]


@contextmanager
def calling(what: str, fix: str) -> Iterator[None]:
    """Whatever the hub's client raises inside becomes one ``AssetError``: ``what (reason). fix``."""
    try:
        yield
    except SpeechdeError:
        raise
    except Exception as error:
        raise AssetError(f"{what} ({first_line(error)}). {fix}") from error


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
