"""Finished runs in a form small enough to commit: the metrics, and which queries were answered.

    metrics.json    as in the run's ``results/``
    hits.parquet    direction, lang, id, sentence and rank of each query; what ``compare`` reads. Of texts the direction
                    is the task, and the sentence the number of what the bootstrap draws

A sweep of fifty runs of two thousand queries is a few megabytes so. A later machine goes on with the points that are
missing (``training.finished``), and every comparison between runs can be made again from the committed files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechde.cache import atomic_directory, atomic_write
from speechde.errors import DataError

METRICS, QUERIES, HITS = "metrics.json", "queries.jsonl", "hits.parquet"
TASKS = "tasks.json"  # of a run on text alone, in the place of METRICS
SCHEMA = pa.schema([(name, pa.string()) for name in ("direction", "lang", "id", "sentence")] + [("rank", pa.int32())])


def archive_run(results: Path, target: Path, directions: tuple[str, ...] = ("audio_to_text",)) -> None:
    """Keep what ``results/`` of a run says of some directions in the folder ``target``, replacing what is there."""
    with atomic_directory(target, replace=True) as temporary:
        if (results / TASKS).is_file():
            for name in (TASKS, HITS):
                shutil.copyfile(results / name, temporary / name)
            return
        shutil.copyfile(results / METRICS, temporary / METRICS)
        write_hits(read_queries(results), temporary, directions)


def write_hits(
    records: Iterable[Mapping[str, Any]], folder: Path, directions: tuple[str, ...] = ("audio_to_text",)
) -> None:
    """Write ``hits.parquet`` of the records of some directions."""
    kept = [{name: record[name] for name in SCHEMA.names} for record in records if record["direction"] in directions]
    with atomic_write(folder / HITS) as temporary:
        pq.write_table(pa.Table.from_pylist(kept, SCHEMA), temporary, compression="zstd")


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts by the names of their files into a folder, which is made; each appears whole or not at all."""
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def sorted_json(values: Mapping[str, Any]) -> str:
    """The text of a JSON file of results."""
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read_metrics(path: Path) -> dict[str, Any]:
    """A ``metrics.json``.

    Raises:
        DataError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged ({error}); delete {path.parent}, and run the command that made it again")


def kept_queries(folder: Path) -> Path | None:
    """The file of a results folder, or of an archived run, that holds its queries; None where it keeps none."""
    return next((folder / name for name in (QUERIES, HITS) if (folder / name).is_file()), None)


def read_queries(folder: Path) -> Iterator[dict]:
    """The records of ``speech.evaluate_speech`` from a folder that keeps them (see ``kept_queries``).

    Raises:
        DataError: the file is damaged.
    """
    path = kept_queries(folder)
    if path is None:
        return
    try:
        if path.name == HITS:
            yield from pq.read_table(path).to_pylist()
            return
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    except (ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
