"""Write the results of a text evaluation: ``text.json`` and ``table.md``, rows by language and means by role.

The numbers come from :mod:`speechde.evaluation.text`; nothing is computed here. ``hits.parquet`` holds the rank of each
query (``reporting.archive``), by the id of its row: many of these texts are offensive, and none is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from speechde.evaluation.asked import UNKNOWN
from speechde.evaluation.ateb import ABILITY_OF
from speechde.languages import LANGUAGES
from speechde.reporting.archive import sorted_json, write_files, write_hits
from speechde.reporting.tables import ROLE_NAMES, markdown_table, percent, recall_cell

FILE = "text.json"
NAMES = {**ROLE_NAMES, UNKNOWN: "training unknown"}
_SCORES = ["R@1 [95 % CI]", "R@5", "MRR"]
CONTROLS = ["majority", "overlap", "probe", "alone", "answer"]  # of evaluation.ateb_controls
MEANS = ["task", "role", "languages", "chance", *_SCORES]
ATEB_MEANS = ["ability", "task", "parts", "chance", "accuracy [95 % CI]", *CONTROLS]


def write_text_report(folder: Path, metrics: Mapping, hits: Iterable[Mapping]) -> None:
    """Write the files into ``folder``, which is made; ``hits`` are ``evaluation.retrieval.outcomes``."""
    write_hits(hits, folder, tuple(metrics["tasks"]))
    write_files(folder, {FILE: sorted_json(metrics), "table.md": text_markdown(metrics)})


def text_markdown(metrics: Mapping) -> str:
    """The text of ``table.md``; percentages but for MRR. The same for ``metrics`` and for what ``text.json`` kept of
    them: the file sorts its keys, so the order of a dictionary decides nothing here."""
    facts = ", ".join(f"{key} {_written(value)}" for key, value in sorted(metrics["model"].items()) if key != "name")
    lines = [f"# Text retrieval: {metrics['model']['name']}", "", f"- model: {facts}"]
    lines += [f"- {key}: {_written(metrics[key])}" for key in ("sample", "noted", "licences") if metrics.get(key)]
    lines += [_aloud(metrics["aloud"])] if metrics.get("aloud") else []
    lines += [f"- commit {metrics['commit']}; hardware {metrics['hardware']}; {metrics['seconds']:.0f} s"]
    lines += [f"- command `{metrics['command']}`", "", "## Means over languages", ""]
    lines += markdown_table(MEANS, means(metrics))
    if metrics.get("controls"):
        lines += ["", "## Controls of ATEB's sets", "", *markdown_table(["task", *CONTROLS], controls(metrics))]
    for name, task in sorted(metrics["tasks"].items()):
        rows = [
            [lang, LANGUAGES[lang].name if lang in LANGUAGES else "–", NAMES[row["role"]], str(row["queries"]),
             str(row["gallery"]), percent(row["chance"]), *_scores(row)]
            for lang, row in sorted(task["per_language"].items(), key=lambda item: (list(NAMES).index(item[1]["role"]),
                                                                                    item[0]))
        ]  # fmt: skip
        header = ["code", "name", "role", "queries", "gallery", "chance", *_SCORES]
        lines += ["", f"## {name}", "", *markdown_table(header, rows)]
    return "\n".join([*lines, ""])


def _aloud(facts: Mapping) -> str:
    """What was read, and what was left out."""
    left_out = _written(facts["left out"]) or "none"
    return f"- asked aloud, *synthetic* speech: {facts['read']} inputs read by {facts['reader']}; left out: {left_out}"


def means(metrics: Mapping) -> list[list[str]]:
    """Rows of ``MEANS``: each task and role."""
    return _means(metrics, metrics["tasks"])


def _means(metrics: Mapping, names: Iterable[str]) -> list[list[str]]:
    aloud = " aloud (*synthetic*)" if metrics.get("aloud") else ""
    return [
        [name + aloud, NAMES[role], str(task[role]["languages"]), percent(task[role]["chance"]), *_scores(task[role])]
        for name, task in sorted(metrics["tasks"].items())
        for role in NAMES
        if role in task and name in names
    ]


def ateb_means(metrics: Mapping) -> list[list[str]]:
    """Rows of ``ATEB_MEANS``: each task of ATEB's sets and role, with its controls; accuracy is R@1."""
    found = metrics.get("controls", {})
    return [
        [ABILITY_OF[name], task, languages, chance, accuracy, *control_cells(found.get(name, {}))]
        for name in sorted(metrics["tasks"])
        if name in ABILITY_OF
        for task, _, languages, chance, accuracy, *_ in _means(metrics, [name])
    ]


def other_means(metrics: Mapping) -> list[list[str]]:
    """The rows of ``MEANS`` that are of no set of ATEB."""
    return _means(metrics, [name for name in metrics["tasks"] if name not in ABILITY_OF])


def controls(metrics: Mapping) -> list[list[str]]:
    """Rows of ``task`` and ``CONTROLS``: accuracy, a mean over the parts of a set."""
    return [[name, *control_cells(found)] for name, found in sorted(metrics["controls"].items())]


def control_cells(found: Mapping[str, Mapping]) -> list[str]:
    """A cell for each of ``CONTROLS``, a dash for one that a task has not."""
    means = {
        name: sum(row["recall@1"] for row in parts.values()) / len(parts) for name, parts in found.items() if parts
    }
    return [percent(means[name]) if name in means else "–" for name in CONTROLS]


def _scores(row: Mapping) -> list[str]:
    return [recall_cell(row), percent(row["recall@5"]), f"{row['mrr']:.3f}"]


def _written(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {each}" for key, each in sorted(value.items()))
    return (
        " / ".join(f"`{each}`" if each else "none" for each in value) if isinstance(value, list | tuple) else str(value)
    )
