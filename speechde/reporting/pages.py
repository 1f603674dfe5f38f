"""The pages of ``speechde report``: one self-contained HTML file, and the same tables as Markdown.

Both are drawn from one list of parts (:func:`parts_of`), so that they cannot say different things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jinja2

from speechde.languages import LANGUAGES
from speechde.reporting import charts
from speechde.reporting.conditions import noise_levels, remarks, table
from speechde.reporting.summary import DEFAULT
from speechde.reporting.tables import ROLE_NAMES, markdown_table, points_cell, recall_cell

PREFACE = (
    "Shares in per cent. Intervals are 95 % bootstraps over sentences; where a system has several seeds, scores and "
    "bounds are means over them, and the range of the seeds stands beside. Systems are listed by recall@1 on the dev "
    "split of the languages that each was trained on, which checkpoints and settings are chosen by; the other numbers "
    "chose nothing."
)
Row = list["Cell"]


@dataclass
class Cell:
    """A table cell: what is read, what it is sorted by (None: its text), and its background."""

    text: str
    sort: float | None = None
    colour: str = ""
    ink: str = "#000"


@dataclass
class Part:
    """A titled table or chart of a board."""

    title: str
    header: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    svg: str = ""
    heat: bool = False
    code: bool = False  # the last column is a command

    @property
    def classes(self) -> list[str]:
        """CSS class of each column: the first text names the row, and stays in sight when the table scrolls."""
        texts = [cell.sort is None for cell in self.rows[0]] if self.rows else [False] * len(self.header)
        classes = ["text" if text else "number" for text in texts]
        if any(texts):
            classes[texts.index(True)] = "name"
        return [*classes[:-1], "code"] if self.code else classes


def html(summary: Mapping, title: str) -> str:
    """One HTML page that needs no other file."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("speechde.reporting", "."), autoescape=True)
    boards = [{"title": _title(board), "note": _note(board), "parts": parts_of(board)} for board in summary["boards"]]
    return environment.get_template("page.html.j2").render(title=title, preface=_preface(summary), boards=boards) + "\n"


def markdown(summary: Mapping, title: str) -> str:
    """The same page without charts."""
    lines = [f"# {title}", "", _preface(summary, "`")]
    for board in summary["boards"]:
        lines += ["", f"## {_title(board)}", "", _note(board)]
        for part in parts_of(board):
            if not part.header:
                continue
            lines += ["", f"### {part.title}", ""]
            lines += [part.note, ""] if part.note else []
            lines += markdown_table(part.header, [[cell.text for cell in row] for row in part.rows])
    return "\n".join([*lines, ""])


def _preface(summary: Mapping, quote: str = "") -> str:
    return PREFACE + (f" Made by {quote}{summary['command']}{quote}." if summary.get("command") else "")


def parts_of(board: Mapping) -> list[Part]:
    """What a page says of one board; parts without content are left out."""
    systems = board["systems"]
    both = [system for system in systems if all(role in system for role in charts.ROLES)]
    parts = [_ranking(board)]
    if voided := [system for system in systems if system.get("void")]:
        rows = [[Cell(system["name"]), Cell(system["void"])] for system in voided]
        parts.append(Part("Void", ["system", "because"], rows, "Their numbers rest on a fault that has been repaired."))
    if len(both) > 1:
        parts.append(
            Part(
                "Seen against zero-shot",
                svg=charts.scatter(both),
                note="Numbers are ranks in the first table; those that would overlap are left out.",
            )
        )
    if board["differences"]:
        parts.append(_differences(board["differences"]))
    parts += [_sizes(system, systems) for system in systems if system.get("sizes")]
    parts += [_baselines(name, baselines) for name, baselines in board["baselines"].items()]
    parts += [_conditions(name, conditions) for name, conditions in board.get("conditions", {}).items()]
    parts.append(_heat_map(systems))
    if drawn := [system for system in systems if any("dev_recall@1" in row for row in system["curves"])]:
        parts.append(Part("Learning curves", svg=charts.curves(drawn), note=_curve_note(drawn)))
    return [*parts, _commands(systems)]


def _sizes(system: Mapping, systems: Sequence[Mapping]) -> Part:
    """Vectors of one model cut to each of its sizes, beside models of its recipe that were trained at that size."""
    roles = [role for role in ROLE_NAMES if role in next(iter(system["sizes"].values()))]
    own = {each["overrides"]: each for each in systems if each["recipe"] == system["recipe"] and not each["void"]}
    header, rows = ["size"], []
    for role in roles:
        header += [f"{ROLE_NAMES[role]} R@1, cut [95 % CI]", f"{ROLE_NAMES[role]} R@1, trained at that size [95 % CI]"]
    largest = max(system["sizes"], key=int)
    for size in sorted(system["sizes"], key=int, reverse=True):
        alone = own.get(DEFAULT if size == largest else f"model.dim:{size}", {})
        row = [Cell(size, int(size))]
        for role in roles:
            for mean in (system["sizes"][size][role], alone.get(role)):
                row.append(Cell(recall_cell(mean), mean["recall@1"]) if mean else Cell("–", -1.0))
        rows.append(row)
    return Part(f"Sizes of the vectors of {system['name']}", header, rows)


def _commands(systems: Sequence[Mapping]) -> Part:
    rows = [
        [_number(number), Cell(system["name"]), Cell(str(seed), seed), Cell(command or "–")]
        for number, system in enumerate(systems, 1)
        for seed, command in zip(system["seeds"], system["commands"], strict=True)
    ]
    return Part("The command that made each run", ["#", "system", "seed", "command"], rows, code=True)


def _title(board: Mapping) -> str:
    return f"{board['corpus']}, {board['split']} split: {board['test']['recordings']} recordings"


def _note(board: Mapping) -> str:
    synthetic, total = board["test"]["synthetic"], board["test"]["recordings"]
    speech = "recorded speech" if not synthetic else f"synthetic speech ({synthetic} of {total} recordings)"
    commits = sorted({commit for system in board["systems"] for commit in system["commits"]})
    machines = sorted({name for system in board["systems"] for name in system["hardware"]})
    return f"Evaluated on {speech}. Commits: {', '.join(commits)}. Hardware: {'; '.join(machines)}." + "".join(
        f" {note}." for note in board["notes"]
    )


def _ranking(board: Mapping) -> Part:
    header = ["#", "system"]
    for role in _roles(board["systems"]):
        name = ROLE_NAMES[role]
        header += [f"{name} R@1 [95 % CI]", f"{name} seeds from–to", f"{name} R@1, gallery {board['fixed_gallery']}",
                   f"{name} chance", f"{name} languages"]  # fmt: skip
    header += ["dev R@1", "mode", "seeds", "train clips (synthetic)", "training seconds"]
    rows = []
    for number, system in enumerate(board["systems"], 1):
        row = [_number(number), Cell(system["name"] + (" (void)" if system.get("void") else ""))]
        for role in _roles(board["systems"]):
            row += _mean_cells(system.get(role))
        train = system["train"]
        clips = f"{train['recordings']} ({train['synthetic']})" if train else "–"
        seconds = system["train_seconds"]
        row += [_share(system["dev_recall@1"]), Cell(system["mode"]), _number(len(system["seeds"]))]
        row += [Cell(clips, train.get("recordings", 0)), Cell(f"{seconds:.0f}", seconds)]
        rows.append(row)
    return Part("Ranking, audio→text", header, rows)


def _mean_cells(mean: Mapping | None) -> Row:
    if mean is None:
        return [Cell("–", -1) for _ in range(5)]
    low, high = mean["seeds"]
    return [
        _interval(mean),
        Cell(f"{100 * low:.1f}–{100 * high:.1f}" if low != high else "–", low),
        _share(mean["recall@1_fixed"]),
        _share(mean["chance"]),
        _number(mean["languages"]),
    ]


def _differences(differences: Sequence[Mapping]) -> Part:
    note = (
        "System minus default, over the seeds both have and the queries both answer; 95 % interval of a paired "
        "bootstrap over sentences; p of a sign test over sentences, not corrected for the number of rows. Neither "
        "interval nor p knows of seeds that were not run."
    )
    header = ["system", "default", "seeds"]
    for role in charts.ROLES:
        header += [f"{ROLE_NAMES[role]} languages", f"{ROLE_NAMES[role]} points [95 % CI]", f"{ROLE_NAMES[role]} p"]
    rows = []
    for row in differences:
        cells = [Cell(row["name"]), Cell(row["base"]), Cell(",".join(map(str, row["seeds"])), len(row["seeds"]))]
        for role in charts.ROLES:
            mean = row["means"].get(role)
            cells += _difference_cells(mean) if mean else [Cell("–", -1), Cell("–", -1000), Cell("–", 2)]
        rows.append(cells)
    return Part("Against the default of the recipe", header, rows, note, charts.bars(differences))


def _difference_cells(mean: Mapping) -> Row:
    points = Cell(points_cell(mean["difference"], mean["ci95"]), 100 * mean["difference"])
    return [_number(mean["languages"]), points, Cell(f"{mean['p']:.2g}", mean["p"])]


def _baselines(name: str, baselines: Mapping) -> Part:
    rows = []
    for answer, row in sorted(baselines.items(), key=lambda item: item[0] != "model"):  # files are sorted by name
        for role in (role for role in ROLE_NAMES if answer != "notes" and row.get(role)):
            mean = row[role]
            told = "–" if answer == "model" else points_cell(mean["lead"], mean["lead_ci95"])
            lead = Cell(told, mean["lead"])
            seconds = row["seconds_per_query"]
            rows.append([Cell(answer), Cell(ROLE_NAMES[role]), _interval(mean), lead, Cell(f"{seconds:.2g}", seconds)])
    header = ["answered by", "role", "R@1 [95 % CI]", "model − baseline [95 % CI]", "seconds a query"]
    return Part(f"Baselines of {name}", header, rows, " ".join(f"{note}." for note in baselines.get("notes", [])))


def _conditions(name: str, conditions: Mapping) -> Part:
    """Noise, the telephone band and speed: the model, and what else heard the same clips."""
    header, rows = table(conditions)
    cells = [[Cell(*cell) for cell in row] for row in rows]
    svg = charts.noise(conditions) if noise_levels(conditions) else ""
    return Part(f"{name} under conditions", header, cells, " ".join(map(_sentence, remarks(conditions))), svg)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _heat_map(systems: Sequence[Mapping]) -> Part:
    """Whichever there are more of, systems or languages, go down the page."""
    roles = {lang: row["role"] for system in systems for lang, row in system["per_language"].items()}
    order = sorted(roles, key=lambda lang: (list(ROLE_NAMES).index(roles[lang]), lang))
    names = {lang: LANGUAGES[lang].name if lang in LANGUAGES else lang for lang in order}
    if len(systems) > len(order):
        header = ["system", *(f"{names[lang]} {lang} ({ROLE_NAMES[roles[lang]]})" for lang in order)]
        rows = [[Cell(system["name"]), *(_warm(system, lang) for lang in order)] for system in systems]
    else:
        header = ["language", "role", *(system["name"] for system in systems)]
        rows = [
            [Cell(f"{names[lang]} ({lang})"), Cell(ROLE_NAMES[roles[lang]]), *(_warm(each, lang) for each in systems)]
            for lang in order
        ]
    return Part("Recall@1 by language", header, rows, heat=True)


def _warm(system: Mapping, lang: str) -> Cell:
    """White to blue, and the ink that stands out more."""
    score = system["per_language"].get(lang, {}).get("recall@1")
    if score is None:
        return Cell("–", -1)
    colour = [255 - score * (255 - end) for end in (0, 80, 140)]
    linear = [((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
    ink = "#000" if luminance > 0.179 else "#fff"  # where both have the same contrast (WCAG)
    return Cell(f"{100 * score:.1f}", score, "rgb({:.0f},{:.0f},{:.0f})".format(*colour), ink)


def _curve_note(drawn: Sequence[Mapping]) -> str:
    hidden = len(drawn) - charts.MAX_CURVES
    return "First seed of each system." + (f" {hidden} lower-ranked systems are not drawn." if hidden > 0 else "")


def _roles(systems: Sequence[Mapping]) -> list[str]:
    return [role for role in ROLE_NAMES if any(role in system for system in systems)]


def _interval(mean: Mapping) -> Cell:
    low, high = (f"{100 * bound:.1f}" for bound in mean["ci95"])
    return Cell(f"{100 * mean['recall@1']:.1f} [{low}, {high}]", mean["recall@1"])


def _share(value: float | None) -> Cell:
    return Cell("–", -1) if value is None else Cell(f"{100 * value:.1f}", value)


def _number(value: int) -> Cell:
    return Cell(str(value), value)
