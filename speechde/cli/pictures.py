"""``speechde pictures stamps|emoji --out DIR``: corpora of pictures, as files of training examples."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from speechde.cache import atomic_write, cache_root
from speechde.cli.embed import list_dropped
from speechde.cli.options import Json, print_json, print_table

if TYPE_CHECKING:
    from speechde.corpora.pictures import Pictures

RECORD = "pictures.json"
EXAMPLES = {
    "stamps": (
        "speechde pictures stamps --out pictures/stamps",
        "speechde pictures stamps --archive tuxpaint-stamps-default.deb --out pictures/stamps",
    ),
    "emoji": ("speechde pictures emoji --out pictures/emoji",),
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
    package = speech.find_archive(stamps, cache / "downloads")
    root = speech.unpack(package, cache / "corpora" / f"{speech.PACKAGE}-{speech.VERSION}")
    held_out = drawings.held_out_texts(speech.read_texts(root, seed)[0])
    font, folder = drawings.find_font(archive, cache), synthetic.find_texts(names, cache, langs=synthetic.NAMED)
    read = drawings.read_emoji(font, folder, cache, held_out)
    _write(read, out, [lang for lang in synthetic.NAMED if lang not in speech.ZERO_SHOT], json)


def _write(read: Pictures, out: Path, trained: list[str], json: bool) -> None:
    from speechde.corpora.pictures import write_tasks

    list_dropped(read.dropped)
    counts = write_tasks(read, out, trained)
    record = {
        "name": read.name,
        "licence": read.licence,
        "trained": trained,
        "concepts": read.counts(),
        "examples": counts,
        "dropped": read.dropped_counts(),
    }
    with atomic_write(out / RECORD) as temporary:
        whole = record | {"left_out": [asdict(one) for one in read.dropped]}
        temporary.write_text(json_format.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if json:
        print_json(record)
        return
    rows = [(out / f"{task}.jsonl", *splits.values()) for task, splits in counts.items()]
    print_table(("file", "train", "dev", "test"), [("concepts", *read.counts().values()), *rows], numbers=(1, 2, 3))
    print(
        f"left out: {', '.join(f'{reason}: {count}' for reason, count in read.dropped_counts().items()) or 'nothing'}"
    )
