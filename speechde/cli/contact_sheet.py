"""``speechde contact-sheet EXAMPLES --model M --out sheet.jpg``: what a model retrieves, to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechde.cli.options import Device, Dim, Language, Model, language_code, open_model
from speechde.errors import ConfigError, unknown_value

EXAMPLES = (
    "speechde contact-sheet pictures/stamps/text_to_image.jsonl --model M --language ro --out sheet.jpg",
    "speechde contact-sheet pictures/stamps/image_to_text.jsonl --model M --task image_to_text -l fr --out sheet.jpg",
)
SUFFIXES = (".jpg", ".jpeg")


def contact_sheet(
    examples: Annotated[Path, typer.Argument(metavar="EXAMPLES", help="A file of examples (.jsonl, .parquet).")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="JPEG to write, of at most 200 kB.")],
    split: Annotated[str, typer.Option(help="Whose queries and answers: train, dev or test.")] = "test",
    language: Language = None,
    task: Annotated[str | None, typer.Option(help="Task of the model whose prompts both sides get.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Queries, spread evenly over the split.")] = 10,
    k: Annotated[int, typer.Option("-k", min=1, max=10, help="Answers of each.")] = 5,
    device: Device = None,
    dim: Dim = None,
) -> None:
    """Draw queries of a file of examples with the nearest answers, those that are right in a blue frame.

    All positives of the split (of the language, where one is given) are the gallery. Queries are not chosen by how well
    they went.
    """
    from speechde.corpora.examples_file import read_examples
    from speechde.evaluation.files import example_task, language_tasks
    from speechde.evaluation.retrieval import DOCUMENT, QUERY
    from speechde.evaluation.text_model import task_prompts
    from speechde.reporting.contact_sheet import sheet_rows, write_sheet

    if out.suffix.lower() not in SUFFIXES:
        raise unknown_value("suffix of --out", out.suffix, SUFFIXES)
    file = read_examples(examples).select(split)
    if not len(file):
        raise ConfigError(f"{examples} has no example of the split {split}; give another --split")
    if language:
        code = language_code(language)
        tasks = {one.subset.split(" ")[1]: one for one in language_tasks(examples.stem, file, split)}
        if code not in tasks:
            raise unknown_value(f"language of {examples}", code, tasks)
        asked = tasks[code]
    else:
        asked = example_task(examples.stem, file, split)
    encoder = open_model(model, device, dim=dim)
    prompts = task_prompts(encoder.trained.prompt, task, "--task")
    sides = (asked.queries, QUERY), (asked.gallery, DOCUMENT)
    vectors = [encoder.embed(list(items), prompt=prompts[side], progress=True) for items, side in sides]
    rows = sheet_rows(asked, *vectors, count, k)
    write_sheet(rows, out)
    found = sum(any(row.right) for row in rows)
    print(f"{out}: {len(rows)} queries of {len(asked.queries)}, {found} with a right answer among {k}")
