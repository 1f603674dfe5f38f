"""Training examples as a file that ``examples_file`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechde.cache import atomic_write
from speechde.corpora.examples_file import MEDIA
from speechde.types import Example, Item, Text

_KEYS = {part: key for key, part in MEDIA.items()}


def write_examples(
    examples: Iterable[Example],
    path: str | Path,
    split: str = "train",
    others: Mapping[str, Iterable[Example]] | None = None,
) -> Path:
    """Write JSON Lines that ``read_examples`` reads as the same examples; the file appears whole or not at all.

    Clips and pictures below the file's folder are stored relative to it. What the reader fills in is left out.
    ``others`` are examples of further splits, which follow.
    """
    path = Path(path)
    folder = path.parent.absolute()
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        splits = [(split, examples), *(others or {}).items()]
        for name, example in ((name, example) for name, some in splits for example in some):
            shared = {"shared": True} if example.shared else {}
            row = {
                "query": _written(example.query, folder),
                "positive": _written(example.positive, folder) | shared,
                "negatives": [_written(negative, folder) for negative in example.negatives],
                "stratum": example.stratum,
                "source": example.source,
                "split": name,
            }
            file.write(json.dumps({key: value for key, value in row.items() if value}, ensure_ascii=False) + "\n")
    return path


def _written(item: Item, folder: Path) -> dict[str, Any]:
    parts = [
        {"text": part.content} if isinstance(part, Text) else {_KEYS[type(part)]: _relative(part.content, folder)}
        for part in item.parts
    ]
    facts = {"lang": item.lang, "meaning": item.meaning, "id": item.id, "title": item.title}
    if item.meaning == "\n".join(part.content for part in item.parts):
        del facts["meaning"]
    return {"parts": parts, **{key: value for key, value in facts.items() if value}}


def _relative(file: str, folder: Path) -> str:
    path = Path(file).absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
