"""``speechde data stats NAME|MANIFEST|EXAMPLES``: what a corpus holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechde.cache import cache_root
from speechde.cli.embed import list_dropped
from speechde.cli.options import Json, print_json
from speechde.errors import ConfigError, DataError, unknown_value

CORPORA = ("stamps", "fleurs", "covost", "breadth")
EXAMPLES = {
    "stats": (
        "speechde data stats clips.tsv --seen fr --seen ru",
        "speechde data stats stamps --json",
        "speechde data stats examples.jsonl",
        "speechde data stats fleurs --root /data/fleurs --missing skip",
    )
}


def stats(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="NAME|MANIFEST|EXAMPLES", help=f"{', '.join(CORPORA)}; or a .tsv, .jsonl or .parquet file."
        ),
    ],
    seen: Annotated[
        list[str] | None, typer.Option(help="A seen language; give the option once for each. Default: the corpus's.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="fleurs, covost: the folder of FLEURS.")] = None,
    covost: Annotated[str | None, typer.Option(help="covost: the folder of CoVoST-2.")] = None,
    archive: Annotated[str | None, typer.Option(help="stamps: the .deb, where apt-get does not exist.")] = None,
    missing: Annotated[str, typer.Option(help="error or skip: what a language of FLEURS without files is.")] = "error",
    hours: Annotated[
        bool,
        typer.Option("--hours/--no-hours", help="Read headers where the corpus states no length."),
    ] = True,
    json: Json = False,
) -> None:
    """Count the clips, hours, sentences and repeats of a corpus, by language and split, and what was dropped and why.

    It is read as training reads it: what is not there yet is fetched, and the counts are those that a recipe prints.
    Clips whose header cannot be read are dropped too (--no-hours leaves them unread). Of a file of examples
    (docs/data.md) it counts examples, hard negatives, repeats and clips, by stratum and split.
    """
    from speechde import languages
    from speechde.config import DataConfig
    from speechde.corpora.examples_file import is_examples_file
    from speechde.corpora.load import load_corpus
    from speechde.corpora.manifest import SUFFIXES
    from speechde.corpora.statistics import corpus_statistics, durations, format_statistics
    from speechde.types import Dropped

    if is_examples_file(corpus):
        _examples(corpus, json)
        return
    name = "manifest" if Path(corpus).suffix.lower() in SUFFIXES else corpus
    if name not in (*CORPORA, "manifest"):
        raise unknown_value("corpus", corpus, CORPORA, "Or give the path of a manifest (.tsv, .jsonl, .parquet).")
    if name == "covost" and not covost:
        raise ConfigError("covost needs --covost FOLDER, the folder that holds CoVoST-2 (docs/data.md)")
    if missing not in ("error", "skip"):
        raise unknown_value("--missing", missing, ("error", "skip"))
    path, codes = corpus if name == "manifest" else None, [languages.resolve(tag) for tag in seen or ()]
    config = DataConfig(name, path=path, root=root, covost=covost, archive=archive, missing=missing, seen=codes)
    read = load_corpus(config, cache_root())
    seconds = None
    if hours:
        seconds = durations(read.utterances)
        read.dropped += [Dropped(u.id, "unreadable", u.audio) for u in read.utterances if u.id not in seconds]
        read.utterances = [u for u in read.utterances if u.id in seconds]
    list_dropped(read.dropped)
    if not read.utterances:
        raise DataError(f"no clip of {corpus} can be read; check the paths")
    found = corpus_statistics(read, seconds)
    if json:
        print_json(found)
    else:
        print(format_statistics(found))


def _examples(path: str, json: bool) -> None:
    from speechde.corpora.examples_file import read_examples
    from speechde.corpora.statistics import examples_statistics, format_examples

    read = read_examples(path)
    list_dropped(read.dropped)
    found = examples_statistics(read)
    if json:
        print_json(found)
    else:
        print(format_examples(found))
