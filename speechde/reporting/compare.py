"""Does run A beat run B? Paired comparison of two runs over the same queries (``docs/protocol.md``).

The differences of single queries are compared, not two intervals: both runs answer the same queries, so most of what
varies between sentences cancels. Units are sentences, as in the protocol: a paired bootstrap gives the interval of the
difference in recall@1, and an exact two-sided sign test its p, from the sentences that one run answers more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from speechde.errors import DataError, unknown_value
from speechde.evaluation import metrics as m
from speechde.evaluation.speech import DIRECTIONS, MORE_DIRECTIONS, ROLES
from speechde.reporting.archive import HITS, METRICS, QUERIES, kept_queries, read_metrics, read_queries
from speechde.reporting.tables import markdown_table

Queries = dict[tuple[str, str], tuple[str, float]]  # (lang, id) → (sentence, share of the runs that hit)


@dataclass(frozen=True)
class Row:
    """One language, or the mean over the languages of one role, in both runs."""

    name: str
    role: str  # in both runs; "zero_shot/seen" where they differ
    languages: int
    queries: int
    recall_a: float
    recall_b: float
    difference: float  # A − B
    ci95: tuple[float, float]
    won: int  # sentences with more hits in A
    lost: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Differences in recall@1 of two runs, by language and by role."""

    a: str
    b: str
    direction: str
    left_out: tuple[int, int]  # queries of A alone and of B alone
    languages: tuple[Row, ...]
    means: tuple[Row, ...]

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def compare_runs(
    a: Path | Sequence[Path], b: Path | Sequence[Path], direction: str = "audio_to_text", common: bool = False
) -> Comparison:
    """Compare two run directories, which hold ``results/queries.jsonl`` and ``results/metrics.json``, or archived runs.

    Args:
        a, b: a run, or the runs of one configuration with several seeds: what counts is then the share of the seeds
            that answer a query.
        direction: one of the directions of the protocol.
        common: compare the queries that both have; without it, runs of other queries or galleries are refused.

    Raises:
        ConfigError: unknown direction.
        DataError: files are missing or older than the ``sentence`` of records, or the queries differ.
    """
    known = (*DIRECTIONS, *MORE_DIRECTIONS)
    if direction not in known:
        raise unknown_value("direction", direction, known)
    (rows_a, all_a), (rows_b, all_b) = (_read_seeds(runs, direction) for runs in (a, b))
    a, b = (" + ".join(map(str, _paths(runs))) for runs in (a, b))
    alone = [sorted(set(one) - set(other)) for one, other in ((all_a, all_b), (all_b, all_a))]
    shared = sorted(set(all_a) & set(all_b))
    if any(alone) and not common:
        told = [f"{len(ids)} of {run}" + (f" ({ids[0][0]} {ids[0][1]!r})" if ids else "")
                for run, ids in zip((a, b), alone, strict=True)]  # fmt: skip
        raise DataError(f"queries that only one run has: {', '.join(told)}; evaluate both on the same data, or ask for "
                        "the common queries alone (common)")  # fmt: skip
    if not shared:
        raise DataError(f"{a} and {b} have no {direction} query in common; compare runs evaluated on the same data")
    if changed := [key for key in shared if all_a[key][0] != all_b[key][0]]:
        raise DataError(
            f"{len(changed)} queries have another transcript in {b} than in {a} (first: {changed[0][1]!r}); "
            "compare runs evaluated on the same data"
        )
    langs = sorted({lang for lang, _ in shared})
    sizes = {lang: (rows_a[lang]["gallery"], rows_b[lang]["gallery"]) for lang in langs}
    if other := [lang for lang in langs if len(set(sizes[lang])) > 1 and not common]:
        raise DataError(f"{other[0]}: galleries of {sizes[other[0]]} items; evaluate both on the same data")
    parts = [_Paired(lang, [key for key in shared if key[0] == lang], all_a, all_b) for lang in langs]
    roles = {lang: "/".join(dict.fromkeys((rows_a[lang]["role"], rows_b[lang]["role"]))) for lang in langs}
    order = sorted(set(roles.values()), key=lambda role: (role not in ROLES, [ROLES.index(r) for r in role.split("/")]))
    members = {role: [part for part in parts if roles[part.lang] == role] for role in order}
    return Comparison(
        a,
        b,
        direction,
        (len(alone[0]), len(alone[1])),
        tuple(_row(part.lang, role, [part]) for role in order for part in members[role]),
        tuple(_row(role, role, members[role]) for role in order),
    )


def format_comparison(comparison: Comparison, names: tuple[str, str] = ("A", "B")) -> str:
    """The comparison as Markdown; percentages, and points of difference. ``names`` are what the two are called."""
    a, b = names
    lines = [f"{a}: {comparison.a}", f"{b}: {comparison.b}", ""]
    queries = sum(row.queries for row in comparison.languages)
    lines.append(
        f"{comparison.direction}, {queries} queries in both; {a} − {b} in points of R@1, 95 % interval of a paired "
        "bootstrap over sentences; p of a sign test over sentences, not corrected for the number of rows."
    )
    if any(comparison.left_out):
        of_a, of_b = comparison.left_out
        only = f"{of_a} queries of {a} alone and {of_b} of {b} alone are left out"
        lines += ["", f"**Common queries only**: {only}; each run's ranks are in its own gallery."]
    header = ["queries", f"{a} R@1", f"{b} R@1", f"{a} − {b} [95 % CI]", "won", "lost", "p"]
    lines += ["", *markdown_table(["mean over", "languages", *header],
                          [[row.name, str(row.languages), *_cells(row)] for row in comparison.means])]  # fmt: skip
    lines += ["", *markdown_table(["language", "role", *header],
                          [[row.name, row.role, *_cells(row)] for row in comparison.languages])]  # fmt: skip
    return "\n".join([*lines, ""])


def sign_test(won: int, lost: int) -> float:
    """Exact two-sided p of at least so uneven a split of ``won + lost`` fair coins; ties are not counted (1 of 0)."""
    total, term, tail = won + lost, 1, 0
    for k in range(min(won, lost) + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)


class _Paired:
    """Hits of both runs on the queries of one language."""

    def __init__(self, lang: str, keys: Sequence[tuple[str, str]], a: Queries, b: Queries) -> None:
        self.lang = lang
        self.hits = np.array([[run[key][1] for key in keys] for run in (a, b)])  # (2, queries)
        self.difference = self.hits[0] - self.hits[1]
        _, sentence = np.unique([a[key][0] for key in keys], return_inverse=True)
        by_sentence = np.bincount(sentence, weights=self.difference)
        self.won, self.lost = int((by_sentence > 0).sum()), int((by_sentence < 0).sum())
        self.means = m.bootstrap_means(self.difference, sentence, seed=(0, crc32(lang.encode())))


def _row(name: str, role: str, parts: Sequence[_Paired]) -> Row:
    """Languages weigh equally in the scores; the sign test counts all their sentences alike."""
    recall_a, recall_b = np.mean([part.hits.mean(axis=1) for part in parts], axis=0).tolist()
    won, lost = sum(part.won for part in parts), sum(part.lost for part in parts)
    return Row(
        name=name,
        role=role,
        languages=len(parts),
        queries=sum(len(part.difference) for part in parts),
        recall_a=recall_a,
        recall_b=recall_b,
        difference=recall_a - recall_b,
        ci95=m.interval(np.mean([part.means for part in parts], axis=0)),
        won=won,
        lost=lost,
        p=sign_test(won, lost),
    )


def _paths(runs: Path | Sequence[Path]) -> list[Path]:
    return [Path(runs)] if isinstance(runs, (str, Path)) else [Path(run) for run in runs]


def _read_seeds(runs: Path | Sequence[Path], direction: str) -> tuple[Mapping[str, Mapping], Queries]:
    """As ``_read``, hits averaged over runs that must all have the same queries."""
    paths = _paths(runs)
    rows, first = _read(paths[0], direction)
    others = [_read(path, direction)[1] for path in paths[1:]]
    for path, queries in zip(paths[1:], others, strict=True):
        if queries.keys() != first.keys():
            raise DataError(f"{paths[0]} and {path} are no seeds of one configuration: they answer other queries")
    every = [first, *others]
    return rows, {key: (first[key][0], sum(q[key][1] for q in every) / len(every)) for key in first}


def _read(run: Path, direction: str) -> tuple[Mapping[str, Mapping], Queries]:
    """Rows by language, and queries, of one direction of a run."""
    folder = run / "results" if (run / "results").is_dir() else run
    metrics, kept = folder / METRICS, kept_queries(folder)
    if not metrics.is_file():
        raise DataError(f"{metrics} is missing; give the directory of an evaluated run, or the report_dir of one")
    content = read_metrics(metrics)
    if kept is None:
        command = content.get("command") or "the command that made it"
        raise DataError(f"{folder} keeps its scores but not its queries ({QUERIES} or {HITS}), so that it cannot be "
                        f"compared query by query; run again: {command}")  # fmt: skip
    rows = content.get(direction, {}).get("per_language", {})
    queries: Queries = {}
    for number, record in enumerate(read_queries(folder), 1):
        if record["direction"] != direction:
            continue
        if "sentence" not in record:
            raise DataError(
                f"{kept}:{number} has no 'sentence'; delete {folder}, and run the command that made it again"
            )
        queries[record["lang"], record["id"]] = record["sentence"], float(record["rank"] == 1)
    if unknown := {lang for lang, _ in queries} - set(rows):
        raise DataError(f"{metrics} has no {direction} row for {sorted(unknown)}; its files are of two evaluations")
    return rows, queries


def _cells(row: Row) -> list[str]:
    low, high = (f"{100 * value:+.1f}" for value in row.ci95)
    scores = [f"{100 * row.recall_a:.1f}", f"{100 * row.recall_b:.1f}", f"{100 * row.difference:+.1f} [{low}, {high}]"]
    return [str(row.queries), *scores, str(row.won), str(row.lost), f"{row.p:.2g}"]
