"""The page itself, in Gradio: nothing but wiring. It works without a network, and tells nobody that it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from speechde.demo.answers import Answers, Found, language_choices, problem_html, results_html
from speechde.demo.clips import FORMATS, MEGABYTE
from speechde.errors import AssetError, SpeechdeError
from speechde.install import install_command

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

try:
    import gradio as gr
except ModuleNotFoundError as error:
    raise AssetError(f"{error}; install the page with: {install_command('demo')}") from error

TITLE = "speechde: search by voice or text"
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
.hits audio { grid-column: 2 / -1; width: 100%; height: 2.25rem; }
.problem { border-left: 4px solid #c00; padding: .5rem 1rem; background: var(--background-fill-secondary); }
"""


def build_page(answers: Answers, count: int) -> gr.Blocks:
    """The page; ``count`` results are asked for unless the visitor chooses another number."""
    info, limits = answers.index.info, answers.limits
    model = Path(info.model).name if Path(info.model).is_absolute() else info.model  # visitors need no paths
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"# {TITLE}\n{info.count:,} items of an index made with the model `{model}`.")
        with gr.Row():
            with gr.Column():
                with gr.Tabs():
                    with gr.Tab("Speech"):
                        clip = gr.Audio(type="filepath", label="Recording", buttons=[])
                        gr.Markdown(f"{FORMATS}, at most {limits.seconds:g} s and {limits.megabytes:g} MB.")
                        ask_clip = gr.Button("Search by speech", variant="primary", elem_id="ask-speech")
                    with gr.Tab("Text"):
                        text = gr.Textbox(label="Text", lines=3, max_length=limits.characters)
                        ask_text = gr.Button("Search by text", variant="primary", elem_id="ask-text")
                language = gr.Dropdown(
                    language_choices(answers.encoder.languages_seen), value="", label="Language of the question",
                    info="It may stay unknown.",
                )  # fmt: skip
                number = gr.Slider(*COUNTS, value=count, step=1, label="Results")
            with gr.Column():
                results = gr.HTML(elem_id="results", value="<p>Results appear here.</p>")
        options = {"outputs": results, "api_visibility": "private"}
        ask_clip.click(_shown(answers.by_speech), [clip, language, number], **options)
        for trigger in (ask_text.click, text.submit):
            trigger(_shown(answers.by_text), [text, language, number], **options)
    return page


def serve(page: gr.Blocks, megabytes: float, host: str, port: int, wait: bool = True) -> str:
    """Serve the page until it is interrupted (``wait=False``: go on at once), and return its address.

    Raises:
        AssetError: host and port cannot be bound.
    """
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            mcp_server=False, pwa=False, run_history=False, enable_monitoring=False, footer_links=[], show_error=False,
            max_file_size=int(megabytes * MEGABYTE), theme=THEME, css=STYLE,
        )  # fmt: skip
    except OSError as error:
        raise AssetError(f"{host}:{port} cannot be served from ({error}); choose another --port or --host") from error
    print(f"page: {address} (Ctrl-C ends it)", flush=True)
    if wait:
        page.block_thread()
    return address


def _shown(answer: Callable[..., list[Found]]) -> Callable[..., str]:
    """What an answer looks like on the page, with messages in its place where there is none."""

    def show(question: str | None, language: str, count: int) -> str:
        try:
            return results_html(answer(question, language, int(count)))
        except SpeechdeError as error:
            return problem_html(str(error))

    return show
