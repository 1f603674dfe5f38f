"""``results/README.md``: everything that is committed under ``results/``, on one page.

The page is a function of the files beside it, so that it can be made again (``make results``) and tested for being
current. A folder is read by the shape of its files: ``metrics.json`` of a run, ``summary.json`` of ``speechde report``,
``tasks.json`` of a run on text alone, ``text.json`` of ``speechde evaluate-text``, ``parts.json`` of ``speechde
evaluate-parts``, ``comparison.json`` of ``speechde compare``; whatever else lies there is listed with the command it
names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechde.errors import DataError
from speechde.reporting import compare, index_texts, parts, text
from speechde.reporting.archive import TASKS
from speechde.reporting.conditions import conditions_table, remark_lines
from speechde.reporting.report import baseline_means
from speechde.reporting.summary import DEFAULT, Run
from speechde.reporting.tables import ROLE_NAMES, markdown_table, percent, points_cell, recall_cell
from speechde.types import SPLITS
from speechde.versions import void_metrics

PAGE = "README.md"
READABLE = ("table.md", "README.md", "index.html")  # of a folder, the first that is there is linked
INTRODUCTION = """# Results

Made from the files in this folder by `make results`; do not edit. What every number means is in
[docs/protocol.md](../docs/protocol.md). R@1 is audio→text recall@1 in per cent, a mean over languages, with a 95 %
bootstrap interval over sentences; T→A is text→audio. Compare rows of one table only: they answer the same queries."""


@dataclass(frozen=True)
class Found:
    """A JSON file under ``results/``, and what it holds."""

    path: Path
    content: object

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.path.parent


def index(folder: str | Path) -> str:
    """The text of ``folder/README.md``.

    Raises:
        DataError: there is no such folder, or a JSON file in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give that of the committed results")
    files = [Found(path, _read(path)) for path in sorted(folder.rglob("*.json"))]
    summaries = [each for each in files if _is_summary(each)]
    reported = tuple(each.folder for each in summaries)  # runs below them are systems of their tables
    files = [each for each in files if not any(each.folder.is_relative_to(top / "runs") for top in reported)]
    runs = [Run(each.folder, each.content) for each in files if _is_run(each)]
    texts = [each for each in files if _is_text(each)]
    alone = [each for each in files if each.path.name == TASKS and isinstance(each.content, Mapping)]
    compared = [each for each in files if each.path.name == compare.FILE and isinstance(each.content, Mapping)]
    in_parts = [each for each in files if each.path.name == parts.FILE and isinstance(each.content, Mapping)]
    placed = [*texts, *alone, *compared, *in_parts]
    others = [each for each in files if not _is_run(each) and not _is_summary(each) and each not in placed]
    lines = [
        INTRODUCTION,
        *_runs(folder, runs),
        *_baselines(folder, runs),
        *_conditions(folder, runs),
        *_parts(folder, in_parts),
    ]
    lines += [*_texts(folder, texts), *_text_runs(folder, alone), *_compared(compared)]
    return "\n".join([*lines, *_summaries(folder, summaries), *_others(folder, others), ""])


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); write it again, or remove it") from error


def _is_run(found: Found) -> bool:
    content = found.content
    keys = {"recipe", "mode", "seed", "data", "commit", "hardware", "wall_seconds", "audio_to_text", "text_to_audio"}
    return found.path.name == "metrics.json" and isinstance(content, Mapping) and keys <= set(content)


def _is_text(found: Found) -> bool:
    return found.path.name == text.FILE and isinstance(found.content, Mapping) and "tasks" in found.content


def _is_summary(found: Found) -> bool:
    content = found.content
    return isinstance(content, Mapping) and isinstance(content.get("boards"), list)


def _runs(folder: Path, runs: Sequence[Run]) -> list[str]:
    """One table for each set of queries, the largest first, and one row for each run."""
    boards: dict[tuple, list[Run]] = {}
    for run in runs:
        boards.setdefault(_queries(run), []).append(run)
    lines = []
    for board in sorted(boards.values(), key=len, reverse=True):
        trained = {_key(run) for run in board if "train" in run.metrics["data"]}
        # a later evaluation of a model gives the same row as its run, and is told of under its baselines
        part = [run for run in board if "train" in run.metrics["data"] or _key(run) not in trained]
        part.sort(key=lambda run: (_key(run), str(run.folder)))
        roles = [role for role in ROLE_NAMES if any(_mean(run.metrics["audio_to_text"], role) for run in part)]
        header = ["recipe", "changed", "mode", "seed", "trained on"]
        header += [f"{ROLE_NAMES[role]} R@1 [95 % CI]" for role in roles]
        controls = list(dict.fromkeys(name for run in part for name in run.metrics.get("controls", {})))
        header += ["gallery", "chance", "T→A", *(f"{name} R@1" for name in controls)]
        header += ["minutes", "hardware", "commit", "command"]
        rows = [_row(folder, run, roles, controls) for run in part]
        lines += ["", f"## {_title(part[0])}", ""]
        if len(roles) > 1:
            lines += [f"Two or more numbers in a cell: {' / '.join(ROLE_NAMES[role] for role in roles)}.", ""]
        lines += markdown_table(header, rows)
    return lines


def _queries(run: Run) -> tuple:
    rows = run.metrics["audio_to_text"]["per_language"]
    return (
        run.metrics["data"].get("corpus", ""),
        _evaluated(run)[0],
        tuple((lang, rows[lang]["queries"]) for lang in sorted(rows)),
    )


def _key(run: Run) -> tuple[str, str, int]:
    return run.metrics["recipe"], run.overrides, run.metrics["seed"]


def _evaluated(run: Run) -> tuple[str, Mapping]:
    """Split and counts of what was evaluated."""
    data = run.metrics["data"]
    split = next(name for name in reversed(SPLITS) if name in data)
    return split, data[split]


def _title(run: Run) -> str:
    split, counts = _evaluated(run)
    return f"{run.metrics['data'].get('corpus', '')}, {split} split: {_clips(counts)}"


def _clips(counts: Mapping) -> str:
    """``1,767 recorded and 7,287 synthetic clips in 4 languages``."""
    made, total = counts["synthetic"], counts["recordings"]
    kinds = [f"{total - made:,} recorded"] if total > made or not made else []
    kinds += [f"{made:,} *synthetic*"] if made else []
    languages = f" in {counts['languages']} languages" if "languages" in counts else ""
    return f"{' and '.join(kinds)} clips{languages}"


def _mean(direction: Mapping, role: str) -> Mapping | None:
    """Means of a role that has languages."""
    mean = direction.get(role)
    return mean if mean and mean["languages"] else None


def _cells(means: Sequence[Mapping | None], key: str) -> str:
    """One number for each role; a dash where there is none at all."""
    if not any(means):
        return "–"
    return " / ".join("–" if mean is None else percent(mean[key]) for mean in means)


def _row(folder: Path, run: Run, roles: Sequence[str], controls: Sequence[str]) -> list[str]:
    metrics = run.metrics
    galleries = [row["gallery"] for row in metrics["audio_to_text"]["per_language"].values()]
    low, high = min(galleries), max(galleries)
    means = [_mean(metrics["audio_to_text"], role) for role in roles]
    back = [_mean(metrics["text_to_audio"], role) for role in roles]
    random = [[_mean(metrics.get("controls", {}).get(name, {}), role) for role in roles] for name in controls]
    minutes = metrics["wall_seconds"]["total"] / 60
    return [
        f"[{metrics['recipe']}]({_link(folder, run.folder)})" + (" (**void**)" if void_metrics(metrics) else ""),
        "–" if run.overrides == DEFAULT else _code(run.overrides.replace("+", " ")),
        metrics["mode"],
        str(metrics["seed"]),
        _clips(metrics["data"]["train"]) if "train" in metrics["data"] else "–",
        *("–" if mean is None else recall_cell(mean) for mean in means),
        str(low) if low == high else f"{low}–{high}",
        _cells(means, "chance"),
        *(_cells(each, "recall@1") for each in (back, *random)),
        f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}",
        str(metrics["hardware"]),
        metrics["commit"],
        _code(metrics.get("command")),
    ]


def _code(text: str | None) -> str:
    return f"`{text}`" if text else "–"


def _link(folder: Path, target: Path) -> str:
    """Relative address of the page of a result folder."""
    page = next((target / name for name in READABLE if (target / name).is_file()), target)
    return page.relative_to(folder).as_posix()


def _baselines(folder: Path, runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        if baselines := run.metrics.get("baselines"):
            lines += ["", f"## Baselines on the queries of {_model(run)}", ""]
            lines += [f"{_title(run)}; [by language]({_link(folder, run.folder)}).", "", *baseline_means(baselines)]
            lines += ["", _made(run)]
    return lines


def _conditions(folder: Path, runs: Sequence[Run]) -> list[str]:
    """Evaluations under noise, through a telephone, at other speeds."""
    lines = []
    for run in runs:
        if conditions := run.metrics.get("conditions"):
            chart = run.folder / "noise.png"
            shown = f"; [chart]({chart.relative_to(folder).as_posix()})" if chart.is_file() else ""
            lines += ["", f"## Under conditions: {_model(run)}", ""]
            lines += [f"{_title(run)}{shown}.", "", *conditions_table(conditions)]
            lines += [*remark_lines(conditions), "", _made(run)]
    return lines


def _parts(folder: Path, files: Sequence[Found]) -> list[str]:
    """Queries of several parts, whole and in parts (``speechde evaluate-parts``)."""
    lines = []
    for found in files:
        lines += ["", f"## Parts of queries: {found.folder.name}", ""]
        lines += [f"{parts.asked(found.content)} ([table]({_link(folder, found.folder)})).", ""]
        lines += [*parts.parts_table(found.content), "", f"Command: {_code(found.content['command'])}, at commit "
                  f"{found.content['commit']}."]  # fmt: skip
    return lines


def _model(run: Run) -> str:
    recipe, overrides, seed = _key(run)
    return recipe + ("" if overrides == DEFAULT else f" {overrides.replace('+', ' ')}") + f", seed {seed}"


def _made(run: Run) -> str:
    return f"Command: {_code(run.metrics.get('command'))}, at commit {run.metrics['commit']}."


def _texts(folder: Path, files: Sequence[Found]) -> list[str]:
    """Rows for each model (``speechde evaluate-text``): of text benchmarks by role, and of ATEB's sets by ability."""
    lines = []
    for title, columns, means in (
        ("Text benchmarks", text.MEANS, text.other_means),
        ("ATEB: factuality, safety, reasoning, instructions", text.ATEB_MEANS, text.ateb_means),
    ):
        rows = []
        for found in files:
            metrics = found.content
            model = f"[{found.folder.name}]({_link(folder, found.folder)})"
            about = [str(metrics.get("sample", {}).get("queries per language", "all")), metrics["hardware"]]
            about += [metrics["commit"], _code(metrics["command"])]
            rows += [[model, *row, *about] for row in means(metrics)]
        header = ["model", *columns, "queries a language", "hardware", "commit", "command"]
        lines += ["", f"## {title}", "", *markdown_table(header, rows)] if rows else []
    return lines


def _text_runs(folder: Path, files: Sequence[Found]) -> list[str]:
    """A row for each task of each run on text alone."""
    known = {found.folder: found.content for found in files}
    rows = []
    for run, cells in index_texts.run_rows(list(known.items())):
        metrics = known[run]
        recipe = f"[{metrics['recipe']}]({_link(folder, run)})"
        rows.append([recipe, *cells, metrics["hardware"], metrics["commit"], _code(metrics.get("command"))])
    return index_texts.table(index_texts.RUN_HEADER, "Runs on text alone, on their test split", rows)


def _compared(files: Sequence[Found]) -> list[str]:
    """The means of each comparison."""
    rows = [
        [*row, _code(found.content.get("command"))]
        for found in files
        for row in index_texts.compared_rows(found.content)
    ]
    return index_texts.table(index_texts.COMPARED_HEADER, "Differences, query by query", rows)


def _summaries(folder: Path, summaries: Sequence[Found]) -> list[str]:
    """The systems of each page that ``speechde report`` wrote, and their differences from the default."""
    lines = []
    for found in summaries:
        for board in found.content["boards"]:
            systems = board["systems"]
            roles = [role for role in ROLE_NAMES if any(role in system for system in systems)]
            apart = {row["name"]: row["means"] for row in board.get("differences", [])}
            header = ["system", "seeds", *(f"{ROLE_NAMES[role]} R@1 [95 % CI]" for role in roles)]
            header += [f"{ROLE_NAMES[role]}, points from the default" for role in roles] if apart else []
            rows = []
            for system in systems:
                row = [system["name"] + (" (**void**)" if system.get("void") else ""), str(len(system["seeds"]))]
                row += [recall_cell(system[role]) if role in system else "–" for role in roles]
                means = apart.get(system["name"], {})
                row += [_difference(means.get(role)) for role in roles] if apart else []
                rows.append(row)
            title = f"{found.folder.relative_to(folder).as_posix()}: {len(systems)} systems on {board['corpus']}"
            page = f"[the whole page]({_link(folder, found.folder)})"
            lines += ["", f"## {title}", "", f"{board['split']} split: {_clips(board['test'])}; {page}.", ""]
            lines += markdown_table(header, rows)
            for system in systems:
                lines += ["", f"**Void**: {system['name']}: {system['void']}."] if system.get("void") else []
    return lines


def _difference(mean: Mapping | None) -> str:
    if mean is None:
        return "–"
    return points_cell(mean["difference"], mean["ci95"])


def _others(folder: Path, others: Sequence[Found]) -> list[str]:
    if not others:
        return []
    rows = []
    for found in others:
        content = found.content if isinstance(found.content, Mapping) else {}
        facts = [content.get(key) for key in ("hardware", "commit")]
        page = _link(folder, found.folder)
        also = f" ([page]({page}))" if page.endswith((".md", ".html")) and found.folder != folder else ""
        name = found.path.relative_to(folder).as_posix()
        texts = [fact if isinstance(fact, str) else "–" for fact in facts]
        command = content.get("command")
        rows.append([f"[{name}]({name}){also}", *texts, _code(command if isinstance(command, str) else None)])
    return ["", "## Other measurements", "", *markdown_table(["file", "hardware", "commit", "command"], rows)]
