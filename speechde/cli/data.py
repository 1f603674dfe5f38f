"""``speechde data``: what a corpus holds, and the corpus as a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cache import cache_root
from speechde.cli.embed import list_dropped
from speechde.cli.options import Json, Overwrite, print_json, refuse_existing
from speechde.errors import ConfigError, DataError, unknown_value

if TYPE_CHECKING:
    from speechde.types import Corpus

CORPORA = ("stamps", "sentences", "fleurs", "covost", "breadth")
EXAMPLES = {
    "stats": (
        "speechde data stats clips.tsv --seen fr --seen ru",
        "speechde data stats stamps --json",
        "speechde data stats examples.jsonl",
        "speechde data stats fleurs --root /data/fleurs --missing skip",
    ),
    "manifest": (
        "speechde data manifest stamps --out stamps.tsv",
        "speechde data manifest fleurs --root /data/fleurs --out fleurs.parquet",
    ),
}
NAMES = ", ".join(CORPORA)
Seen = Annotated[
    list[str] | None, typer.Option(help="A seen language; give the option once for each. Default: the corpus's.")
]
Root = Annotated[str | None, typer.Option(help="fleurs, covost: the folder of FLEURS.")]
Covost = Annotated[str | None, typer.Option(help="covost: the folder of CoVoST-2.")]
Archive = Annotated[str | None, typer.Option(help="stamps, sentences: the .deb, where apt-get does not exist.")]
Public = Annotated[str | None, typer.Option(help="sentences: a folder of public corpora (docs/data.md).")]
Missing = Annotated[str, typer.Option(help="error or skip: what a language of FLEURS without files is.")]


def stats(
    corpus: Annotated[
        str,
        typer.Argument(metavar="NAME|MANIFEST|EXAMPLES", help=f"{NAMES}; or a .tsv, .jsonl or .parquet file."),
    ],
    seen: Seen = None,
    root: Root = None,
    covost: Covost = None,
    archive: Archive = None,
    public: Public = None,
    missing: Missing = "error",
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
    from speechde.corpora.examples_file import is_examples_file
    from speechde.corpora.statistics import corpus_statistics, durations, format_statistics
    from speechde.types import Dropped

    if is_examples_file(corpus):
        _examples(corpus, json)
        return
    read = _read(corpus, seen, root=root, covost=covost, archive=archive, public=public, missing=missing)
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


def manifest(
    corpus: Annotated[str, typer.Argument(metavar="NAME|MANIFEST", help=f"{NAMES}; or a manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write: .tsv, .jsonl or .parquet.")],
    seen: Seen = None,
    root: Root = None,
    covost: Covost = None,
    archive: Archive = None,
    public: Public = None,
    missing: Missing = "error",
    only_seen: Annotated[bool, typer.Option("--only-seen", help="Clips of seen languages alone.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a corpus as a manifest, for other tools, for a corpus of your own, or for hard negatives.

    It has the clips that training and evaluation would use, with the splits that they have there; what is not there yet
    is fetched. Audio stays where it is. A run reads it with data=manifest data.path=OUT data.seen=[...]. Examples that
    speechde negatives makes of it can be trained on with --only-seen: zero-shot languages stay out of training.
    """
    from speechde.corpora.manifest import SUFFIXES, write_manifest

    if out.suffix not in SUFFIXES:
        raise unknown_value("--out", out.name, [f"*{suffix}" for suffix in SUFFIXES])
    refuse_existing(out, overwrite)
    read = _read(corpus, seen, root=root, covost=covost, archive=archive, public=public, missing=missing)
    list_dropped(read.dropped)
    utterances = read.select(langs=read.seen) if only_seen else read.utterances
    if not utterances:
        raise DataError(f"{corpus} has no clip that can be used; check the paths")
    write_manifest(utterances, out)
    print(f"{out}: {len(utterances)} clips; data=manifest data.path={out} data.seen=[{','.join(read.seen)}]")


def _read(corpus: str, seen: list[str] | None, *, covost: str | None, missing: str, **where: str | None) -> Corpus:
    """A corpus by its name, or a manifest."""
    from speechde import languages
    from speechde.config import DataConfig
    from speechde.corpora.load import load_corpus
    from speechde.corpora.manifest import SUFFIXES

    name = "manifest" if Path(corpus).suffix.lower() in SUFFIXES else corpus
    if name not in (*CORPORA, "manifest"):
        raise unknown_value("corpus", corpus, CORPORA, "Or give the path of a manifest (.tsv, .jsonl, .parquet).")
    if name == "covost" and not covost:
        raise ConfigError("covost needs --covost FOLDER, the folder that holds CoVoST-2 (docs/data.md)")
    if missing not in ("error", "skip"):
        raise unknown_value("--missing", missing, ("error", "skip"))
    path, codes = corpus if name == "manifest" else None, [languages.resolve(tag) for tag in seen or ()]
    return load_corpus(DataConfig(name, path=path, covost=covost, missing=missing, seen=codes, **where), cache_root())


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
