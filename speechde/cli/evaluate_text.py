"""``speechde evaluate-text MODEL``: a model on public text benchmarks, as retrieval."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Device, Json, language_code, print_json

EXAMPLES = (
    "speechde evaluate-text runs/quickstart/default-s0/model --task sib200 -l ro -l fr",
    "speechde evaluate-text packaged:multilingual-e5-small --prefix 'query: ' --task sib200 --per-language 200",
    "speechde evaluate-text packaged:multilingual-e5-small --prefix 'query: ' --task ateb --per-language 200 -c",
    "speechde evaluate-text runs/quickstart/default-s0 --task ateb_creak --per-language 200 --aloud 20",
    "speechde evaluate-text packaged:gemma-3-270m --task xquad --task banking77 --folder /data/public --output out",
)


def evaluate_text(
    model: Annotated[
        str, typer.Argument(help="Model folder, run directory, packaged:NAME, transformers folder or hub id.")
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="Benchmark; once for each. Default: sib200.")
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option("--language", "-l", help="Language; once for each. Default: all it has.")
    ] = None,
    per_language: Annotated[
        int | None, typer.Option(min=1, help="Queries of each language; galleries stay whole.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", "-c", help="Of ATEB's sets: majority, word overlap, linear probes.")
    ] = False,
    aloud: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Ask by synthetic speech: inputs of so many seconds at most."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Holds sib200/, ntrex/ …; default: fetched to the cache.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Of a model as it comes: words before each text.")] = None,
    document_prefix: Annotated[str | None, typer.Option(help="Before documents, where another.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Of a trained model: the task whose prompts it gets.")] = None,
    attention: Annotated[str, typer.Option(help="Of a model as it comes: bidirectional or causal.")] = "bidirectional",
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Longer texts are cut, and counted.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for text.json and table.md.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of intervals.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor.")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Score a model on public texts: sentence to translation, question to paragraph, question to intent.

    Tasks: sib200, sib200_back, ntrex, ntrex_back, ntrex_documents, xquad, banking77, banking77_examples; ateb for all
    sets of ATEB that can be fetched, ateb_factuality for those of an ability, ateb_creak for one (docs/ateb.md). A
    model that was not trained here is used as it comes: mean of its last states, cosine, and the prefixes given.
    With --output, speechde compare tells two evaluations apart, query by query. docs/protocol.md says what the numbers
    mean.
    """
    from speechde.cache import cache_root
    from speechde.evaluation.asked import Asked
    from speechde.evaluation.text_model import evaluate_texts, open_text_model
    from speechde.provenance import check_writable, commit, hardware
    from speechde.reporting.terminal import show_markdown
    from speechde.reporting.text import text_markdown, write_text_report

    _set_up(device, threads)
    check_writable(output)
    known = {"commit": commit(), "hardware": hardware(), "command": shlex.join(["speechde", *sys.argv[1:]])}
    start, codes = time.perf_counter(), [language_code(tag) for tag in language or ()]
    asked = Asked(cache_root(), folder, langs=codes or None, per_language=per_language, seed=seed)
    opened = open_text_model(model, prefix=prefix, document_prefix=document_prefix, attention=attention,
                             max_tokens=max_tokens, device=device, prompt=prompt)  # fmt: skip
    metrics, hits = evaluate_texts(opened, task or ["sib200"], asked, controls=controls, aloud=aloud)
    metrics |= known
    metrics["seconds"] = round(time.perf_counter() - start, 1)
    if output:
        write_text_report(output, metrics, hits)
    if json:
        print_json(metrics)
    else:
        show_markdown(text_markdown(metrics))


def _set_up(device: str | None, threads: int | None) -> None:
    """Keep libraries quiet, and see that the device is there."""
    import torch
    from transformers.utils import logging

    from speechde.cli.options import check_device
    from speechde.progress import quiet_libraries

    quiet_libraries()
    logging.set_verbosity_error()
    check_device(device)
    if threads:
        torch.set_num_threads(threads)
