"""``speechde demo``: the real command, its page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from speechde.cli.demo import is_loopback
from speechde.data.manifest import write_manifest
from speechde.types import SAMPLE_RATE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-sync", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
         "--window-size=1200,900")  # fmt: skip
WAIT = 120  # seconds that the page may take on a busy machine
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def index(run, models, clips, tmp_path):
    """An index of the test clips with their transcripts."""
    manifest = write_manifest([u for u in clips if u.split == "test"], tmp_path / "clips.jsonl")
    out = tmp_path / "speech.index"
    assert run("embed", manifest, "--model", models.continuous, "--out", tmp_path / "v.parquet").code == 0
    assert run("index", "build", tmp_path / "v.parquet", "--out", out).code == 0
    return out


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
                                           ("192.168.1.2", False), ("example", False)])  # fmt: skip
def test_loopback(host, own):
    assert is_loopback(host) == own


def test_what_is_refused_before_anything_is_served(run, models, index, tmp_path):
    ask = ("demo", "--index", index, "--model", models.continuous)
    assert run(*ask, "--max-seconds", 0).err.splitlines()[-1] == "error: the limit of seconds is 0; give a positive one"
    assert "is no index" in run("demo", "--index", tmp_path, "--model", models.continuous).err
    done = run("demo", "--index", index, "--model", models.another)
    assert done.code == 1 and "the index holds vectors of the model" in done.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(*ask, "--port", port)
    assert done.code == 1 and f"127.0.0.1:{port} cannot be served from" in done.err and "--port" in done.err


@pytest.fixture
def served(index, models):
    """Address of the page, served by the command in a process of its own, for clips of up to 1 s and 0.2 MB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "speechde", "demo", "--model", models.continuous, "--index", index, "--port", port,
               "--max-seconds", 1, "--max-mb", 0.2]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            yield re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        finally:
            server.terminate()


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium that keeps its console."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*FLAGS, f"--user-data-dir={tmp_path / 'user'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """What a visitor does and sees."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        self.wait(lambda: self.all("#ask-speech"))

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def wait(self, condition):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.wait import WebDriverWait

        ignored = (StaleElementReferenceException,)
        return WebDriverWait(self.driver, WAIT, ignored_exceptions=ignored).until(lambda _: condition())

    def upload(self, path):
        """Choose a file, in place of the one that is there."""
        for button in self.all("button[aria-label='Clear']"):
            button.click()
        self.wait(lambda: self.all("input[type=file]"))[0].send_keys(str(path))
        self.wait(lambda: self.all("button[aria-label='Play']"))

    def choose(self, label, name):
        """One of a list of choices, by typing its name."""
        from selenium.webdriver.common.keys import Keys

        field = self.all(f"input[aria-label='{label}']")[0]
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(name)
        self.wait(lambda: len(self.all("[role=option]")) == 1)
        field.send_keys(Keys.ENTER)
        self.wait(lambda: not self.all("[role=option]"))

    def results(self):
        return self.all("#results")[0].text

    def errors(self):
        """What the console has complained of. Gradio asks how far an upload is, also where it is done by then (404)."""
        messages = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in messages if "upload_progress" not in message]


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="Chromium and chromedriver are not both installed")
def test_a_visitor(served, browser, models, clips, tmp_path, make_tone):
    page = Page(browser, served)
    model = Path(models.continuous)
    assert model.is_absolute() and str(model.parent) not in browser.page_source
    assert model.name in [code.text for code in page.all("code")]
    clip = next(u for u in clips if u.split == "test" and u.lang == "fr_fr")
    page.upload(clip.audio)
    page.choose("Language of the question", "French (fr_fr)")
    page.all("#ask-speech")[0].click()
    page.wait(lambda: page.all(".hits li"))
    assert page.all(".hits li")[0].text.split("\n") == ["1", clip.text, "French", "1.000"]
    assert len(page.all(".hits li")) == 9
    audio = page.all(".hits audio")[0]
    page.wait(lambda: browser.execute_script("return arguments[0].duration", audio) == pytest.approx(0.3, abs=0.01))

    long, wrong = tmp_path / "long.wav", tmp_path / "words.wav"
    soundfile.write(long, make_tone(2.0), SAMPLE_RATE)
    wrong.write_text("these are words and no audio\n" * 20, encoding="utf-8")
    page.upload(long)
    page.all("#ask-speech")[0].click()
    page.wait(lambda: page.all(".problem"))
    assert page.results() == "long.wav is too long; at most 1 s can be searched for."
    assert page.errors() == []
    hosts = browser.execute_script("return performance.getEntriesByType('resource').map(e => new URL(e.name).host)")
    assert len(hosts) > 10 and set(hosts) <= {served.split("/")[2], ""}  # "": the data: URLs of the clips

    page.upload(wrong)
    page.all("#ask-speech")[0].click()
    page.wait(lambda: "words.wav" in page.results())
    assert page.results() == "words.wav is not audio that can be read here, or is damaged; use WAV, FLAC, Ogg or MP3."
