"""What is reported of an evaluation under conditions: a table of condition × system, words, and recall over noise.

All of it is read from ``conditions`` of ``metrics.json``; see docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from speechde.conditions import CLEAN, NOISES, RANGES, TELEPHONE, parse
from speechde.reporting.tables import CHANCE_COLOUR, ROLE_NAMES, markdown_table, points_cell, recall_cell

MODEL, CASCADE = "model", "cascade"
KINDS = (CLEAN.kind, *NOISES, TELEPHONE.kind, *(kind for kind in RANGES if kind not in NOISES))  # as tables list them
# of the lines of systems, the model first; apart for colour-blind readers too (Okabe and Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX"
TITLE = "Recall under noise, with 95 % intervals"
Cells = list[tuple[str, float | None]]  # what is read, and what it is sorted by; None: its text


def in_order(conditions: Mapping) -> list[str]:
    """Clean, noise from little to much, the telephone, speeds from slow to fast: JSON files are sorted by name."""

    def place(name: str) -> tuple[int, float]:
        condition = parse(name)
        value = condition.value or 0.0
        return KINDS.index(condition.kind), -value if condition.kind in NOISES else value

    return sorted(conditions, key=place)


def systems(conditions: Mapping) -> list[str]:
    """The model, and what else answered, by name: JSON files are sorted."""
    names = {name for answers in conditions.values() for name in answers if name != "notes"}
    return sorted(names, key=lambda name: (name != MODEL, name))


def conditions_markdown(conditions: Mapping) -> list[str]:
    """The section of ``table.md``."""
    title = "## Under conditions, the same queries and galleries"
    return [title, "", *conditions_table(conditions), *remark_lines(conditions)]


def conditions_table(conditions: Mapping) -> list[str]:
    """A row for each role and condition, in Markdown."""
    header, rows = table(conditions)
    return markdown_table(header, [[text for text, _ in row] for row in rows])


def table(conditions: Mapping) -> tuple[list[str], list[Cells]]:
    """Header and rows: recall@1 of each system, how the model's changes from clean, and its lead over the others."""
    others = [name for name in systems(conditions) if name != MODEL]
    header = ["role", "condition", "model R@1 [95 % CI]", "model − clean [95 % CI]"]
    for name in others:
        header += [f"{name} R@1 [95 % CI]", f"model − {name} [95 % CI]"]
    rows = []
    for role in _roles(conditions):
        for condition in in_order(conditions):
            answers = conditions[condition]
            row: Cells = [(ROLE_NAMES[role], None), (condition, None), _recall(answers[MODEL][role])]
            row.append(_points(answers[MODEL][role], "change"))
            for mean in (answers.get(name, {}).get(role) for name in others):
                row += [_recall(mean), _points(mean, "lead")]
            rows.append(row)
    return header, rows


def _recall(mean: Mapping | None) -> tuple[str, float | None]:
    return (recall_cell(mean), mean["recall@1"]) if mean else ("–", -1.0)


def _points(mean: Mapping | None, key: str) -> tuple[str, float | None]:
    return (points_cell(mean[key], mean[f"{key}_ci95"]), mean[key]) if mean and key in mean else ("–", -2.0)


def remark_lines(conditions: Mapping, every: bool = False) -> list[str]:
    """``remarks`` as a list in Markdown, below a table."""
    return [line for remark in remarks(conditions, every) for line in ("", f"- {remark}")]


def remarks(conditions: Mapping, every: bool = False) -> list[str]:
    """In words, from the numbers: where the model is above each cascade and where below; and the notes.

    Args:
        every: of all other systems.
    """
    said = []
    for role in _roles(conditions):
        for name in systems(conditions):
            if name != MODEL and (every or name.partition("_")[0].partition(":")[0] == CASCADE):
                said.append(f"{ROLE_NAMES[role]}: {_against(conditions, role, name)}")
    notes = {}
    for condition in in_order(conditions):
        for note in conditions[condition].get("notes", []):
            notes.setdefault(note, []).append(condition)
    return [*said, *(f"{', '.join(where)}: {note}." for note, where in notes.items())]


def _against(conditions: Mapping, role: str, name: str) -> str:
    """``the model is above cascade_e5 under snr0 (+9.1 [+2.0, +15.8]), below it under clean (…), …``."""
    above, below, open_ = [], [], []
    for condition in in_order(conditions):
        if mean := conditions[condition].get(name, {}).get(role):
            low, high = mean["lead_ci95"]
            place = above if low > 0 else below if high < 0 else open_
            place.append(f"{condition} ({points_cell(mean['lead'], mean['lead_ci95'])})")
    parts = [f"the model is above {name} under {', '.join(above) or 'no condition'}"]
    parts += [f"below it under {', '.join(below)}"] if below else []
    parts += [f"and neither, as the interval holds 0, under {', '.join(open_)}"] if open_ else []
    return "; ".join(parts) + "."


def noise_levels(conditions: Mapping) -> dict[str, list[float]]:
    """The levels (dB) of each kind of noise that was heard, from little to much."""
    heard = [parse(name) for name in in_order(conditions)]
    levels = {kind: [each.value for each in heard if each.kind == kind] for kind in NOISES}
    return {kind: values for kind, values in levels.items() if values}


def noise_figure(conditions: Mapping, width: float) -> Figure:
    """Recall@1 over the signal-to-noise ratio, a line for each system; a panel for each role and kind of noise.

    Args:
        width: in inches.
    """
    levels, roles, names = noise_levels(conditions), _roles(conditions), systems(conditions)
    panels = [(role, kind) for kind in levels for role in roles]
    figure = Figure(figsize=(width, 0.5 + 2.3 * len(panels) + 0.17 * len(names)), layout="constrained")
    every = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (role, kind) in zip(every, panels, strict=True):
        _draw(axes, conditions, role, kind, levels[kind])
        axes.set_title(f"{ROLE_NAMES[role]} languages, {NOISES[kind]}", fontsize=9)
    every[-1].set_xlabel("signal-to-noise ratio, dB")
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, frameon=False, ncols=2)
    return figure


def _draw(axes: Axes, conditions: Mapping, role: str, kind: str, levels: Sequence[float]) -> None:
    """One panel: clean stands where a step more than the least noise would."""
    step = float(np.abs(np.diff(levels)).max()) if len(levels) > 1 else 10.0
    names = [CLEAN.name, *(f"{kind}{level:g}" for level in levels)]
    places = [levels[0] + step, *levels]
    for number, system in enumerate(systems(conditions)):
        rows = [conditions[name].get(system, {}).get(role) for name in names]
        drawn = [(x, row["recall@1"], *row["ci95"]) for x, row in zip(places, rows, strict=True) if row]
        x, y, low, high = (np.array(values) for values in zip(*drawn, strict=True))
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(x, 100 * y, color=colour, marker=marker, markersize=4, label=system)
        axes.fill_between(x, 100 * low, 100 * high, color=colour, alpha=0.15, linewidth=0)
    chance = conditions[CLEAN.name][MODEL][role]["chance"]
    axes.axhline(100 * chance, color=CHANCE_COLOUR, linewidth=0.8, linestyle=":", label="chance")
    axes.set_xticks(places, [CLEAN.name, *(f"{level:g}" for level in levels)])
    axes.invert_xaxis()
    axes.set_ylim(0, 103)  # markers at 100 are whole
    axes.set_ylabel("R@1, %")
    axes.grid(linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _roles(conditions: Mapping) -> list[str]:
    return [role for role in ROLE_NAMES if role in conditions[CLEAN.name][MODEL]]
