"""CoVoST 2, X to English (Wang et al. 2020, arXiv 2007.10310): Common Voice 4 speech with English translations.

Two layouts, told apart language by language; ``<tag>`` is the corpus's own name (``fr``, ``sv-SE``, ``zh-CN``):

- official: Common Voice 4 unpacked to ``<root>/<tag>/`` (``validated.tsv``, ``clips/*.mp3``) and the translations
  ``covost_v2.<tag>_en.tsv`` (columns path, translation, split) beside ``validated.tsv`` or in ``<root>``. The rule is
  that of the corpus's ``get_covost_splits.py``: join by ``path``; train is ``train`` and ``train_covost``, dev and test
  are the plain labels; ``dev_covost``, ``test_covost``, ``dev_dup`` and ``test_dup`` are not used. Files are
  tab-separated, unquoted, with a backslash as escape character. ``train.tsv`` etc. of Common Voice are not needed.
- Parquet, as on the Hugging Face hub: ``<root>/<tag>_en/{train,validation,test}-*.parquet``, or one folder a split,
  with columns client_id, id (or file), audio (struct of bytes and path), sentence, translation. Only the texts are
  read, so a clip without bytes shows when it is loaded (``AudioError`` "empty").

Quirks of the data, each with a reason in ``Corpus.dropped``: mp3 files of zero length, missing clips, empty texts, the
literal ``REMOVE`` for a text that should not exist, clips listed twice, malformed rows. A clip whose translation is
empty or ``REMOVE`` stays, without translation, and is listed all the same. Many transcripts are still quoted as in CSV
(``"A ""word"" in it."``); that is undone. Train sentences that also occur in dev or test are left out of train.
Texts and translations are CC0.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet as pq

from speechde.corpora.manifest import clean_text
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.languages import resolve
from speechde.media.containers import locator
from speechde.text import BadLine, normalise_text, read_lines, unquoted
from speechde.types import SPLITS, Corpus, Dropped, Utterance

# FLEURS code → the corpus's own tag.
TAGS = {resolve(tag): tag for tag in "ar ca cy de es et fa fr id it ja lv mn nl pt ru sl sv-SE ta tr zh-CN".split()}
LICENCE = "CC0-1.0"
_LABELS = {"train": "train", "train_covost": "train", "dev": "dev", "test": "test"}
_SHARDS = {"train": "train", "dev": "validation", "test": "test"}
_REMOVE = "REMOVE"


@dataclass(frozen=True, slots=True)
class _Clip:
    id: str
    split: str
    sentence: str
    translation: str
    client: str
    audio: str


def read_covost(root: str | Path, langs: Sequence[str], *, splits: Sequence[str] = ("train", "dev")) -> Corpus:
    """Read some languages and splits of a local CoVoST 2; all of them are ``seen``.

    Recordings of one normalised sentence share ``sentence_id``, and ``speaker`` is the first 16 digits of the client
    hash. Whatever is asked for, train holds no sentence of the dev and test sets that are there. Order is that of the
    files, by language and then as listed.

    Raises ``ConfigError`` for a language or split that CoVoST 2 does not have, ``DataError`` when files are missing or
    unreadable, lack a column, or give a language no usable clip in one of the splits.
    """
    root = Path(root)
    codes = tuple(dict.fromkeys(map(resolve, langs)))
    for code in codes:
        if code not in TAGS:
            raise unknown_value("CoVoST 2 language", code, TAGS)
    for split in splits:
        if split not in SPLITS:
            raise unknown_value("split", split, SPLITS)
    if not codes or not splits:
        raise ConfigError(f"CoVoST 2 of languages {list(codes)} and splits {list(splits)}: name at least one of each")
    corpus = Corpus("covost2", [], codes, licence=LICENCE)
    for code in codes:
        _read_language(corpus, root, code, splits)
    return corpus


def _read_language(corpus: Corpus, root: Path, lang: str, splits: Sequence[str]) -> None:
    tag = TAGS[lang]
    parquet, official = root / f"{tag}_en", root / tag
    dropped: list[Dropped] = []
    if parquet.is_dir():
        clips = list(_parquet_clips(parquet, splits))
    elif (official / "validated.tsv").is_file():
        clips = list(_official_clips(official, tag, splits, dropped))
    else:
        raise DataError(
            f"CoVoST 2 {tag}: {root} has neither {tag}/validated.tsv (Common Voice 4 unpacked) nor a folder {tag}_en "
            f"of Parquet files; put the data there or take the language off the list"
        )
    # Dev comes last, so that a sentence of both is reported for the one that training looks at.
    held_out = {
        normalise_text(clip.sentence): split
        for split in ("test", "dev")
        for clip in clips
        if clip.split == split and clip.sentence != _REMOVE
    }
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for clip in clips:
        if clip.split not in splits:
            continue
        text = normalise_text(clip.sentence)
        reason, detail = _fault(clip, text, held_out, seen)
        seen.add(clip.id)
        if reason:
            dropped.append(Dropped(clip.id, reason, detail))
            continue
        translation = clean_text(clip.translation)
        if translation in ("", _REMOVE):
            kind = "empty" if not translation else f"is {_REMOVE}"
            corpus.noted.append(Dropped(clip.id, f"translation {kind}", clip.sentence))
            translation = ""
        counts[clip.split] += 1
        corpus.utterances.append(
            Utterance(
                id=clip.id,
                lang=lang,
                text=clip.sentence,
                audio=clip.audio,
                sentence_id=f"{lang}:{hashlib.sha256(text.encode()).hexdigest()[:16]}",
                split=clip.split,
                speaker=clip.client[:16],
                translation=translation,
                source=corpus.name,
            )
        )
    corpus.dropped += dropped
    for split in splits:
        if not counts[split]:
            reasons = Counter(d.reason for d in dropped).most_common()
            listed = ", ".join(f"{reason} ({n})" for reason, n in reasons) or "no row at all"
            raise DataError(f"CoVoST 2 {tag} in {root} has no usable {split} clip: {listed}")


def _fault(clip: _Clip, text: str, held_out: dict[str, str], seen: set[str]) -> tuple[str, str]:
    """Why a clip is left out and a detail, or two empty strings."""
    if clip.id in seen:
        return "clip listed twice", clip.audio
    if not text:
        return "empty sentence", clip.sentence
    if clip.sentence == _REMOVE:
        return f"sentence is {_REMOVE}", clip.translation
    if clip.split == "train" and text in held_out:
        return f"sentence also in {held_out[text]}", clip.sentence
    if clip.audio.endswith(".mp3"):
        try:
            size = os.stat(clip.audio).st_size
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return "missing clip", clip.audio
        if not size:
            return "zero-length clip", clip.audio
    return "", ""


def _official_clips(folder: Path, tag: str, splits: Sequence[str], dropped: list[Dropped]) -> Iterator[_Clip]:
    name = f"covost_v2.{tag}_en.tsv"
    table = next((path for path in (folder / name, folder.parent / name) if path.is_file()), None)
    if table is None:
        raise DataError(f"CoVoST 2 {tag}: {name} is neither in {folder} nor in {folder.parent}; unpack it there")
    rows: dict[str, tuple[str, str]] = {}
    for path, translation, label in _read_tsv(table, ("path", "translation", "split"), dropped):
        if label not in _LABELS:
            dropped.append(Dropped(PurePath(path).stem, "split not used", label))
        elif path not in rows:
            rows[path] = translation, _LABELS[label]
        elif _LABELS[label] in splits:
            dropped.append(Dropped(PurePath(path).stem, "clip listed twice", table.name))
    found = set()
    for path, sentence, client in _read_tsv(folder / "validated.tsv", ("path", "sentence", "client_id"), dropped):
        if path not in rows:
            continue
        found.add(path)
        translation, split = rows[path]
        if path != PurePath(path).name or not path.endswith(".mp3"):
            dropped.append(Dropped(path, "bad clip name", "expected the name of an mp3 file in clips/"))
            continue
        audio = str(folder / "clips" / path)
        yield _Clip(path.removesuffix(".mp3"), split, _sentence(sentence), translation, client, audio)
    for path, (_, split) in rows.items():
        if path not in found and split in splits:
            dropped.append(Dropped(PurePath(path).stem, "not in validated.tsv", table.name))


def _read_tsv(path: Path, columns: Sequence[str], dropped: list[Dropped]) -> Iterator[list[str]]:
    """The values of some columns, row by row."""
    header: list[str] = []
    for number, line in read_lines(path):
        fields = line if isinstance(line, BadLine) else _split(line)
        if isinstance(fields, BadLine):
            dropped.append(Dropped(f"{path.name}:{number}", "unreadable row", fields.detail))
        elif not any(map(str.strip, fields)):
            continue
        elif not header:
            header = fields
            if missing := [column for column in columns if column not in header]:
                raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header)}")
            places = [header.index(column) for column in columns]
        elif len(fields) <= max(places):
            dropped.append(Dropped(f"{path.name}:{number}", "too few columns", f"{len(fields)} of {len(header)}"))
        elif len(fields) > len(header):
            dropped.append(Dropped(f"{path.name}:{number}", "too many columns", f"{len(fields)} of {len(header)}"))
        else:
            yield [fields[place] for place in places]


def _split(line: str) -> list[str] | BadLine:
    if "\\" not in line:
        return line.split("\t")
    try:
        return next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))
    except csv.Error as error:
        return BadLine("unreadable row", str(error))


def _sentence(text: str) -> str:
    """A transcript as it is stored, without the CSV quotation that Common Voice left around it."""
    return clean_text(unquoted(clean_text(text)))


def _parquet_clips(folder: Path, splits: Sequence[str]) -> Iterator[_Clip]:
    for split in SPLITS:
        name = _SHARDS[split]
        shards = sorted(folder.glob(f"{name}-*.parquet")) or sorted((folder / name).glob("*.parquet"))
        if not shards and split in splits:
            raise DataError(
                f"CoVoST 2: {folder} has neither {name}-*.parquet nor {name}/*.parquet; get the {split} split"
            )
        for shard in shards:
            yield from _shard_clips(shard, split)


def _shard_clips(shard: Path, split: str) -> Iterator[_Clip]:
    number = 0
    try:
        with pq.ParquetFile(shard) as file:
            names = file.schema_arrow.names
            key = next((column for column in ("id", "file", "path") if column in names), "id")
            wanted = (key, "client_id", "sentence", "translation")
            if missing := [column for column in (*wanted, "audio") if column not in names]:
                raise DataError(f"{shard} lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
            for batch in file.iter_batches(columns=list(wanted)):
                for row in batch.to_pylist():
                    clip, client, sentence, translation = (str(row[column] or "") for column in wanted)
                    clip = PurePath(clip).name.removesuffix(".mp3") or f"{shard.stem}-{number}"
                    audio = locator(shard, str(number))
                    yield _Clip(clip, split, _sentence(sentence), translation, client, audio)
                    number += 1
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shard} is not a readable Parquet file ({error}); get it again") from error
