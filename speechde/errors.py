"""Errors that a user can act on.

Every message names the offending value, the allowed set, and the fix. ``SpeechdeError`` is the base, so that an
entry point can print the message without a traceback; the second base keeps ``except ValueError`` working.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

INTERRUPTED, TERMINATED = 130, 143  # exit codes of a program that a signal ended: 128 and its number


class SpeechdeError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(SpeechdeError, ValueError):
    """A configuration key or value is not one of those allowed."""


class DataError(SpeechdeError, ValueError):
    """Input data cannot be used (a manifest, a clip, a text)."""


class AssetError(SpeechdeError, RuntimeError):
    """A packaged asset (weights, corpus) is missing, damaged or cannot be fetched."""


def unknown_value(
    what: str, value: object, allowed: Iterable[object], fix: str = "", spellings: Mapping[str, str] | None = None
) -> ConfigError:
    """Build the error for a value outside an allowed set, with the nearest allowed value as a hint.

    ``spellings`` are further names of allowed values, in lower case, that the nearest is looked for among.

    >>> str(unknown_value("model.pooling", "maen", ["mean", "last"]))
    "model.pooling: 'maen' is not known; allowed: last, mean. Did you mean 'mean'?"
    """
    names = sorted(str(item) for item in allowed)
    close = get_close_matches(str(value), names, n=1)
    if not close and spellings and (near := get_close_matches(str(value).casefold(), spellings, n=1)):
        close = [spellings[near[0]]]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ConfigError(f"{what}: {value!r} is not known; allowed: {', '.join(names)}.{hint}{' ' + fix if fix else ''}")
