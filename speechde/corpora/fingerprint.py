"""Which data a configuration or a list of clips stands for: hashes that tell corpora of one name apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechde.cache import fingerprint, sha256_file
from speechde.config import RunConfig
from speechde.config.ateb import set_name
from speechde.corpora.ateb.sets import brought
from speechde.types import Utterance

# settings of ``DataConfig`` that say where data lie, and nothing of what they hold
PLACES = ("path", "archive", "public", "root", "covost", "translations.root", "synthetic.archive",
          "synthetic.mediawiki", "breadth.udhr", "breadth.mediawiki")  # fmt: skip

# files of a folder that say what a corpus holds
TABLES = {"root": ("data/*/*.tsv",), "covost": ("*.tsv", "*/*.tsv", "*/*.parquet"), "translations.root": ("*",)}


def sources(config: RunConfig) -> dict[str, str]:
    """Hashes of the files that a configuration names as its data; of a folder, of the sizes of its tables.

    It is what can be had before a corpus is read, to tell whether a result is one of these data.
    """
    found = {}
    for name, task in config.tasks.items():
        if own := set_name(task.examples):
            if files := brought(own, config.data.public):
                found[f"tasks.{name}.examples"] = fingerprint([sha256_file(file) for file in files])
        elif Path(task.examples).is_file():
            found[f"tasks.{name}.examples"] = sha256_file(task.examples)[:16]
    groups = {"data": asdict(config.data), "adapt.old": asdict(config.adapt.old) if config.adapt.old else {}}
    for group, values in groups.items():
        settings = dict(flat(values))
        for place in PLACES:
            path = Path(settings.get(place) or "\0")
            if "\0" in str(path):
                continue
            if path.is_file():
                found[f"{group}.{place}"] = sha256_file(path)[:16]
            elif path.is_dir():
                tables = sorted(file for pattern in TABLES.get(place, ()) for file in path.glob(pattern))
                sizes = [[file.relative_to(path).as_posix(), file.stat().st_size] for file in tables]
                found[f"{group}.{place}"] = fingerprint(sizes)
    return found


def content(utterances: Iterable[Utterance]) -> str:
    """8 hex digits of which clips these are, and where they lie: corpora of one name are told apart by it."""
    return hash_of((u.id, u.lang, u.text, u.audio) for u in utterances)[:8]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def hash_of(items: Iterable[tuple]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item).encode() + b"\n")
    return digest.hexdigest()[:16]
