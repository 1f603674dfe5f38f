"""The page itself, in Gradio: nothing but wiring. It works without a network, and tells nobody that it is used."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from speechde.demo.answers import Answers, Found, language_choices, problem_html, results_html
from speechde.demo.clips import FORMATS, MEGABYTE
from speechde.errors import AssetError, SpeechdeError
from speechde.install import install_command
from speechde.media.image import FORMATS as PICTURES

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

try:
    import gradio as gr
except ModuleNotFoundError as error:
    raise AssetError(f"{error}; install the page with: {install_command('demo')}") from error

import uvicorn
from fastapi import FastAPI

from speechde.demo.guard import Guard, Names

WAYS = {"speech": "voice", "image": "picture"}  # to ask, besides text
COUNTS = (1, 50)  # fewest and most results that can be asked for
HOUR = 3600  # seconds; uploads are deleted when they are that old
# Gradio's own themes fetch their fonts from a server
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
STYLE = """
.hits { list-style: none; margin: 0; padding: 0; }
.hits li { display: grid; grid-template-columns: 2rem 1fr auto; gap: .25rem .75rem; align-items: baseline;
           margin: 0; padding: .6rem 0; border-bottom: 1px solid var(--border-color-primary); }
.hits .rank { text-align: right; opacity: .6; }
.hits .text { overflow-wrap: anywhere; }
.hits .score { font-variant-numeric: tabular-nums; }
.hits small { display: block; opacity: .7; }
.hits img { grid-column: 2 / -1; max-width: 100%; max-height: 10rem; }
.hits audio { grid-column: 2 / -1; width: 100%; height: 2.25rem; }
.problem { border-left: 4px solid #c00; padding: .5rem 1rem; background: var(--background-fill-secondary); }
"""
# Where the columns stack, as on a phone, results are below the question
SHOW_RESULTS = """() => {
  const found = document.getElementById("results");
  if (found.getBoundingClientRect().top > innerHeight / 3) found.scrollIntoView();
}"""


def build_page(answers: Answers, count: int) -> gr.Blocks:
    """The page; ``count`` results are asked for unless the visitor chooses another number.

    It has a tab for text and for each medium that the model reads.
    """
    info, limits = answers.index.info, answers.limits
    model = Path(info.model).name if Path(info.model).is_absolute() else info.model  # visitors need no paths
    title = f"speechde: search by {', '.join(way for medium, way in WAYS.items() if medium in answers.media)} or text"
    title = title if answers.media else "speechde: search by text"
    asked: list[tuple[Callable[..., gr.events.Dependency], Callable[..., list[Found]], gr.components.Component]] = []
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"# {title}\n{info.count:,} items of an index made with the model `{model}`.")
        with gr.Row():
            with gr.Column():
                with gr.Tabs():
                    if "speech" in answers.media:
                        with gr.Tab("Speech"):
                            clip = gr.Audio(type="filepath", label="Recording", buttons=[])
                            gr.Markdown(f"{FORMATS}, at most {limits.seconds:g} s and {limits.megabytes:g} MB.")
                            asked.append((_button("speech").click, answers.by_speech, clip))
                    if "image" in answers.media:
                        with gr.Tab("Picture"):
                            # gr.Image opens any file itself, whatever its size, and has no message for a visitor
                            picture = gr.File(file_types=["image"], type="filepath", label="Picture", height=140)
                            gr.Markdown(f"{', '.join(PICTURES)}, at most {limits.megabytes:g} MB.")
                            asked.append((_button("picture").click, answers.by_picture, picture))
                    with gr.Tab("Text"):
                        text = gr.Textbox(label="Text", lines=3, max_length=limits.characters)
                        asked += [(trigger, answers.by_text, text) for trigger in (_button("text").click, text.submit)]
                language = gr.Dropdown(
                    language_choices(answers.encoder.languages_seen), value="", label="Language of the question",
                    info="It may stay unknown.",
                )  # fmt: skip
                number = gr.Slider(*COUNTS, value=count, step=1, label="Results")
            with gr.Column():
                results = gr.HTML(elem_id="results", value="<p>Results appear here.</p>")
        for trigger, answer, question in asked:
            shown = trigger(_shown(answer), [question, language, number], results, api_visibility="private")
            shown.then(None, js=SHOW_RESULTS)
    return page


def _button(way: str) -> gr.Button:
    return gr.Button(f"Search by {way}", variant="primary", elem_id=f"ask-{way}")


def application(page: gr.Blocks, megabytes: float, names: Names) -> Guard:
    """The page as an ASGI application that answers under ``names``; files of up to ``megabytes`` can be uploaded."""
    return Guard(gr.mount_gradio_app(
        FastAPI(openapi_url=None), page, path="/", ssr_mode=False, mcp_server=False, pwa=False, run_history=False,
        enable_monitoring=False, footer_links=[], show_error=False, max_file_size=int(megabytes * MEGABYTE),
        theme=THEME, css=STYLE,
    ), names)  # fmt: skip


@contextmanager
def served(app: Guard, host: str, port: int) -> Iterator[str]:
    """Serve it from a thread while the context lasts; gives the address.

    Raises:
        AssetError: host and port cannot be bound.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        raise AssetError(f"{host}:{port} cannot be served from ({error}); choose another --port or --host") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1))
    thread = Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{bound.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def serve(app: Guard, host: str, port: int) -> None:
    """Serve it until Ctrl-C, and print its address.

    Raises:
        AssetError: host and port cannot be bound.
    """
    with served(app, host, port) as address:
        print(f"page: {address} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


def _shown(answer: Callable[..., list[Found]]) -> Callable[..., str]:
    """What an answer looks like on the page, with messages in its place where there is none."""

    def show(question: str | None, language: str, count: int) -> str:
        try:
            return results_html(answer(question, language, int(count)))
        except SpeechdeError as error:
            return problem_html(str(error))

    return show
