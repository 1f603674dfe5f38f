"""Corpora that come as Debian packages: found or fetched, checked against a hash, and unpacked in part.

A Debian mirror is the one public host that most build machines reach, and a package file is pinned by its SHA-256.
The file is an ``ar`` container whose ``data.tar.*`` member holds the tree; ``dpkg-deb`` opens it where there is one,
and a short reader does elsewhere, so neither root rights nor a Debian system are needed.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from speechde.cache import sha256_file
from speechde.errors import AssetError
from speechde.progress import progress

log = logging.getLogger(__name__)


def find_archive(
    package: str,
    version: str,
    sha256: str | None,
    archive: str | Path | None,
    cache_dir: str | Path,
    option: str = "data.archive",
) -> Path:
    """The package file: ``archive`` if given, else the copy in ``cache_dir``, else fetched by ``apt-get download``.

    The system's package lists are renewed (``apt-get update``) only where they lack the package, and a warning says so.

    ``sha256=None`` accepts any version of the package. ``option`` is the configuration key of ``archive``, for the
    messages. Raises ``AssetError``, naming what to do, when the file is missing, is no Debian archive or has another
    hash, or when it cannot be fetched.
    """
    cache_dir = Path(cache_dir)
    fix = f"set {option}=PATH to the .deb of the Debian package {package}, version {version}"
    other = f"{fix}; find_archive(sha256=None) accepts another version, whose counts will differ"
    if archive is not None:
        path = Path(archive)
        if not path.is_file():
            raise AssetError(f"{option}={archive} is not a file; {fix}")
    elif cached := sorted(cache_dir.glob(f"{package}_*.deb")):
        path = cached[-1]
    else:
        return _download(package, cache_dir, lambda path: _check_archive(path, sha256, fix, other), fix)
    _check_archive(path, sha256, fix, other)
    return path


def unpack(
    archive: str | Path, root: str | Path, wanted: Callable[[PurePosixPath], bool], content: PurePosixPath
) -> Path:
    """Extract the ``wanted`` regular files of a package to ``root``, whole or not at all; return ``root``.

    Paths are relative to the file system's root (``usr/share/...``). ``content`` is the folder that the package is
    unpacked for: a ``root`` that already holds it is left as it is, so use one folder for one archive. Raises
    ``AssetError`` for a damaged archive, one without ``content``, and a ``root`` that holds something else.
    """
    root = Path(root)
    if (root / content).is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as temporary:
        part = Path(temporary) / "root"
        try:
            with _open_data(Path(archive)) as tar:
                for member in tar:
                    _extract(tar, member, part, wanted)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise AssetError(f"{archive} cannot be unpacked ({error}); get the package again") from error
        if not (part / content).is_dir():
            raise AssetError(f"{archive} holds no {content} folder; it is another package, or a version that differs")
        try:
            part.replace(root)
        except OSError as error:
            if not (root / content).is_dir():  # another process may have finished first
                raise AssetError(f"{root} is in the way of unpacking ({error}); remove it or name another") from error
    return root


def _check_archive(path: Path, sha256: str | None, fix: str, other: str) -> None:
    with path.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise AssetError(f"{path} is not a Debian archive; {fix}")
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise AssetError(f"{path} has sha256 {found}, expected {sha256}; {other}")


def _download(package: str, cache_dir: Path, check: Callable[[Path], None], fix: str) -> Path:
    apt = shutil.which("apt-get")
    if apt is None:
        raise AssetError(f"{package} is not in {cache_dir} and this system has no apt-get; {fix}")
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".download.") as folder:
        fetch = [apt, "download", package]
        with progress(f"fetching {package}", 1, "packages") as advance:
            failure = _run(fetch, folder)
            if failure and not _listed(package, folder):  # a fresh system image has no package lists yet
                log.warning("the package lists of this system do not have %s: apt-get update", package)
                failure = _run([apt, "update"], folder) or _run(fetch, folder)
            advance(not failure)
        found = sorted(Path(folder).glob("*.deb"))
        if failure or not found:
            raise AssetError(f"apt-get could not fetch {package} ({failure or 'no file came'}); {fix}")
        # Checked before it enters the cache, where a wrong version would be found again and again.
        check(found[0])
        return found[0].replace(cache_dir / found[0].name)


def _listed(package: str, folder: str) -> bool:
    """Whether apt knows of the package; if so, new lists would not help, and they are the administrator's to renew."""
    cache = shutil.which("apt-cache")
    return cache is not None and not _run([cache, "show", "--no-all-versions", package], folder)


def _run(command: list[str], folder: str) -> str:
    """Run a command and return why it failed, or an empty string."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else ""


@contextmanager
def _open_data(archive: Path) -> Iterator[tarfile.TarFile]:
    """The file tree of a .deb as a tar stream: by dpkg-deb where there is one (quick), otherwise read here."""
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        with archive.open("rb") as file, tarfile.open(fileobj=_seek_data(file), mode="r|*") as tar:
            yield tar
        return
    with subprocess.Popen([dpkg, "--fsys-tarfile", archive], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            yield tar
            process.stdout.read()
        if process.wait():
            raise OSError(process.stderr.read().decode(errors="replace").strip())


def _seek_data(file: IO[bytes]) -> IO[bytes]:
    """Move to the start of the ``data.tar.*`` member of an ar container (60-byte headers, even offsets)."""
    if file.read(8) != b"!<arch>\n":
        raise OSError("not a Debian archive")
    while len(header := file.read(60)) == 60:
        if header.startswith(b"data.tar"):
            return file
        try:
            size = int(header[48:58])
        except ValueError as error:
            raise OSError("damaged archive header") from error
        file.seek(size + size % 2, 1)
    raise OSError("no data.tar in the archive")


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, wanted: Callable[[PurePosixPath], bool]
) -> None:
    """Write one wanted regular file below ``root``; links and paths that leave the tree are passed over."""
    path = PurePosixPath(member.name)
    if not member.isreg() or path.is_absolute() or ".." in path.parts or not wanted(path):
        return
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
