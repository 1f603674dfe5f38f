"""``speechde pictures stamps|emoji|openclipart|manifest --out DIR``: pictures as files of examples."""

from __future__ import annotations

import json as json_format
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speechde.cache import atomic_write, cache_root
from speechde.cli.embed import list_dropped
from speechde.cli.options import Json, print_json, print_table
from speechde.types import SPLITS, Dropped

if TYPE_CHECKING:
    from speechde.corpora.pictures import Found, Pictures

RECORD = "pictures.json"
EXAMPLES = {
    "stamps": (
        "speechde pictures stamps --out pictures/stamps",
        "speechde pictures stamps --archive tuxpaint-stamps-default.deb --out pictures/stamps",
    ),
    "emoji": ("speechde pictures emoji --out pictures/emoji",),
    "openclipart": ("speechde pictures openclipart --out pictures/openclipart",),
    "manifest": ("speechde pictures manifest pictures.tsv --out pictures/own",),
}

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the files of examples.")]
Seed = Annotated[int, typer.Option(help="Of the split of the stamps: data.split_seed of the runs that use them.")]
Archive = Annotated[Path | None, typer.Option(help="The .deb of the package, where apt-get does not exist.")]
Stamps = Annotated[Path | None, typer.Option("--stamps", help="The .deb of the stamps, where apt-get does not exist.")]


def stamps(out: Out, seed: Seed = 0, archive: Archive = None, json: Json = False) -> None:
    """Pictures of the stamps with their texts in nine languages and English, and their recordings.

    Writes a file of examples for each way to ask: image_to_text, text_to_image, speech_to_image and
    image_speech_to_text. The split is by concept, that of the speech. Train and dev are in the seen languages and
    English, test is in all. What was left out is counted and listed, all of it in pictures.json.
    """
    from speechde.corpora import stamp_pictures
    from speechde.corpora import stamps as speech

    cache = cache_root()
    found = speech.find_archive(archive, cache / "downloads")
    root = cache / "corpora" / f"{speech.PACKAGE}-{speech.VERSION}"
    pictures = stamp_pictures.unpack(found, root.with_name(f"{root.name}-pictures"))
    read = stamp_pictures.read_pictures(speech.unpack(found, root), pictures, seed)
    _write(read, out, [*speech.SEEN, stamp_pictures.ENGLISH], json)


def emoji(
    out: Out,
    seed: Seed = 0,
    archive: Archive = None,
    names: Annotated[
        Path | None, typer.Option(help="The .deb of unicode-cldr-core, where apt-get does not exist.")
    ] = None,
    stamps: Stamps = None,
    json: Json = False,
) -> None:
    """Emoji with their names in 90 languages: image_to_text and text_to_image, to train on before the stamps.

    Emoji that are named as a stamp of dev or test are left out. Train and dev are not in the languages that the stamps
    test as never heard, test is in all.
    """
    from speechde.corpora import emoji as drawings
    from speechde.corpora import stamps as speech
    from speechde.corpora import synthetic

    cache = cache_root()
    held_out = _held_out(stamps, seed)
    font, folder = drawings.find_font(archive, cache), synthetic.find_texts(names, cache, langs=synthetic.NAMED)
    read = drawings.read_emoji(font, folder, cache, held_out)
    _write(read, out, [lang for lang in synthetic.NAMED if lang not in speech.ZERO_SHOT], json)


def openclipart(out: Out, seed: Seed = 0, archive: Archive = None, stamps: Stamps = None, json: Json = False) -> None:
    """Drawings in the public domain with their titles and keywords: image_to_text and text_to_image.

    For training before the stamps: drawings that are named as a stamp of dev or test are left out, and so are those
    whose title says nothing of them. Drawing them takes some minutes, once.
    """
    from speechde.corpora import openclipart as drawings

    cache = cache_root()
    held_out = _held_out(stamps, seed)
    found, dropped = drawings.read_openclipart(drawings.find_drawings(archive, cache), cache, held_out, seed)
    _write_found({"name": "openclipart", "licence": drawings.LICENCE}, found, dropped, out, json)


def manifest(
    file: Annotated[Path, typer.Argument(help="Table with the columns image, lang, and text or audio.")],
    out: Out,
    json: Json = False,
) -> None:
    """Your own pictures with texts, recordings or both, from a .parquet, .jsonl or .tsv file.

    Columns: image, lang, text and/or audio, and where you have them split and meaning. Writes a file of examples for
    each way to ask that the rows allow.
    """
    from speechde.corpora.picture_manifest import read_pictures

    _write_found({"name": file.stem}, *read_pictures(file), out, json)


def _held_out(stamps: Path | None, seed: int) -> list[str]:
    """Texts of the stamps of dev and test; ``stamps`` is their package, None to find or fetch it."""
    from speechde.corpora import emoji
    from speechde.corpora import stamps as speech

    cache = cache_root()
    package = speech.find_archive(stamps, cache / "downloads")
    root = speech.unpack(package, cache / "corpora" / f"{speech.PACKAGE}-{speech.VERSION}")
    return emoji.held_out_texts(speech.read_texts(root, seed)[0])


def _write_found(record: dict[str, Any], found: Found, dropped: list[Dropped], out: Path, json: bool) -> None:
    from speechde.corpora.pictures import write_found

    by_split = {split: [one for splits in found.values() for one in splits[split]] for split in SPLITS}
    record |= {
        "trained": sorted({example.stratum for example in by_split["train"]}),
        "concepts": {split: len({example.query.meaning for example in some}) for split, some in by_split.items()},
        "examples": write_found(found, out),
    }
    _report(record, dropped, out, json)


def _write(read: Pictures, out: Path, trained: list[str], json: bool) -> None:
    from speechde.corpora.pictures import write_tasks

    counts = write_tasks(read, out, trained)
    record = {"name": read.name, "licence": read.licence, "trained": trained, "concepts": read.counts()}
    _report(record | {"examples": counts}, read.dropped, out, json)


def _report(record: dict[str, Any], dropped: list[Dropped], out: Path, json: bool) -> None:
    """Write what was made and left out into ``out``, and say it; files of an earlier call, of other tasks, go."""
    list_dropped(dropped)
    for task in _made_before(out / RECORD) - record["examples"].keys():
        (out / f"{task}.jsonl").unlink(missing_ok=True)
    record["dropped"] = dict(Counter(one.reason for one in dropped).most_common())
    with atomic_write(out / RECORD) as temporary:
        whole = record | {"left_out": [asdict(one) for one in dropped]}
        temporary.write_text(json_format.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if json:
        print_json(record)
        return
    rows = [(out / f"{task}.jsonl", *splits.values()) for task, splits in record["examples"].items()]
    print_table(("file", *SPLITS), [("concepts", *record["concepts"].values()), *rows], numbers=(1, 2, 3))
    print(f"left out: {', '.join(f'{reason}: {count}' for reason, count in record['dropped'].items()) or 'nothing'}")


def _made_before(record: Path) -> set[str]:
    """The tasks that a call before wrote files of, as its record says; none where that cannot be read."""
    try:
        return {
            str(task)
            for task in json_format.loads(record.read_text(encoding="utf-8"))["examples"]
            if task.isidentifier()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return set()
