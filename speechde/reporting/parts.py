"""Write the results of ``evaluation.parts``: ``parts.json``, ``table.md``, and over noise ``noise.png``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from speechde.reporting.archive import sorted_json, write_files
from speechde.reporting.conditions import conditions_table, remark_lines
from speechde.reporting.report import noise_file, save_figures

FILE = "parts.json"


def write_parts_report(folder: Path, metrics: Mapping) -> None:
    """Write the files into ``folder``, which is made."""
    write_files(folder, {FILE: sorted_json(metrics), "table.md": parts_markdown(metrics)})
    save_figures(folder, noise_file(metrics))


def parts_markdown(metrics: Mapping) -> str:
    """The text of ``table.md``."""
    lines = [f"# Parts of queries: {metrics['examples']}", "", f"- model {metrics['model']}", f"- {asked(metrics)}"]
    lines += [f"- commit {metrics['commit']}; hardware {metrics['hardware']}; {metrics['seconds']:.0f} s"]
    lines += [f"- command `{metrics['command']}`", "", *parts_table(metrics)]
    return "\n".join([*lines, ""])


def asked(metrics: Mapping) -> str:
    """What was asked among what, and what was left out."""
    dropped = ", ".join(f"{reason}: {count}" for reason, count in sorted(metrics["dropped"].items()))
    return (
        f"{metrics['queries']:,} queries of the split {metrics['split']} in {metrics['languages']} languages, each "
        f"among {metrics['gallery']} answers on average; left out: {dropped or 'none'}"
    )


def parts_table(metrics: Mapping) -> list[str]:
    """Rows by role and condition, and in words what the whole query is above."""
    conditions = metrics["conditions"]
    return [*conditions_table(conditions), *remark_lines(conditions, every=True)]
