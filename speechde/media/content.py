"""What a clip is, for the names of caches: the hash of its file's bytes, and the member where that is a container.

Size and modification time do not tell two clips apart: corpora number their clips alike, and archives are packed with
the same time for every file. So bytes are hashed, once: a list of files is found again by path, size, and the times of
modification and of change of each, of which the last cannot be set by hand. A member of a container counts as the
container's bytes and its own name, so that finding it decodes nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechde.cache import atomic_write, fingerprint, sha256_file
from speechde.errors import DataError
from speechde.media.archives import file_stamp
from speechde.media.containers import split_locator

_THREADS = 4  # that hash: the disk is the limit
_log = logging.getLogger(__name__)


def content_keys(clips: Sequence[str], cache_dir: str | Path) -> list[list[str]]:
    """Of each clip (a path or a locator) the hash of its file, empty where that cannot be read, and the member if any.

    Hashes are kept below ``cache_dir``: one file for all the plain files of a call, one for each container. Where they
    cannot be kept, they are made again the next time.
    """
    located = [split_locator(clip) or (clip,) for clip in clips]
    hashes: dict[str, str] = {}
    for files in _lists(located):
        hashes |= zip(files, _hashes(files, Path(cache_dir)), strict=True)
    return [[hashes[file], *member] for file, *member in located]


def is_known(clips: Sequence[str], cache_dir: str | Path) -> bool:
    """Whether ``content_keys`` would read none of the clips."""
    located = [split_locator(clip) or (clip,) for clip in clips]
    return all(_kept(map(_stamp, files), Path(cache_dir)).is_file() for files in _lists(located))


def _lists(located: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """The lists of files whose hashes are kept together."""
    plain = list(dict.fromkeys(file for file, *member in located if not member))
    containers = dict.fromkeys(file for file, *member in located if member)
    return [*([plain] if plain else []), *([file] for file in containers)]


def _kept(stamps: Iterable[list | None], cache_dir: Path) -> Path:
    return cache_dir / "contents" / f"{fingerprint(list(stamps))}.json"


def _hashes(files: list[str], cache_dir: Path) -> list[str]:
    stamps = [_stamp(file) for file in files]
    kept = _kept(stamps, cache_dir)
    try:
        hashes = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(hashes, list) and len(hashes) == len(files):
            return hashes
    except (OSError, ValueError):
        pass
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(_hash, files))
    if all(hash_ or stamp is None for hash_, stamp in zip(hashes, stamps, strict=True)) and any(hashes):
        try:
            with atomic_write(kept) as temporary:
                temporary.write_text(json.dumps(hashes), encoding="utf-8")
        except OSError as error:
            _log.debug("hashes are not kept: %s", error)
    return hashes


def _stamp(file: str) -> list | None:
    try:
        return [os.path.abspath(file), *file_stamp(file)]
    except (DataError, ValueError):
        return None


def _hash(file: str) -> str:
    try:
        return sha256_file(file)
    except (OSError, ValueError):
        return ""
