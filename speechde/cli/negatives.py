"""``speechde negatives EXAMPLES --model M --out F``: hard negatives for training examples."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cache import atomic_write, sha256_file
from speechde.cli.embed import list_dropped
from speechde.cli.options import Device, Dtype, Overwrite, open_model, refuse_existing
from speechde.errors import ConfigError

if TYPE_CHECKING:
    from speechde import SpeechTextEncoder
    from speechde.search.negatives import Mined, Mining

EXAMPLES = (
    "speechde negatives qa.jsonl --model M -k 20 --out qa-hard.jsonl",
    "speechde negatives qa.jsonl --model M --ranking judge-a.tsv --ranking judge-b.tsv --out qa-hard.jsonl",
    "speechde negatives clips.tsv --candidates minimal-pairs --out clips-hard.jsonl",
)


def negatives(
    examples: Annotated[Path, typer.Argument(metavar="EXAMPLES", help="File of examples, or manifest of clips.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Examples file to write, .jsonl.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model folder, run directory, or hub id.")] = None,
    candidates: Annotated[str, typer.Option(help="nearest or minimal-pairs.")] = "nearest",
    k: Annotated[int, typer.Option("-k", min=1, help="Candidates of an example, at most.")] = 20,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Place that is taken; default: k, or --count of pairs.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Negatives of an example: the places up to --rank.")] = 1,
    ranking: Annotated[
        list[str] | None, typer.Option(help="model, characters, or a TSV of query, document and score; once for each.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The task of the model whose prompts both sides get.")] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Find documents that are taken for the answers of training examples, and are not.

    Examples are those of an examples file (split train), or clips of a manifest that ask for their transcripts. The
    candidates of each are the k other documents in its language that the model finds nearest to the query; with
    minimal-pairs, those one letter or one word apart from the answer. What means the same is never taken. Several
    rankings are fused by reciprocal ranks, and the candidate at --rank is written behind the negatives that are there.

    Examples of dev and test are written as they are. Beside OUT, OUT.provenance.json says what it was made from.
    """
    from speechde.corpora.examples_writer import write_examples
    from speechde.provenance import commit
    from speechde.search.negatives import RANKINGS, Mining, item_embedder, mine_negatives, read_scores, read_source

    if out.suffix != ".jsonl":
        raise ConfigError(f"--out {out} is written as JSON Lines; give a name that ends in .jsonl")
    refuse_existing(out, overwrite)
    how = Mining(candidates, k, rank, count, tuple(ranking or ()))
    if how.needs_model and model is None:
        raise ConfigError("--model is not given; only --candidates minimal-pairs without --ranking model needs none")
    tables, dropped = {}, []
    for name in dict.fromkeys(how.rankings):
        if name not in RANKINGS:
            tables[name], bad = read_scores(Path(name))
            dropped += bad
    found, bad, later = read_source(examples)
    encoder = open_model(model, device, dtype) if how.needs_model else None
    mined = mine_negatives(found, how, encoder and item_embedder(encoder, prompt), tables)
    dropped += [*bad, *mined.dropped]
    origin = _provenance(examples, how, encoder, prompt, mined) | {
        "dropped": dict(Counter(one.reason for one in dropped)), "commit": commit()
    }  # fmt: skip
    write_examples(mined.examples, out, others=later)
    _write_provenance(out, origin)
    list_dropped(dropped)
    print(f"{out}: {len(mined.examples)} examples, {mined.without} of them without a mined negative")


def _provenance(source: Path, how: Mining, encoder: SpeechTextEncoder | None, prompt: str | None, mined: Mined) -> dict:
    """What a file was made from; files by name and hash."""
    return {
        "source": _file(source),
        "model": encoder and encoder.fingerprint,
        "prompt": prompt,
        "settings": asdict(how) | {"rankings": [Path(name).name for name in how.rankings]},
        "scores": [_file(path) for path in map(Path, how.rankings) if path.is_file()],
        "examples": len(mined.examples),
        "without": mined.without,
    }


def _file(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": sha256_file(path)}


def _write_provenance(out: Path, values: dict) -> None:
    with atomic_write(out.with_name(f"{out.name}.provenance.json")) as temporary:
        text = json.dumps(values | {"file": _file(out)}, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
