"""The report page: both forms say the same, and a browser finds no fault with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import pytest

from speechde.reporting.pages import _warm, html, markdown, parts_of
from speechde.reporting.summary import find_runs, summarise
from speechde.reporting.tables import recall_cell

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tables(HTMLParser):
    """Cells of all tables of a page, row by row."""

    def __init__(self, page):
        super().__init__()
        self.rows, self._cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None


@pytest.fixture
def summary(runs):
    return summarise(find_runs([runs]))


def test_markdown_and_html_have_the_same_tables(summary):
    lines = [line for line in markdown(summary, "T").splitlines() if line.startswith("|") and "---" not in line]
    assert len(lines) > 8
    assert Tables(html(summary, "T")).rows == [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_charts_and_commands_are_there(summary):
    summary["command"] = "speechde report runs --out page"
    page = html(summary, "T")
    assert page.count("<svg") == 3 and not re.search(r'(src|href)="(?!data:|#)', page)
    for text in (page, markdown(summary, "T")):
        for seed in (0, 1):
            assert f"python train.py recipe=tiny seed={seed}" in text
        assert "speechde report runs --out page" in text


def test_runs_evaluated_once_have_curves_of_their_loss(summary):
    assert "dev R@1, %" in html(summary, "T")
    for system in summary["boards"][0]["systems"]:
        system["curves"] = [{"step": 10, "train_loss": 2.0}, {"step": 20, "train_loss": 1.0, "dev_recall@1": 0.5}]
    page = html(summary, "T")
    assert "training loss, contrastive" in page and "dev R@1, %" not in page


def test_differences_are_in_the_order_of_their_numbers(runs, write_run):
    for size in (512, 1024, 64):
        write_run(runs / f"tiny/u:{size}-s0", 0.4, overrides=f"u:{size}")
    (board,) = summarise(find_runs([runs]))["boards"]
    names = [row["name"] for row in board["differences"]]
    assert [name for name in names if "u:" in name] == ["tiny u:64", "tiny u:512", "tiny u:1024"]


def test_sizes_stand_beside_models_trained_at_them(runs, write_run):
    def row(recall):
        more = {"recall@5": 1.0, "mrr": 1.0, "chance": 0.1, "languages": 2}
        return {"recall@1": recall, "ci95": [recall - 0.1, recall + 0.1], **more}

    def sizes(seed):
        of = {"8": 0.5 + seed / 10, "4": 0.25}
        roles = {size: {"seen": row(r), "zero_shot": row(r / 2)} for size, r in of.items()}
        return {size: dict.fromkeys(("audio_to_text", "text_to_audio"), rows) for size, rows in roles.items()}

    for seed in (0, 1):
        write_run(runs / f"tiny/loss.dims:_8_4_-s{seed}", 0.4, seed, overrides="loss.dims:[8,4]", sizes=sizes(seed))
    write_run(runs / "tiny/model.dim:4-s0", 0.9, overrides="model.dim:4")
    (board,) = summarise(find_runs([runs]))["boards"]
    (part,) = [part for part in parts_of(board) if part.title.startswith("Sizes")]
    assert part.title == "Sizes of the vectors of tiny loss.dims:[8,4]"
    texts = [[cell.text for cell in row] for row in part.rows]
    assert [line[0] for line in texts] == ["8", "4"] and [line[1] for line in texts] == [
        "55.0 [45.0, 65.0]", "25.0 [15.0, 35.0]",
    ]  # fmt: skip
    alone = {each["overrides"]: recall_cell(each["seen"]) for each in board["systems"]}
    assert [line[2] for line in texts] == [alone["default"], alone["model.dim:4"]]
    assert f"### {part.title}" in markdown(summarise(find_runs([runs])), "T")


def test_the_heat_map_has_the_shorter_side_across(summary):
    (board,) = summary["boards"]
    systems = board["systems"]
    tall = next(part for part in parts_of(board) if part.heat)
    assert tall.header[:2] == ["language", "role"] and len(tall.rows) == len(systems) == 3
    board["systems"] = [*systems, systems[0] | {"name": "another"}]
    wide = next(part for part in parts_of(board) if part.heat)
    assert wide.header[0] == "system" and wide.header[1] == "Catalan ca_es (seen)"
    scores = [[cell.text for cell in row] for row in wide.rows[:3]]
    assert [list(column) for column in zip(*scores, strict=True)][1:] == [
        [c.text for c in row[2:]] for row in tall.rows
    ]


@pytest.mark.parametrize("score", [n / 20 for n in range(21)])
def test_numbers_of_the_heat_map_stand_out(score):
    """A contrast of 4.5 is what WCAG asks of text."""
    cell = _warm({"per_language": {"ca_es": {"recall@1": score}}}, "ca_es")
    back, ink = (_luminance(colour) for colour in (re.findall(r"\d+", cell.colour), [int(cell.ink[1], 16) * 17] * 3))
    assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) > 4.5


def _luminance(colour):
    parts = [int(part) / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_synthetic_speech_is_called_so(summary):
    board = summary["boards"][0]
    board["test"] = {"recordings": 36, "synthetic": 36}
    assert "synthetic speech (36 of 36 recordings)" in markdown(summary, "T")


def test_names_cannot_break_the_page(summary):
    summary["boards"][0]["systems"][0]["name"] = "<script>alert(1)</script>"
    assert "<script>alert" not in html(summary, "<b>T</b>") and "<b>T" not in html(summary, "<b>T</b>")


def browse(page, tmp_path):
    """The page's DOM after its scripts have run, and what it wrote to the console, errors among them."""
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}",
               "--enable-logging=stderr", "--hide-scrollbars", "--window-size=1000,900",
               "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_sorts_the_table_without_an_error(summary, tmp_path):
    click = "<script>document.querySelectorAll('th button')[%d].click()</script>"
    page = html(summary, "T")
    before = [row[1:3] for row in Tables(page).rows[1:4]]
    dom, said = browse(page.replace("</body>", f"{click % 1}</body>"), tmp_path)
    names = [row[1] for row in Tables(dom).rows[1:4]]
    assert said == [] and names == sorted((row[0] for row in before), reverse=True) != [row[0] for row in before]
    dom, said = browse(page.replace("</body>", f"{click % 2 * 2}<script>missing()</script></body>"), tmp_path)
    scores = [float(row[2].split()[0]) for row in Tables(dom).rows[1:4]]  # numbers are sorted as such; twice: upwards
    assert scores == sorted(float(row[1].split()[0]) for row in before) and len(set(scores)) > 1
    assert len(said) == 1 and "missing is not defined" in said[0]  # the check can fail


MEASURE = """<script>addEventListener("load", () => {
  const inner = document.querySelector("iframe").contentDocument, root = inner.documentElement;
  const letters = [...inner.querySelectorAll("svg text")].map(text => text.getBoundingClientRect());
  const ends = [Math.min(...letters.map(box => box.height)), Math.max(...letters.map(box => box.right))];
  document.title = [root.scrollWidth, ...ends, letters.length].map(Math.round).join(" ");
})</script>"""


def on_a_phone(page, tmp_path):
    """Width of what 360 pixels have to show; height of the smallest letter of a chart, right edge of them, how many."""
    frame = f'<iframe style="width:360px;height:640px;border:0" srcdoc="{escape(page)}"></iframe>'
    dom, _ = browse(f"<!doctype html><title>-</title>{frame}{MEASURE}", tmp_path)
    return [int(number) for number in re.search("<title>([^<]*)</title>", dom)[1].split()]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_phone_scrolls_tables_and_not_the_page(summary, tmp_path):
    summary["boards"][0]["differences"][0]["name"] += " frontend.deduplicate:False+data.translations.share:0.25" * 2
    width, smallest, right, letters = on_a_phone(html(summary, "T"), tmp_path)
    assert width == 360 and right <= 360 and smallest >= 9 and letters > 30
    wide, small, *_ = on_a_phone(html(summary, "T").replace("overflow-x: auto", "").replace("32rem", "9rem"), tmp_path)
    assert wide > 360 and small < 9  # the check can fail
