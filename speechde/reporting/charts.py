"""The charts of a report page, as SVG text: drawn small, so that they stay legible at phone width."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from speechde.reporting.conditions import TITLE, noise_figure
from speechde.reporting.tables import ROLE_COLOURS, ROLE_NAMES

WIDTH = 4.0  # inches; on a phone's 328 pixels the smallest letters are then 9 pixels high
LABEL_APART = (5.5, 4.0)  # points of recall between labels, across and up
MAX_CURVES = 8  # more lines than these have no colours that can be told apart
ROLES = ("seen", "zero_shot")


def scatter(systems: Sequence[Mapping]) -> str:
    """Seen against zero-shot recall@1, one point per system, with intervals; numbers where they do not overlap."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    labelled: list[tuple[float, float]] = []
    for number, system in enumerate(systems, 1):
        x, y = (100 * system[role]["recall@1"] for role in ROLES)
        spread = [
            np.maximum([[value - 100 * system[role]["ci95"][0]], [100 * system[role]["ci95"][1] - value]], 0)
            for role, value in zip(ROLES, (x, y), strict=True)
        ]
        axes.errorbar(x, y, xerr=spread[0], yerr=spread[1], fmt="o", color="#0072b2", ecolor="#c5d9e6", markersize=3.5,
                      elinewidth=0.8)  # fmt: skip
        if all(abs(x - a) > LABEL_APART[0] or abs(y - b) > LABEL_APART[1] for a, b in labelled):
            labelled.append((x, y))
            axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(3, 3), fontsize=8)
    top = 5 + max(100 * system[role]["ci95"][1] for system in systems for role in ROLES)
    axes.plot([0, top], [0, top], color="#999999", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="R@1, seen languages, %", ylabel="R@1, zero-shot languages, %")
    return _svg(figure, "Seen against zero-shot recall; numbers are ranks in the table")


def curves(systems: Sequence[Mapping]) -> str:
    """Dev recall@1 over steps, one line per system; the training loss where each was evaluated once, at its end."""
    drawn = systems[:MAX_CURVES]
    recall = any(len(_points(system, "dev_recall@1", 100)) > 1 for system in drawn)
    names = ["\n".join(textwrap.wrap(system["name"], 44)) for system in drawn]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(WIDTH, 2.8 + 0.17 * lines), layout="constrained")
    axes = figure.subplots()
    for system, name in zip(drawn, names, strict=True):
        if points := _points(system, "dev_recall@1", 100) if recall else _points(system, "train_loss"):
            axes.plot(*zip(*points, strict=True), marker="o" if recall else None, markersize=3, label=name)
    axes.set(xlabel="step", ylabel="dev R@1, %" if recall else "training loss, contrastive")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return _svg(figure, "Learning curves of the first seed of each system")


def _points(system: Mapping, key: str, factor: float = 1.0) -> list[tuple[int, float]]:
    return [(row["step"], factor * row[key]) for row in system["curves"] if row.get(key) is not None]


def bars(differences: Sequence[Mapping]) -> str:
    """Differences in recall@1 from the default of the recipe, with their intervals; names stand above their bars."""
    figure = Figure(figsize=(WIDTH, 1.1 + 0.55 * len(differences)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(differences):
        name = row["name"].removeprefix(f"{row['base']} ")
        axes.text(0, place - 0.14, textwrap.shorten(name, 60), transform=axes.get_yaxis_transform(), fontsize=8)
    for offset, role in zip((0.06, 0.32), ROLES, strict=True):
        rows = [(place, row["means"][role]) for place, row in enumerate(differences) if role in row["means"]]
        if not rows:
            continue
        at = np.array([place for place, _ in rows]) + offset
        value = np.array([100 * mean["difference"] for _, mean in rows])
        low, high = (np.array([100 * mean["ci95"][side] for _, mean in rows]) for side in (0, 1))
        errors = np.maximum([value - low, high - value], 0)
        axes.barh(at, value, height=0.24, color=ROLE_COLOURS[role], label=ROLE_NAMES[role])
        axes.errorbar(value, at, xerr=errors, fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1.5)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks([])
    axes.set_ylim(len(differences) - 0.4, -0.5)
    axes.set_xlabel("points of R@1 from the recipe's default")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _svg(figure, "Differences from the default, with 95 % intervals")


def noise(conditions: Mapping) -> str:
    """Recall@1 over the signal-to-noise ratio; see ``conditions.noise_figure``."""
    return _svg(noise_figure(conditions, WIDTH), TITLE)


def _svg(figure: Figure, title: str) -> str:
    """Text stays text; the size is left to the page."""
    for axes in figure.axes:
        axes.grid(linewidth=0.4)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
        axes.spines[["top", "right"]].set_visible(False)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = out.getvalue()
    return text[text.index("<svg") :]
