"""The report page: both forms say the same, and a browser finds no fault with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from speechde.evaluation.pages import html, markdown
from speechde.evaluation.summary import find_runs, summarise

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# errors are written into the page's title, where --dump-dom shows them
CATCH = "<script>addEventListener('error', e => document.title = 'ERROR ' + e.message);</script>"


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
    page = html(summary, "T")
    assert page.count("<svg") == 3 and not re.search(r'(src|href)="(?!data:|#)', page)
    for text in (page, markdown(summary, "T")):
        assert "python train.py recipe=tiny seed=1" in text


def test_synthetic_speech_is_called_so(summary):
    board = summary["boards"][0]
    board["test"] = {"recordings": 36, "synthetic": 36}
    assert "synthetic speech (36 of 36 recordings)" in markdown(summary, "T")


def test_names_cannot_break_the_page(summary):
    summary["boards"][0]["systems"][0]["name"] = "<script>alert(1)</script>"
    assert "<script>alert" not in html(summary, "<b>T</b>") and "<b>T" not in html(summary, "<b>T</b>")


def browse(page, tmp_path, width=1000):
    """The page's DOM after its scripts have run."""
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}",
               f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom", path.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_sorts_the_table_without_an_error(summary, tmp_path):
    click = "<script>document.querySelectorAll('th button')[1].click()</script>"
    page = html(summary, "T").replace("<head>", f"<head>{CATCH}").replace("</body>", f"{click}</body>")
    before, after = ([row[1] for row in Tables(text).rows[1:4]] for text in (page, browse(page, tmp_path)))
    assert after == sorted(before, reverse=True) != before
    assert "<title>T</title>" in browse(page, tmp_path)
    broken = page.replace("</body>", "<script>missing()</script></body>")
    assert "<title>ERROR" in browse(broken, tmp_path)  # the check can fail


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_phone_scrolls_tables_and_not_the_page(summary, tmp_path):
    measure = "<script>document.title = document.body.scrollWidth <= innerWidth</script>"
    page = html(summary, "T").replace("</body>", f"{measure}</body>")
    assert "<title>true</title>" in browse(page, tmp_path, width=500)
    assert "<title>false</title>" in browse(page.replace("overflow-x: auto", ""), tmp_path, width=500)
