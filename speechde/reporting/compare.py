"""Does A beat B? Paired comparison of two runs, or text evaluations, over the same queries (``docs/protocol.md``).

The differences of single queries are compared, not two intervals: both runs answer the same queries, so most of what
varies between sentences cancels. Units are sentences, as in the protocol: a paired bootstrap gives the interval of the
difference in recall@1, and an exact two-sided sign test its p, from the sentences that one run answers more often.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from speechde.errors import DataError
from speechde.evaluation import metrics as m
from speechde.evaluation.asked import UNKNOWN
from speechde.evaluation.files import ROLE
from speechde.evaluation.speech import DIRECTIONS, MORE_DIRECTIONS, ROLES
from speechde.reporting.archive import write_files
from speechde.reporting.outcomes import Queries, answered, read_seeds
from speechde.reporting.tables import markdown_table, percent, points_cell

FILE = "comparison.json"
SPEECH = "audio_to_text"  # what runs on speech are compared by, where nothing else is asked for
RESAMPLED = "what its evaluation resamples (sentences, paragraphs, families of rows)"
_ORDER = (*ROLES, UNKNOWN, ROLE)


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
    a: Path | Sequence[Path], b: Path | Sequence[Path], direction: str = SPEECH, common: bool = False
) -> Comparison:
    """Compare two run directories, archived runs or folders of text evaluations (``reporting.outcomes``).

    Args:
        a, b: a run, or the runs of one configuration with several seeds: what counts is then the share of the seeds
            that answer a query.
        direction: one of the directions of the protocol, or a task of text.
        common: compare the queries that both have; without it, runs of other queries or galleries are refused.

    Raises:
        ConfigError: unknown direction.
        DataError: files are missing or older than the ``sentence`` of records, or the queries differ.
    """
    (rows_a, all_a), (rows_b, all_b) = (read_seeds(_paths(runs), direction) for runs in (a, b))
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
    order = sorted(set(roles.values()), key=lambda role: (role not in _ORDER, list(map(_ORDER.index, role.split("/")))))
    members = {role: [part for part in parts if roles[part.lang] == role] for role in order}
    return Comparison(
        a,
        b,
        direction,
        (len(alone[0]), len(alone[1])),
        tuple(_row(part.lang, role, [part]) for role in order for part in members[role]),
        tuple(_row(role, role, members[role]) for role in order),
    )


def compare_all(
    a: Path | Sequence[Path], b: Path | Sequence[Path], direction: str | None = None, common: bool = False
) -> list[Comparison]:
    """``compare_runs`` by ``direction``, or where it is None by ``SPEECH``; of texts by every task that all have.

    Raises:
        DataError: they have no task in common, or see ``compare_runs``.
    """
    if direction is not None:
        return [compare_runs(a, b, direction, common)]
    every = [answered(run) for run in (*_paths(a), *_paths(b))]
    if all(each.spoken for each in every):
        return [compare_runs(a, b, SPEECH, common)]
    shared = [name for name in every[0].names if all(name in each.names for each in every)]
    if not shared:
        lists = "; ".join(f"{each.file} has {', '.join(each.names) or 'none'}" for each in every)
        raise DataError(f"there is no task that all of them answered: {lists}; evaluate them on the same tasks")
    return [compare_runs(a, b, name, common) for name in shared]


def write_comparison(folder: Path, comparisons: Sequence[Comparison], command: str) -> None:
    """Write ``comparison.json`` and ``table.md`` into a folder, which is made."""
    content = {"command": command, "comparisons": [each.as_dict() for each in comparisons]}
    table = "\n".join(map(format_comparison, comparisons))
    write_files(folder, {FILE: json.dumps(content, indent=1, ensure_ascii=False) + "\n", "table.md": table})


def format_comparison(comparison: Comparison, names: tuple[str, str] = ("A", "B")) -> str:
    """The comparison as Markdown; percentages, and points of difference. ``names`` are what the two are called."""
    a, b = names
    lines = [f"{a}: {comparison.a}", f"{b}: {comparison.b}", ""]
    queries = sum(row.queries for row in comparison.languages)
    units = "sentences" if comparison.direction in (*DIRECTIONS, *MORE_DIRECTIONS) else RESAMPLED
    lines.append(
        f"{comparison.direction}, {queries} queries in both; {a} − {b} in points of R@1, 95 % interval of a paired "
        f"bootstrap over {units}; p of a sign test over the same, not corrected for the number of rows."
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


def _cells(row: Row) -> list[str]:
    scores = [percent(row.recall_a), percent(row.recall_b), points_cell(row.difference, row.ci95)]
    return [str(row.queries), *scores, str(row.won), str(row.lost), f"{row.p:.2g}"]
