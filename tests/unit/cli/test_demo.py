"""``speechde demo``: the real command, its page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image
from starlette.responses import PlainTextResponse

from speechde.cli.demo import is_loopback, unplayed
from speechde.corpora.manifest import write_manifest
from speechde.demo import page
from speechde.demo.guard import Guard, Names
from speechde.search.index import SearchIndex
from speechde.types import SAMPLE_RATE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ("--headless=new", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-sync", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
         "--window-size=1200,900")  # fmt: skip
NO_BROWSER = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium and chromedriver are not both there"
)
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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_the_address_is_printed_and_ctrl_c_ends_it(host, capsys, monkeypatch):
    with socket.socket(socket.AF_INET6 if host == "::1" else socket.AF_INET) as free:
        try:
            free.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        port = free.getsockname()[1]
    names = Names.of(host)

    def ask(_):
        printed = capsys.readouterr().out
        address = printed.split()[1]
        assert printed == f"page: {address} (Ctrl-C ends it)\n" and address.endswith(f":{port}/")
        assert httpx.get(address, trust_env=False).text == "the page"
        raise KeyboardInterrupt

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await PlainTextResponse("the page")(scope, receive, send)

    monkeypatch.setattr(page, "time", SimpleNamespace(sleep=lambda s: ask(s) if s > 1 else time.sleep(s)))
    page.serve(Guard(app, names), host, port)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{'[::1]' if host == '::1' else host}:{port}/", trust_env=False)


def test_what_is_refused_before_anything_is_served(run, models, index, tmp_path):
    ask = ("demo", "--index", index, "--model", models.continuous)
    assert run(*ask, "--max-seconds", 0).err.splitlines()[-1] == "error: the limit of seconds is 0; give a positive one"
    assert "--name='a:1' is not the name of a host" in run(*ask, "--name", "a:1").err
    assert "is no index" in run("demo", "--index", tmp_path, "--model", models.continuous).err
    done = run("demo", "--index", index, "--model", models.another)
    assert done.code == 1 and "the index holds vectors of the model" in done.err
    done = run(*ask, "--play", tmp_path / "none")
    assert done.code == 2 and "none is not a folder" in done.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(*ask, "--port", port)
    assert done.code == 1 and f"127.0.0.1:{port} cannot be served from" in done.err and "--port" in done.err


def test_clips_that_are_not_played(index, clips, tmp_path):
    opened = SearchIndex.load(index)
    assert unplayed(opened, [Path(clips[0].audio).parent]) is None
    assert unplayed(opened, [tmp_path / "none"]) == next(u.audio for u in clips if u.split == "test")


@pytest.fixture
def served(index, models, clips):
    """Address of the page, served by the command in a process of its own, for clips of up to 1 s and 0.2 MB."""
    with serving(models.continuous, index, Path(clips[0].audio).parent) as address:
        yield address


@contextmanager
def serving(model, index, shown):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "speechde", "demo", "--model", model, "--index", index, "--port", port,
               "--max-seconds", 1, "--max-mb", 0.2, "--play", shown]  # fmt: skip
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
    """What a visitor does and sees, on a screen of a given size."""

    def __init__(self, driver, address, width=1280, height=800):
        self.driver = driver
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
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

    def tab(self, name):
        next(tab for tab in self.all("button[role=tab]") if tab.text == name).click()

    def choose_file(self, path):
        """A file that is no recording, in place of the one that is there."""
        for button in self.all("button[aria-label='Clear'], button[aria-label='Remove this file']"):
            if button.is_displayed():
                button.click()
        self.wait(lambda: self.all("input[type=file][accept*=image]"))[0].send_keys(str(path))
        self.wait(lambda: path.stem in self.driver.find_element("tag name", "body").text)

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

    def tops(self, selector):
        """Where elements begin, in pixels from the upper edge of what is seen."""
        script = "return arguments[0].getBoundingClientRect().top"
        return [self.driver.execute_script(script, element) for element in self.all(selector)]

    def results(self):
        return self.all("#results")[0].text

    def errors(self):
        """What the console has complained of. Gradio asks how far an upload is, also where it is done by then (404)."""
        messages = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in messages if "upload_progress" not in message]


@NO_BROWSER
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


@pytest.fixture
def album(tmp_path, make_tone):
    """Three pictures and a clip."""
    (tmp_path / "album").mkdir()
    draw = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "album" / name)
    soundfile.write(tmp_path / "album/d.wav", make_tone(0.4), SAMPLE_RATE)
    return tmp_path / "album"


@NO_BROWSER
def test_a_visitor_with_a_picture(run, tiny_model, album, browser, tmp_path):
    model = tiny_model(sees=True)
    assert run("embed", album, "--model", model, "--out", tmp_path / "v.parquet").code == 0
    assert run("index", "build", tmp_path / "v.parquet", "--out", tmp_path / "album.index").code == 0
    asked, wrong = tmp_path / "asked.png", tmp_path / "words.png"
    asked.write_bytes((album / "a.png").read_bytes())
    wrong.write_text("these are words and no picture", encoding="utf-8")
    with serving(model, tmp_path / "album.index", album) as address:
        page = Page(browser, address)
        assert browser.title == "speechde: search by voice, picture or text"
        page.tab("Picture")
        page.choose_file(asked)
        page.all("#ask-picture")[0].click()
        page.wait(lambda: page.all(".hits li"))
        first = page.all(".hits li")[0]
        assert first.text.split("\n") == ["1", "a.png", "1.000"]
        image = first.find_element("css selector", "img")
        page.wait(lambda: browser.execute_script("return arguments[0].naturalWidth", image) == 30)
        assert len(page.all(".hits img")) == 3 and len(page.all(".hits audio")) == 1
        page.choose_file(wrong)
        page.all("#ask-picture")[0].click()
        page.wait(lambda: page.all(".problem"))
        assert page.results().startswith("words.png is no picture that can be read here, or is damaged; use PNG")
        assert page.errors() == []


@NO_BROWSER
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_results_are_on_the_screen(served, browser, clips, width, height):
    page = Page(browser, served, width, height)
    page.upload(next(u.audio for u in clips if u.split == "test"))
    page.all("#ask-speech")[0].click()
    page.wait(lambda: page.all(".hits li"))
    page.wait(lambda: 0 <= page.tops(".hits li")[0] < height / 4)
    assert page.tops(".hits li")[2] < height * 0.8, "three results at least are seen without scrolling"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.errors() == []


@NO_BROWSER
def test_pages_of_other_sites(served, browser, tmp_path):
    """A name that another site lets point here, a page that frames this one, and one that posts to it."""
    port = served.rpartition(":")[2].strip("/")
    assert httpx.get(served, headers={"Host": f"evil.example:{port}"}, trust_env=False).status_code == 421
    upload = httpx.post(f"{served}gradio_api/upload", files={"files": ("a.wav", b"RIFF")}, trust_env=False,
                        headers={"Origin": "https://evil.example"})  # fmt: skip
    assert upload.status_code == 403 and "access-control-allow-origin" not in upload.headers
    evil = tmp_path / "evil.html"
    script = f"fetch('{served}config').then(() => document.title = 'read', () => document.title = 'refused')"
    evil.write_text(f"<iframe src={served}></iframe><script>{script}</script>", encoding="utf-8")
    browser.get(evil.as_uri())
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, WAIT).until(lambda _: browser.title in ("read", "refused"))
    assert browser.title == "refused"
    frames = lambda: [m["message"] for m in browser.get_log("browser") if "frame-ancestors" in m["message"]]  # noqa: E731
    WebDriverWait(browser, WAIT).until(lambda _: frames())
