"""Tux Paint stamps: a small parallel corpus of real, read speech in nine languages.

The Debian package tuxpaint-stamps-default (GPL-2) describes some 950 drawings. ``NAME.txt`` holds the English
description on its first line and translations after it (``fr.utf8=Un ours.``); ``NAME_desc_fr.ogg`` is the French one
read aloud. Volunteers recorded nine languages almost completely, enough to learn from some and to retrieve in others.

The split is by *concept*, the normalised English description, so that no description is trained on in one language
and evaluated in another. Two descriptions that share a transcript in any of the nine languages are one concept group
(union-find), otherwise that transcript would stand in two splits. A group is placed by a hash of its name, so neither
adding clips nor choosing other languages moves it.

A recording cannot tell "The letter a." from "The letter A.": transcripts of one language that differ only in case
or punctuation are given one spelling, and so are translations. A recording that was copied to several stamps
is kept once, and not at all when its copies have different transcripts.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from speechde.corpora import debian
from speechde.corpora.manifest import clean_text
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.languages import resolve_roles
from speechde.text import normalise_text
from speechde.types import SPLITS, Corpus, Dropped, Utterance

PACKAGE = "tuxpaint-stamps-default"
VERSION = "2022.06.04-1"
SHA256 = "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
LICENCE = "GPL-2"
SEEN = ("ca_es", "es_419", "fr_fr", "ru_ru")
ZERO_SHOT = ("ro_ro", "bg_bg", "be_by", "el_gr", "da_dk")
FRACTIONS = (0.6, 0.1, 0.3)  # of concept groups: train, dev, test
# The package's own locale of each language.
LOCALES = {lang: lang.split("_")[0] for lang in SEEN + ZERO_SHOT}

STAMPS = PurePosixPath("usr/share/tuxpaint/stamps")
COPYRIGHT = PurePosixPath("usr/share/doc") / PACKAGE / "copyright"
# English clips carry no locale, and one clip has its suffix twice.
_CLIP = re.compile(r"(?P<stem>.+)_desc(?:_(?P<locale>[A-Za-z_@]+))?(?:\.(?:ogg|wav))+")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """A drawing in words: ``texts`` by the package's locale, English (``en``) among them.

    ``group`` is the first concept of those that it shares a transcript with, and decides ``split``.
    """

    concept: str
    group: str
    split: str
    texts: Mapping[str, str]


def find_archive(archive: str | Path | None, cache_dir: str | Path, sha256: str | None = SHA256) -> Path:
    """The package file, as ``debian.find_archive`` finds it; ``sha256=None`` accepts any version."""
    return debian.find_archive(PACKAGE, VERSION, sha256, archive, cache_dir)


def unpack(archive: str | Path, root: str | Path) -> Path:
    """Extract the stamps' texts, spoken descriptions and licence to ``root`` (``debian.unpack``)."""
    return debian.unpack(archive, root, _is_wanted, STAMPS)


def read_stamps(
    root: str | Path,
    seen: Sequence[str] = SEEN,
    zero_shot: Sequence[str] = ZERO_SHOT,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Corpus:
    """Read an unpacked package; ``fractions`` are the shares of concept groups in train, dev and test.

    ``sentence_id`` is the concept and ``translation`` the English text, so both are shared across languages, while
    one language may use a single transcript for several concepts. Raises ``ConfigError`` for a language that the
    package has no full set of recordings of, ``DataError`` when ``root`` holds no usable clip.
    """
    seen, zero_shot = resolve_roles(seen, zero_shot)
    for lang in (*seen, *zero_shot):
        if lang not in LOCALES:
            raise unknown_value("stamps language", lang, LOCALES)
    folder = _folder(root)
    stamps, dropped = read_texts(root, seed, fractions)
    texts = {stem: stamp.texts for stem, stamp in stamps.items()}
    clips, rejected = _find_clips(folder, texts, {LOCALES[lang]: lang for lang in (*seen, *zero_shot)})
    utterances = [
        Utterance(
            id=f"{stem}.{locale}",
            lang=next(lang for lang in LOCALES if LOCALES[lang] == locale),
            text=texts[stem][locale],
            audio=str(path),
            sentence_id=stamps[stem].concept,
            split=stamps[stem].split,
            translation=texts[stem]["en"],
            source="stamps",
        )
        for (stem, locale), path in clips.items()
    ]
    if not utterances:
        raise DataError(f"{folder} holds no usable clip of {', '.join((*seen, *zero_shot))}")
    return Corpus("stamps", utterances, tuple(seen), tuple(zero_shot), dropped + rejected, LICENCE)


def read_texts(
    root: str | Path, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS
) -> tuple[dict[str, Stamp], list[Dropped]]:
    """Every stamp that has an English text, by its stem in path order, and what was dropped; see ``read_stamps``."""
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"fractions={fractions} must be three shares (train, dev, test) that sum to 1")
    texts, dropped = _read_files(_folder(root))
    groups = merge_concepts(texts.values())
    spelling = _spellings(texts.values())
    stamps = {}
    for stem, own in texts.items():
        concept = normalise_text(own["en"])
        spelled = {locale: spelling[locale, normalise_text(text)] for locale, text in own.items()}
        stamps[stem] = Stamp(concept, groups[concept], assign_split(groups[concept], seed, fractions), spelled)
    merged = len(groups) - len(set(groups.values()))
    _log.info("stamps: %d concepts in %d groups (%d merged)", len(groups), len(set(groups.values())), merged)
    return stamps, dropped


def _folder(root: str | Path) -> Path:
    folder = Path(root) / STAMPS
    if not folder.is_dir():
        raise DataError(f"{root} holds no {STAMPS} folder; unpack the Debian package {PACKAGE} there")
    return folder


def merge_concepts(texts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Group concepts that share a transcript in one of the nine languages: ``{concept: first concept of its group}``.

    Each item of ``texts`` maps the locales of one stamp to its texts, English under ``en``.
    """
    parent: dict[str, str] = {}

    def find(concept: str) -> str:
        while parent.setdefault(concept, concept) != concept:
            parent[concept] = concept = parent[parent[concept]]
        return concept

    owner: dict[tuple[str, str], str] = {}
    for stamp in texts:
        concept = normalise_text(stamp["en"])
        find(concept)
        for locale in LOCALES.values():
            if locale in stamp:
                other = owner.setdefault((locale, normalise_text(stamp[locale])), concept)
                first, second = sorted((find(concept), find(other)))
                parent[second] = first
    return {concept: find(concept) for concept in parent}


def assign_split(group: str, seed: int, fractions: Sequence[float]) -> str:
    """The split of a concept group: SHA-256 of seed and name, as a uniform number, against the cumulated shares."""
    uniform = int(hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()[:16], 16) / 2**64
    if uniform < fractions[0]:
        return SPLITS[0]
    return SPLITS[1] if uniform < fractions[0] + fractions[1] else SPLITS[2]


def _read_files(folder: Path) -> tuple[dict[str, dict[str, str]], list[Dropped]]:
    """``{stem: {locale: text}}`` for every stamp with an English text, in path order; ``stem`` is relative."""
    texts, dropped = {}, []
    for path in sorted(folder.rglob("*.txt")):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        try:
            english, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
        except UnicodeDecodeError as error:
            dropped.append(Dropped(stem, "unreadable text", str(error)))
            continue
        stamp = {}
        for line in lines:
            locale, found, text = line.partition(".utf8=")
            if found and normalise_text(text):
                stamp.setdefault(locale.strip(), clean_text(text))
        if normalise_text(english):
            texts[stem] = {**stamp, "en": clean_text(english)}
    return texts, dropped


def _spellings(texts: Sequence[Mapping[str, str]]) -> dict[tuple[str, str], str]:
    """The first spelling, in path order, of each normalised text of a locale."""
    spelling: dict[tuple[str, str], str] = {}
    for stamp in texts:
        for locale, text in stamp.items():
            spelling.setdefault((locale, normalise_text(text)), text)
    return spelling


def _find_clips(
    folder: Path, texts: Mapping[str, Mapping[str, str]], langs: Mapping[str, str]
) -> tuple[dict[tuple[str, str], Path], list[Dropped]]:
    """``{(stem, locale): path}`` of the clips to use, in path order, and the clips left out."""
    clips: dict[tuple[str, str], Path] = {}
    copies: dict[tuple[str, bytes], list[tuple[str, str]]] = defaultdict(list)
    dropped = []
    for path in sorted(folder.rglob("*_desc*")):
        match = _CLIP.fullmatch(path.relative_to(folder).as_posix())
        if not match or not path.is_file():
            continue
        stem, locale = match["stem"], match["locale"] or "en"
        clip = f"{stem}.{locale}"
        if locale not in langs:
            dropped.append(Dropped(clip, "language not used", locale))
        elif locale not in texts.get(stem, ()):
            dropped.append(Dropped(clip, "no transcript", f"{stem}.txt has no {locale}.utf8 line"))
        elif not path.stat().st_size:
            dropped.append(Dropped(clip, "empty file", path.name))
        elif (stem, locale) in clips:
            dropped.append(Dropped(clip, "second file", f"{path.name}; {clips[stem, locale].name} is used"))
        else:
            clips[stem, locale] = path
            copies[locale, hashlib.sha256(path.read_bytes()).digest()].append((stem, locale))
    for same in copies.values():
        spoken = {normalise_text(texts[stem][locale]) for stem, locale in same}
        reason = "copied recording" if len(spoken) == 1 else "copied recording, transcripts differ"
        for stem, locale in same[1:] if len(spoken) == 1 else same:
            del clips[stem, locale]
            dropped.append(Dropped(f"{stem}.{locale}", reason, "same bytes as " + ".".join(same[0])))
    return clips, dropped


def _is_wanted(path: PurePosixPath) -> bool:
    return path == COPYRIGHT or (
        path.is_relative_to(STAMPS) and (path.suffix == ".txt" or _CLIP.fullmatch(path.name) is not None)
    )
