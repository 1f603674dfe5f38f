"""``speechde evaluate-parts EXAMPLES --model M``: what each part of a query adds."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Device, Json, Model, open_model, print_json

EXAMPLES = (
    "speechde evaluate-parts pictures/stamps/image_speech_to_text.jsonl --model M",
    "speechde evaluate-parts pictures/stamps/image_speech_to_text.jsonl --model M --condition snr10 --condition snr0 "
    "--task image_speech_to_text --output out",
)


def evaluate_parts(
    examples: Annotated[Path, typer.Argument(metavar="EXAMPLES", help="A file of examples (.jsonl, .parquet).")],
    model: Model,
    split: Annotated[str, typer.Option(help="Whose queries and answers: dev or test.")] = "test",
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", "-c", help="Beside clean: snr10, ssn10, telephone, speed0.8; once for each."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of the model whose prompts both sides get.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for parts.json and table.md.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of intervals.")] = 0,
    device: Device = None,
    json: Json = False,
) -> None:
    """Ask queries of several parts whole, with one part alone, and in reverse order.

    A picture with a recording asks for a text: does the picture help, and in how much noise? Every query is among the
    answers of its language; rows have the lead of the whole query, of the same queries, with a paired interval.
    Conditions change recordings (docs/protocol.md).
    """
    from speechde.conditions import CLEAN, parse
    from speechde.corpora.examples_file import read_examples
    from speechde.evaluation.parts import evaluate_parts as evaluate
    from speechde.evaluation.text_model import task_prompts
    from speechde.provenance import check_writable, commit, hardware
    from speechde.reporting.parts import parts_markdown, write_parts_report
    from speechde.reporting.terminal import show_markdown

    conditions = [each for each in dict.fromkeys(map(parse, condition or ())) if each != CLEAN]
    check_writable(output)
    file = read_examples(examples)
    encoder, start = open_model(model, device), time.perf_counter()
    task_prompts(encoder.trained.prompt, task, "--task")
    metrics = evaluate(encoder, file, split, conditions=conditions, task=task, seed=seed)
    metrics |= {"examples": examples.name, "split": split, "model": model, "commit": commit(), "hardware": hardware()}
    metrics |= {"command": shlex.join(["speechde", *sys.argv[1:]]), "seconds": round(time.perf_counter() - start, 1)}
    if output:
        write_parts_report(output, metrics)
    if json:
        print_json(metrics)
    else:
        show_markdown(parts_markdown(metrics))
