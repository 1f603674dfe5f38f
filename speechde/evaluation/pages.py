"""The pages of ``speechde report``: one self-contained HTML file, and the same tables as Markdown.

Both are drawn from one list of parts (:func:`parts_of`), so that they cannot say different things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jinja2

from speechde.evaluation import charts
from speechde.evaluation.report import ROLE_NAMES, markdown_table
from speechde.languages import LANGUAGES

PREFACE = (
    "Shares in per cent. Intervals are 95 % bootstraps over sentences; where a system has several seeds, scores and "
    "bounds are means over them, and the range of the seeds stands beside. Systems are listed by zero-shot recall@1, "
    "which chose nothing: checkpoints and settings are chosen on the dev split of seen languages."
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
    """A titled table, chart or listing of a board."""

    title: str
    header: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    svg: str = ""
    code: str = ""
    heat: bool = False


def html(summary: Mapping, title: str) -> str:
    """One HTML page that needs no other file."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("speechde.evaluation", "."), autoescape=True)
    boards = [{"title": _title(board), "note": _note(board), "parts": parts_of(board)} for board in summary["boards"]]
    return environment.get_template("page.html.j2").render(title=title, preface=PREFACE, boards=boards) + "\n"


def markdown(summary: Mapping, title: str) -> str:
    """The same page without charts."""
    lines = [f"# {title}", "", PREFACE]
    for board in summary["boards"]:
        lines += ["", f"## {_title(board)}", "", _note(board)]
        for part in parts_of(board):
            if not part.header and not part.code:
                continue
            lines += ["", f"### {part.title}", ""]
            lines += [part.note, ""] if part.note else []
            if part.header:
                lines += markdown_table(part.header, [[cell.text for cell in row] for row in part.rows])
            if part.code:
                lines += ["```", part.code, "```"]
    return "\n".join([*lines, ""])


def parts_of(board: Mapping) -> list[Part]:
    """What a page says of one board; parts without content are left out."""
    systems = board["systems"]
    both = [system for system in systems if all(role in system for role in charts.ROLES)]
    parts = [_ranking(board)]
    if len(both) > 1:
        parts.append(
            Part("Seen against zero-shot", svg=charts.scatter(both), note="Numbers: ranks in the first table.")
        )
    if board["differences"]:
        parts.append(_differences(board["differences"]))
    parts += [_baselines(name, baselines) for name, baselines in board["baselines"].items()]
    parts.append(_heat_map(systems))
    if drawn := [system for system in systems if any("dev_recall@1" in row for row in system["curves"])]:
        parts.append(Part("Learning curves", svg=charts.curves(drawn), note=_curve_note(drawn)))
    commands = sorted({command for system in systems for command in system["commands"] if command})
    return [*parts, Part("Commands", code="\n".join(commands))] if commands else parts


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
        row = [_number(number), Cell(system["name"])]
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
    low, high = (f"{100 * bound:+.1f}" for bound in mean["ci95"])
    points = 100 * mean["difference"]
    return [
        _number(mean["languages"]),
        Cell(f"{points:+.1f} [{low}, {high}]", points),
        Cell(f"{mean['p']:.2g}", mean["p"]),
    ]


def _baselines(name: str, baselines: Mapping) -> Part:
    rows = []
    for answer, row in baselines.items():
        for role in (role for role in ROLE_NAMES if answer != "notes" and row.get(role)):
            mean, low, high = row[role], *(f"{100 * bound:+.1f}" for bound in row[role]["lead_ci95"])
            lead = (
                Cell("–", 0) if answer == "model" else Cell(f"{100 * mean['lead']:+.1f} [{low}, {high}]", mean["lead"])
            )
            seconds = row["seconds_per_query"]
            rows.append([Cell(answer), Cell(ROLE_NAMES[role]), _interval(mean), lead, Cell(f"{seconds:.2g}", seconds)])
    header = ["answered by", "role", "R@1 [95 % CI]", "model − baseline [95 % CI]", "seconds a query"]
    return Part(f"Baselines of {name}", header, rows, " ".join(f"{note}." for note in baselines.get("notes", [])))


def _heat_map(systems: Sequence[Mapping]) -> Part:
    roles = {lang: row["role"] for system in systems for lang, row in system["per_language"].items()}
    order = sorted(roles, key=lambda lang: (list(ROLE_NAMES).index(roles[lang]), lang))
    rows = []
    for lang in order:
        row = [Cell(f"{LANGUAGES[lang].name if lang in LANGUAGES else lang} ({lang})"), Cell(ROLE_NAMES[roles[lang]])]
        for system in systems:
            score = system["per_language"].get(lang, {}).get("recall@1")
            row.append(Cell("–", -1) if score is None else Cell(f"{100 * score:.1f}", score, *_heat(score)))
        rows.append(row)
    return Part("Recall@1 by language", ["language", "role", *(system["name"] for system in systems)], rows, heat=True)


def _heat(score: float) -> tuple[str, str]:
    """Background from white to blue, and an ink that can be read on it."""
    red, green, blue = (round(255 - score * (255 - end)) for end in (0, 80, 140))
    return f"rgb({red},{green},{blue})", "#fff" if score > 0.7 else "#000"


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
