"""Write one run's results: ``metrics.json``, ``table.md``, and pictures of recall, of the learning curve and of noise.

The numbers come from :mod:`speechde.evaluation.speech`; nothing is computed here. Seen and
zero-shot languages stand in separate rows and colours, and chance and interval stand beside every headline score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from speechde.cache import atomic_write
from speechde.errors import DataError
from speechde.evaluation.speech import DIRECTIONS, ROLES
from speechde.languages import LANGUAGES, REGIONS
from speechde.reporting.archive import METRICS, sorted_json, write_files
from speechde.reporting.conditions import conditions_markdown, noise_figure, noise_levels
from speechde.reporting.tables import (
    CHANCE_COLOUR,
    ROLE_COLOURS,
    ROLE_NAMES,
    markdown_table,
    percent,
    points_cell,
    recall_cell,
)
from speechde.text import CHARACTER_LANGS
from speechde.types import SPLITS

STAGES = ("fetch", "frames", "kmeans", "train", "evaluate", "total")
RUN_KEYS = ("recipe", "mode", "seed", "commit", "hardware", "data", "wall_seconds")
BARS_PER_COLUMN = 51


def write_report(
    directory: str | Path,
    metrics: Mapping,
    curves: Sequence[Mapping] = (),
    controls: Mapping[str, Mapping] | None = None,
) -> list[Path]:
    """Write all result files of one run into ``directory`` and return their paths.

    Args:
        directory: made when missing; files of the same name are replaced.
        metrics: run facts (``RUN_KEYS``, optional ``command`` and ``config``) and the protocol's output. ``data``
            maps splits to their counts, ``recordings`` and ``synthetic`` among them.
        curves: rows with ``step`` and ``train_loss`` and/or ``dev_recall@1``; no rows, no learning-curve picture.
        controls: protocol output of control runs by name; each adds a column of audio→text recall@1.

    Raises:
        DataError: a key is missing, or a number is not finite.
    """
    controls = controls or {}
    _check(metrics)
    directory = Path(directory)
    try:
        texts = {METRICS: sorted_json(metrics), "table.md": markdown(metrics, controls)}
    except ValueError as error:
        raise DataError("metrics hold NaN or infinity, which JSON cannot store; find the stage that made it") from error
    write_files(directory, texts)
    figures = {"recall.png": recall_figure(metrics), "curves.png": curves_figure(curves) if curves else None}
    return [*(directory / name for name in texts), *save_figures(directory, figures | noise_file(metrics))]


def markdown(metrics: Mapping, controls: Mapping[str, Mapping]) -> str:
    """The text of ``table.md``; percentages but for MRR and BLEU."""
    size = metrics["fixed_gallery"]["size"]
    lines = [f"# {metrics['recipe']} ({metrics['mode']}, seed {metrics['seed']})", ""]
    lines += [f"- data, {part}" for part in _data_lines(metrics["data"])]
    lines += [f"- commit {metrics['commit']}; hardware {_inline(metrics['hardware'])}"]
    if metrics.get("command"):
        lines += [f"- command `{metrics['command']}`"]
    header = ["R@1 [95 % CI]", f"R@1, gallery {size}", "R@5", "MRR", "WER", "T→A R@1", "A→En R@1", "A→En BLEU"]
    header += [f"{name} R@1" for name in controls]
    lines += ["", "## Means over languages", ""]
    lines += markdown_table(
        ["role", "languages", "chance", *header], [_macro_row(metrics, controls, role) for role in _roles(metrics)]
    )
    if metrics.get("sizes"):
        lines += ["", "## Sizes of the vectors, means over languages", "", *size_table(metrics["sizes"])]
    if metrics.get("tasks"):
        lines += ["", "## Files of examples, held out", "", *task_table(metrics["tasks"])]
    lines += ["", "## Regions, audio→text R@1 [95 % CI]", "", *_region_table(metrics)]
    lines += ["", "## Languages", ""]
    rows = [_language_row(metrics, controls, lang) for lang in _by_role(metrics)]
    lines += markdown_table(["code", "name", "role", "queries", "gallery", "chance", *header], rows)
    if any(lang in CHARACTER_LANGS for lang in _by_role(metrics)):
        lines += [
            "",
            "\\* character error rate: the language has no spaces between words. Means over languages mix both.",
        ]
    if metrics.get("baselines"):
        lines += ["", *baselines_markdown(metrics["baselines"])]
    if metrics.get("conditions"):
        lines += ["", *conditions_markdown(metrics["conditions"])]
    if metrics.get("bleu_signature"):
        lines += ["", f"BLEU: sacrebleu `{metrics['bleu_signature']}`."]
    return "\n".join([*lines, "", "## Wall time", "", *_stage_table(metrics["wall_seconds"]), ""])


def task_markdown(metrics: Mapping) -> str:
    """The text of ``table.md`` of a run on text alone."""
    lines = [f"# {metrics['recipe']} ({metrics['mode']}, seed {metrics['seed']})", ""]
    lines += [f"- examples, {name}: {_inline(counts)}" for name, counts in metrics["data"]["tasks"].items()]
    lines += [f"- {key} {_inline(metrics['data'][key])}" for key in ("noted", "dropped") if metrics["data"][key]]
    lines += [f"- commit {metrics['commit']}; hardware {_inline(metrics['hardware'])}"]
    lines += [f"- command `{metrics['command']}`"] if metrics.get("command") else []
    lines += ["", "## Files of examples, held out", ""]
    held_out = task_table(metrics["tasks"]) if metrics["tasks"] else ["No file has a test split."]
    return "\n".join([*lines, *held_out, "", "## Wall time", "", *_stage_table(metrics["wall_seconds"]), ""])


def task_table(tasks: Mapping[str, Mapping]) -> list[str]:
    """A row for each task that is a file of examples: its queries among all positives of the split.

    Below the mean of a task that is scored by language is a row for each language. R@10 is a column where one has it.
    """
    every = [
        (label, row["split"], one)
        for name, row in tasks.items()
        for label, one in ((name, row), *((f"· {lang}", own) for lang, own in row.get("languages", {}).items()))
    ]
    top = [key for key in ("recall@10",) if any(key in row for *_, row in every)]
    table = [
        [label, split, str(row["queries"]), str(row["gallery"]), percent(row["chance"]), recall_cell(row),
         percent(row["recall@5"]), *(recall_cell(row, key) if key in row else "" for key in top), f"{row['mrr']:.3f}"]
        for label, split, row in every
    ]  # fmt: skip
    head = [
        "task",
        "split",
        "queries",
        "gallery",
        "chance",
        "R@1 [95 % CI]",
        "R@5",
        *["R@10 [95 % CI]"] * len(top),
        "MRR",
    ]
    return markdown_table(head, table)


def size_table(sizes: Mapping[str, Mapping]) -> list[str]:
    """A row for each size, the largest first, and role: audio→text, and recall@1 of the other way round."""
    table = []
    for size in sorted(sizes, key=int, reverse=True):
        forth, back = (sizes[size][direction] for direction in DIRECTIONS[:2])
        for role in (role for role in ROLES if role in forth):
            row = forth[role]
            scores = [percent(row["chance"]), recall_cell(row), percent(row["recall@5"]), f"{row['mrr']:.3f}"]
            table.append([size, ROLE_NAMES[role], str(row["languages"]), *scores, percent(back[role]["recall@1"])])
    return markdown_table(["size", "role", "languages", "chance", "R@1 [95 % CI]", "R@5", "MRR", "T→A R@1"], table)


def baselines_markdown(baselines: Mapping) -> list[str]:
    """Means by role of the model and every baseline, the seconds of a query, and recall@1 by language."""
    rows = {name: row for name, row in baselines.items() if name != "notes"}
    lines = ["## Baselines, on the same queries and galleries", "", *baseline_means(baselines), ""]
    roles = {lang: part["role"] for row in rows.values() for lang, part in row["per_language"].items()}
    langs = sorted(roles, key=lambda lang: (ROLES.index(roles[lang]), lang))
    recalls = [[percent(row["per_language"].get(lang, {}).get("recall@1")) for row in rows.values()] for lang in langs]
    cells = [[lang, ROLE_NAMES[roles[lang]], *recall] for lang, recall in zip(langs, recalls, strict=True)]
    return [*lines, *markdown_table(["code", "role", *(f"{name} R@1" for name in rows)], cells)]


def baseline_means(baselines: Mapping) -> list[str]:
    """Means by role of the model and every baseline, and the notes."""
    rows = {name: row for name, row in baselines.items() if name != "notes"}
    table = []
    for name, row in sorted(rows.items(), key=lambda item: item[0] != "model"):  # JSON files are sorted by name
        direction = "" if row["direction"] == "audio_to_text" else " (audio→audio)"
        for role in ROLES:
            if mean := row.get(role):
                lead = "–" if name == "model" else points_cell(mean["lead"], mean["lead_ci95"])
                scores = [recall_cell(mean), lead, percent(mean["recall@5"]), f"{mean['mrr']:.3f}"]
                table.append([name + direction, ROLE_NAMES[role], *scores, f"{row['seconds_per_query']:.2g}"])
    header = ["baseline", "role", "R@1 [95 % CI]", "model − baseline [95 % CI]", "R@5", "MRR", "seconds a query"]
    notes = (line for note in baselines.get("notes", []) for line in ("", f"- {note}."))
    return [*markdown_table(header, table), *notes]


def recall_figure(metrics: Mapping) -> Figure:
    """Bars of audio→text recall@1 by language, best first, with interval and the chance of each gallery."""
    rows = metrics["audio_to_text"]["per_language"]
    langs = sorted(rows, key=lambda lang: (-rows[lang]["recall@1"], lang))
    columns = -(-len(langs) // BARS_PER_COLUMN)
    height = -(-len(langs) // columns)
    figure = Figure(figsize=(1 + 6.5 * columns, 1.4 + 0.2 * height), layout="constrained")
    for column, axes in enumerate(np.atleast_1d(figure.subplots(1, columns))):
        part = langs[column * height : (column + 1) * height]
        _draw_bars(axes, {lang: rows[lang] for lang in part}, height)
    parts = [role for role in _roles(metrics) if metrics["audio_to_text"][role]["languages"]]
    handles = [Patch(color=ROLE_COLOURS[role], label=_macro_label(metrics, role)) for role in parts]
    handles.append(Line2D([], [], color=CHANCE_COLOUR, label="chance"))
    title = f"{metrics['recipe']} ({metrics['mode']}){_synthetic_note(metrics['data'])}"
    figure.legend(handles=handles, title=title, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw_bars(axes: Axes, rows: Mapping[str, Mapping], height: int) -> None:
    score, chance, low, high = (
        100 * np.array(values)
        for values in zip(*((r["recall@1"], r["chance"], *r["ci95"]) for r in rows.values()), strict=True)
    )
    # The percentile interval of a skewed resample may lie on one side of the point.
    errors = np.maximum([score - low, high - score], 0)
    position = np.arange(len(rows))
    axes.barh(position, score, color=[ROLE_COLOURS[row["role"]] for row in rows.values()], height=0.75)
    axes.errorbar(score, position, xerr=errors, fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1.5)
    axes.vlines(chance, position - 0.5, position + 0.5, color=CHANCE_COLOUR, linewidth=1.5)
    axes.set_yticks(position, [f"{_name(lang)}  {lang}" for lang in rows], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-1, 101), ylim=(height - 0.4, -0.6))
    axes.set_xlabel("audio→text recall@1, %, with 95 % interval", fontsize=9)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def curves_figure(curves: Sequence[Mapping]) -> Figure:
    """Training loss and dev recall@1 over steps, one above the other."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key, scale, label in (
        (upper, "train_loss", 1, "training loss"),
        (lower, "dev_recall@1", 100, "dev recall@1, %\n(seen; mean over tasks)"),
    ):
        points = [(row["step"], row[key] * scale) for row in curves if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color="#0072b2", marker="o" if len(points) < 40 else "", markersize=3)
        axes.set_ylabel(label)
        axes.grid(linewidth=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_ylim(0, 100)
    lower.set_xlabel("step")
    return figure


def _check(metrics: Mapping) -> None:
    required = (*RUN_KEYS, *DIRECTIONS, "fixed_gallery")
    if missing := [key for key in required if key not in metrics]:
        raise DataError(f"metrics lack {missing}; a report needs {', '.join(required)}")
    if missing := [stage for stage in STAGES if stage not in metrics["wall_seconds"]]:
        raise DataError(f"wall_seconds lacks {missing}; give seconds of {', '.join(STAGES)} (0 where nothing ran)")
    parts = _data_parts(metrics["data"])
    if not parts or any("recordings" not in part or "synthetic" not in part for part in parts.values()):
        raise DataError(
            f"data: {metrics['data']!r} must map at least one split to counts with 'recordings' and 'synthetic' "
            "(as from speech.data_counts), so that synthetic speech is called so"
        )


def _data_parts(data: Mapping) -> dict[str, Mapping]:
    return {name: data[name] for name in SPLITS if name in data}


def _data_lines(data: Mapping) -> list[str]:
    lines = []
    for name, part in _data_parts(data).items():
        synthetic, total = part["synthetic"], part["recordings"]
        kind = "recorded speech" if not synthetic else "**synthetic speech**"
        if 0 < synthetic < total:
            kind = f"**{synthetic} of {total} recordings synthetic**"
        counts = ", ".join(f"{key} {_inline(value)}" for key, value in part.items() if key != "synthetic")
        lines.append(f"{name}: {kind}; {counts}")
    facts = [f"{key} {_inline(value)}" for key, value in data.items() if key not in SPLITS and value not in ({}, "")]
    return [*lines, *facts]


def _synthetic_note(data: Mapping) -> str:
    return ", with synthetic speech" if any(part["synthetic"] for part in _data_parts(data).values()) else ""


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_inline(item)}" for key, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _roles(metrics: Mapping) -> list[str]:
    return [role for role in ROLES if role in metrics["audio_to_text"]]


def _by_role(metrics: Mapping) -> list[str]:
    rows = metrics["audio_to_text"]["per_language"]
    return sorted(rows, key=lambda lang: (ROLES.index(rows[lang]["role"]), lang))


def _scores(row: Mapping, wer_mark: str = "") -> list[str]:
    mrr = "–" if row["mrr"] is None else f"{row['mrr']:.3f}"
    return [
        percent(row["chance"]),
        recall_cell(row),
        percent(row["recall@1_fixed"]),
        percent(row["recall@5"]),
        mrr,
        percent(row["wer"]) + wer_mark,
    ]


def _language_row(metrics: Mapping, controls: Mapping[str, Mapping], lang: str) -> list[str]:
    row, *others = (metrics[direction]["per_language"].get(lang, {}) for direction in DIRECTIONS)
    bleu = _points(others[1].get("bleu"))
    controlled = [control["audio_to_text"]["per_language"].get(lang, {}) for control in controls.values()]
    facts = [lang, _name(lang), ROLE_NAMES[row["role"]], str(row["queries"]), str(row["gallery"])]
    scores = _scores(row, " \\*" if lang in CHARACTER_LANGS else "")
    recalls = [[percent(other.get("recall@1")) for other in some] for some in (others, controlled)]
    return [*facts, *scores, *recalls[0], bleu, *recalls[1]]


def _macro_row(metrics: Mapping, controls: Mapping[str, Mapping], role: str) -> list[str]:
    row, *others = (metrics[direction][role] for direction in DIRECTIONS)
    controlled = [control["audio_to_text"].get(role, {"recall@1": None}) for control in controls.values()]
    recalls = [[percent(other["recall@1"]) for other in some] for some in (others, controlled)]
    facts = [ROLE_NAMES[role], str(row["languages"])]
    return [*facts, *_scores(row), *recalls[0], _points(others[1].get("bleu")), *recalls[1]]


def _macro_label(metrics: Mapping, role: str) -> str:
    row = metrics["audio_to_text"][role]
    return f"{ROLE_NAMES[role]}: mean {percent(row['recall@1'])} over {row['languages']}"


def _region_table(metrics: Mapping) -> list[str]:
    """One row per region and one pair of columns per role, so that no number mixes seen and zero-shot."""
    table = []
    for region, parts in metrics["audio_to_text"]["per_region"].items():
        cells = [REGIONS.get(region, region)]
        for role in _roles(metrics):
            cells += [str(parts[role]["languages"]), recall_cell(parts[role])]
        table.append(cells)
    names = [ROLE_NAMES[role] for role in _roles(metrics)]
    return markdown_table(["region", *(f"{name} {what}" for name in names for what in ("languages", "R@1"))], table)


def _stage_table(seconds: Mapping[str, float]) -> list[str]:
    total = seconds["total"] or 1
    return markdown_table(
        ["stage", "seconds", "share of total"],
        [[stage, f"{seconds[stage]:.1f}", percent(seconds[stage] / total)] for stage in STAGES],
    )


def _name(lang: str) -> str:
    return LANGUAGES[lang].name if lang in LANGUAGES else lang


def _points(score: float | None) -> str:
    return "–" if score is None else f"{score:.1f}"


def noise_file(metrics: Mapping) -> dict[str, Figure | None]:
    """The picture over noise by the name of its file; None of conditions that are none."""
    found = metrics.get("conditions", {})
    return {"noise.png": noise_figure(found, width=5.0) if noise_levels(found) else None}


def save_figures(folder: Path, figures: Mapping[str, Figure | None]) -> list[Path]:
    """Write pictures by the names of their files, and return the paths; what an earlier call drew in the place of a
    None is of other numbers, and goes."""
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_write(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
    return [folder / name for name, figure in figures.items() if figure is not None]
