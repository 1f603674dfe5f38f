"""Files of public repositories, pinned by commit and SHA-256: found in a folder or the cache, or fetched.

``public.tsv`` beside this module lists them: the name that the project gives a file, the GitHub repository, the commit
and the path there, the licence, and the SHA-256 of the content, decompressed. A file may lie as ``NAME`` or as
``NAME.gz``, as it is fetched or as it was packed.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import urllib.request
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from speechde.cache import atomic_write
from speechde.errors import AssetError, unknown_value
from speechde.progress import progress
from speechde.text import read_lines

HOST = "https://raw.githubusercontent.com"
_TABLE = Path(__file__).with_name("public.tsv")


@dataclass(frozen=True, slots=True)
class Pinned:
    """One file: where it is public, on which terms, and the SHA-256 of its content."""

    repository: str
    commit: str
    source: str
    licence: str
    sha256: str

    @property
    def url(self) -> str:
        """Where it is fetched."""
        return f"{HOST}/{self.repository}/{self.commit}/{urllib.request.quote(self.source)}"


@cache
def pinned() -> dict[str, Pinned]:
    """Every file of the table by its name."""
    _, *rows = read_lines(_TABLE)
    return {name: Pinned(*rest) for name, *rest in (line.split("\t") for _, line in rows)}


def find_files(
    names: Iterable[str], folder: str | Path | None, cache_dir: str | Path, option: str = "data.public"
) -> dict[str, Path]:
    """The path of each file: in ``folder`` if one is given, else in ``cache_dir/public``, else fetched there.

    ``option`` is the configuration key of ``folder``, for the messages. What the paths lead to may be gzipped:
    ``read_content`` and ``text.read_lines`` read both.

    Raises:
        ConfigError: a name that is not in the table.
        AssetError: a file is missing from ``folder``, cannot be fetched, or is not the pinned one; with the fix.
    """
    found, missing = {}, []
    for name in dict.fromkeys(names):
        if name not in pinned():
            raise unknown_value("public file", name, pinned())
        place = Path(cache_dir) / "public" if folder is None else Path(folder)
        path = next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)
        if path is not None:
            _check(name, path, f"remove it, or set {option}=FOLDER to one that holds the file")
            found[name] = path
        elif folder is not None:
            raise AssetError(f"{option}={folder} holds no {name}; get {pinned()[name].url}, or unset {option}")
        else:
            missing.append(name)
    if missing:
        with progress("fetching public files", len(missing), "files") as advance:
            for name in missing:
                found[name] = _fetch(name, Path(cache_dir) / "public", option)
                advance(1)
    return found


def read_content(path: Path) -> bytes:
    """The content of a file, decompressed where its name ends in ``.gz``.

    Raises ``AssetError`` for one that cannot be read.
    """
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise AssetError(f"{path} cannot be read ({error}); get it again") from error


def _fetch(name: str, place: Path, option: str) -> Path:
    entry = pinned()[name]
    path = place / (name + ".gz" if entry.source.endswith(".gz") else name)
    fix = f"get {entry.url} and set {option}=FOLDER to the folder that holds it as {name}"
    with atomic_write(path) as part:
        try:
            with urllib.request.urlopen(entry.url, timeout=60) as response, part.open("wb") as file:
                shutil.copyfileobj(response, file)
        except OSError as error:
            raise AssetError(f"{name} could not be fetched ({error}); {fix}") from error
        _check(name, part, fix)  # before it enters the cache, where a wrong file would be found again and again
    return path


def _check(name: str, path: Path, fix: str) -> None:
    if (found := hashlib.sha256(read_content(path)).hexdigest()) != pinned()[name].sha256:
        raise AssetError(f"{path} has sha256 {found}, expected {pinned()[name].sha256}; {fix}")
