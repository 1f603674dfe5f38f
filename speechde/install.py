"""How to install what is missing: the command that works for this installation, since no package index has speechde."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "speechde"
ROOT = Path(__file__).resolve().parents[1]  # of the checkout, where this runs from one


def install_command(extra: str) -> str:
    """The shell command that gets an extra: from the checkout, from where the package came, or package by package."""
    if (ROOT / "pyproject.toml").is_file():
        folder = "." if Path.cwd() == ROOT else str(ROOT)
        return f"{pip()} install -e {shlex.quote(f'{folder}[{extra}]')}"
    if origin := _origin():
        return f"{pip()} install {shlex.quote(f'{NAME}[{extra}] @ {origin}')}"
    return f"{pip()} install {' '.join(shlex.quote(str(found)) for found in _packages(extra))}"


def pip() -> str:
    """``pip``, where the shell finds that of this Python; else how to call it."""
    found = shutil.which("pip")
    own = Path(sys.executable).parent  # not resolved: the python of a virtual environment is a link
    return "pip" if found and Path(found).parent == own else f"{shlex.quote(sys.executable)} -m pip"


def requirements() -> list[Requirement]:
    """What the installed package asks for; nothing when it runs from a folder that was never installed."""
    from packaging.requirements import Requirement  # may be what is missing, and doctor has to say so

    try:
        return [Requirement(line) for line in metadata.requires(NAME) or ()]
    except metadata.PackageNotFoundError:
        return []


def _origin() -> str | None:
    """The address that the package was installed from (PEP 610), while it is there."""
    try:
        record = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    address = record.get("url", "")
    if address.startswith("file:"):
        return address if Path(unquote(urlparse(address).path)).exists() else None
    if version_control := record.get("vcs_info"):
        return f"{version_control['vcs']}+{address}@{version_control['commit_id']}"
    return address or None


def _packages(extra: str) -> list[str]:
    """The packages of an extra, with those of the extras that it names."""
    out: dict[str, None] = {}
    for found in requirements():
        if not found.marker or found.marker.evaluate({"extra": ""}) or not found.marker.evaluate({"extra": extra}):
            continue
        if found.name == NAME:
            out.update(dict.fromkeys(name for inner in sorted(found.extras) for name in _packages(inner)))
        else:
            out[f"{found.name}{found.specifier}"] = None
    return list(out) or [f"{NAME}[{extra}]"]
