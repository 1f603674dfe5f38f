"""What runs and evaluations answered, query by query, wherever it is kept: what ``reporting.compare`` compares.

metrics.json, queries.jsonl or hits.parquet    a run on speech, or an archived one: a direction of the protocol
tasks.json, hits.parquet                       a run on text alone: the test split of one of its tasks
text.json, hits.parquet                        ``speechde evaluate-text``: one of its tasks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechde.errors import DataError, unknown_value
from speechde.evaluation.files import subset_rows
from speechde.evaluation.speech import DIRECTIONS, MORE_DIRECTIONS
from speechde.reporting import text
from speechde.reporting.archive import HITS, METRICS, QUERIES, TASKS, kept_queries, read_metrics, read_queries

Queries = dict[tuple[str, str], tuple[str, float]]  # (lang, id) → (sentence, share of the runs that hit)
Rows = Mapping[str, Mapping]  # role and gallery of each language


@dataclass(frozen=True)
class Answered:
    """One folder of results: the ``file`` of its metrics, and what that holds."""

    file: Path
    content: Mapping

    @property
    def spoken(self) -> bool:
        """Whether it is of the directions of the protocol."""
        return self.file.name == METRICS

    @property
    def names(self) -> tuple[str, ...]:
        """What it can have answered: directions, or tasks."""
        if self.spoken:
            return (*DIRECTIONS, *MORE_DIRECTIONS)
        return tuple(self.content["tasks"] if self.file.name == text.FILE else subset_rows(self.content["tasks"]))

    def rows(self, name: str) -> Rows:
        """Rows by language of a direction or task; none of one that it has not."""
        if self.spoken:
            return self.content.get(name, {}).get("per_language", {})
        if self.file.name == text.FILE:
            return self.content["tasks"].get(name, {}).get("per_language", {})
        return subset_rows(self.content["tasks"]).get(name, {})


def answered(run: Path) -> Answered:
    """What a run directory, an archived run or a folder of a text evaluation answered.

    Raises:
        DataError: it is none of these, or damaged.
    """
    folder = run / "results" if (run / "results").is_dir() else run
    file = next((folder / name for name in (METRICS, TASKS, text.FILE) if (folder / name).is_file()), None)
    if file is None:
        raise DataError(f"{folder / METRICS} is missing, and {TASKS} or {text.FILE} too; give the directory of an "
                        "evaluated run, the report_dir of one, or the --output of evaluate-text")  # fmt: skip
    return Answered(file, read_metrics(file))


def read_seeds(runs: Sequence[Path], name: str) -> tuple[Rows, Queries]:
    """As ``read_one``, hits averaged over runs that must all have the same queries."""
    rows, first = read_one(runs[0], name)
    others = [read_one(run, name)[1] for run in runs[1:]]
    for run, queries in zip(runs[1:], others, strict=True):
        if queries.keys() != first.keys():
            raise DataError(f"{runs[0]} and {run} are no seeds of one configuration: they answer other queries")
    every = [first, *others]
    return rows, {key: (first[key][0], sum(q[key][1] for q in every) / len(every)) for key in first}


def read_one(run: Path, name: str) -> tuple[Rows, Queries]:
    """Rows by language, and queries, of one direction or task of a run.

    Raises:
        ConfigError: an unknown direction or task.
        DataError: its queries are not kept, or are those of another evaluation.
    """
    found = answered(run)
    if name not in found.names:
        raise unknown_value("direction" if found.spoken else f"task of {run}", name, found.names)
    folder, rows, kept = found.file.parent, found.rows(name), kept_queries(found.file.parent)
    if kept is None:
        command = found.content.get("command") or "the command that made it"
        raise DataError(f"{folder} keeps its scores but not its queries ({QUERIES} or {HITS}), so that it cannot be "
                        f"compared query by query; run again: {command}")  # fmt: skip
    queries: Queries = {}
    for number, record in enumerate(read_queries(folder), 1):
        if record["direction"] != name:
            continue
        if "sentence" not in record:
            raise DataError(
                f"{kept}:{number} has no 'sentence'; delete {folder}, and run the command that made it again"
            )
        queries[record["lang"], record["id"]] = record["sentence"], float(record["rank"] == 1)
    if unknown := {lang for lang, _ in queries} - set(rows):
        raise DataError(f"{found.file} has no {name} row for {sorted(unknown)}; its files are of two evaluations")
    return rows, queries
