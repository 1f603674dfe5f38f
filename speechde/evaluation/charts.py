"""The charts of a report page, as SVG text: drawn small, so that they stay legible at phone width."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from speechde.evaluation.report import ROLE_COLOURS, ROLE_NAMES

WIDTH = 5.2  # inches
MAX_CURVES = 8  # more lines than these have no colours that can be told apart
ROLES = ("seen", "zero_shot")


def scatter(systems: Sequence[Mapping]) -> str:
    """Seen against zero-shot recall@1, one numbered point per system, with intervals."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, system in enumerate(systems, 1):
        x, y = (100 * system[role]["recall@1"] for role in ROLES)
        spread = [
            np.maximum([[value - 100 * system[role]["ci95"][0]], [100 * system[role]["ci95"][1] - value]], 0)
            for role, value in zip(ROLES, (x, y), strict=True)
        ]
        axes.errorbar(x, y, xerr=spread[0], yerr=spread[1], fmt="o", color="#0072b2", ecolor="#9bbdd4", markersize=4)
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
    top = 5 + max(100 * system[role]["ci95"][1] for system in systems for role in ROLES)
    axes.plot([0, top], [0, top], color="#999999", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="R@1, seen languages, %", ylabel="R@1, zero-shot languages, %")
    return _svg(figure, axes, "Seen against zero-shot recall; numbers are ranks in the table")


def curves(systems: Sequence[Mapping]) -> str:
    """Dev recall@1 over steps, one line per system."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for system in systems[:MAX_CURVES]:
        points = [(row["step"], 100 * row["dev_recall@1"]) for row in system["curves"] if "dev_recall@1" in row]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=system["name"])
    axes.set(xlabel="step", ylabel="dev R@1, seen languages, %")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return _svg(figure, axes, "Learning curves of the first seed of each system")


def bars(differences: Sequence[Mapping]) -> str:
    """Differences in recall@1 from the default of the recipe, with their intervals."""
    figure = Figure(figsize=(WIDTH, 1.2 + 0.42 * len(differences)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(differences))
    for offset, role in zip((-0.19, 0.19), ROLES, strict=True):
        rows = [
            (place, row["means"][role]) for place, row in zip(places, differences, strict=True) if role in row["means"]
        ]
        if not rows:
            continue
        at = np.array([place for place, _ in rows]) + offset
        value = np.array([100 * mean["difference"] for _, mean in rows])
        low, high = (np.array([100 * mean["ci95"][side] for _, mean in rows]) for side in (0, 1))
        errors = np.maximum([value - low, high - value], 0)
        axes.barh(at, value, height=0.36, color=ROLE_COLOURS[role], label=ROLE_NAMES[role])
        axes.errorbar(value, at, xerr=errors, fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1.5)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(places, [row["name"] for row in differences], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("difference in R@1 from the recipe's default, points")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _svg(figure, axes, "Differences from the default, with 95 % intervals")


def _svg(figure: Figure, axes, title: str) -> str:
    """Text stays text; the size is left to the page."""
    axes.grid(linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    text = out.getvalue()
    return text[text.index("<svg") :]
