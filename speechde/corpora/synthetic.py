"""Extra training text, read aloud by a synthesiser: emoji names and keywords of Unicode CLDR, or any other texts.

The Debian package unicode-cldr-core (Unicode-DFS-2016) holds ``annotations/LOCALE.xml``: for every emoji and many
symbols a name (``<annotation cp="🐻" type="tts">ours</annotation>``) and, in the element without a type, keywords
separated by ``|``. Names are parallel across languages and close to picture descriptions in length and vocabulary.
They are read by espeak-ng (:mod:`speechde.corpora.espeak`), each text by a speaker of its own, and so are the texts of
other sources (``TextSet``; sentences are those of :mod:`speechde.corpora.sentences`).

Every language with a voice of its own but Oromo can be read. Held-out texts are given by the caller and compared after
``normalise_text``, whole text against whole text: "ours" may be read although "Un ours." is held out.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import soundfile

from speechde.cache import atomic_directory, fingerprint
from speechde.corpora import debian
from speechde.corpora.espeak import NATIVE, Speaker, read_missing, reading_version, spoken_form, synthesiser
from speechde.corpora.manifest import clean_text
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.languages import LANGUAGES, resolve
from speechde.media.audio import trim_silence
from speechde.text import normalise_text
from speechde.types import SAMPLE_RATE, Corpus, Dropped, Utterance

PACKAGE = "unicode-cldr-core"
VERSION = "41-0.1"
SHA256 = "35d30d5d3bee4d8244e95236259c4c2a0db06e21bad696515751fcfeee4d0260"
LICENCE = "Unicode-DFS-2016"
KINDS = ("names", "keywords")
LANGS = tuple(lang for lang in NATIVE if lang != "om_et")  # the package has no Oromo
_UNNAMED = (
    "ff_sn",
    "kam_ke",
    "kea_cv",
    "lg_ug",
    "ln_cd",
    "luo_ke",
    "nso_za",
    "ny_mw",
    "oc_fr",
    "om_et",
    "sn_zw",
    "umb_ao",
)
NAMED = tuple(lang for lang in LANGUAGES if lang not in _UNNAMED)  # those that the package has names in

_ANNOTATIONS = PurePosixPath("usr/share/unicode/cldr/common/annotations")
_COPYRIGHT = PurePosixPath("usr/share/doc") / PACKAGE / "copyright"
# Where the package's locale is not the first part of the FLEURS code.
_LOCALES = {"cmn_hans_cn": "zh", "nb_no": "no"}
_WORD = re.compile(r"[^\W\d_]{2}")
_log = logging.getLogger(__name__)


class TextSet(NamedTuple):
    """Texts to read aloud: ``(lang, sentence_id, text)``, and what they are."""

    name: str
    licence: str
    source: str
    texts: list[tuple[str, str, str]]


def find_texts(
    archive: str | Path | None, cache_dir: str | Path, sha256: str | None = SHA256, langs: Sequence[str] = LANGS
) -> Path:
    """The folder below ``cache_dir`` with the annotations of ``langs`` (``LANGS`` or ``NAMED``), and the licence.

    The package is ``archive``, or found or fetched as ``debian.find_archive`` does; ``sha256=None``
    accepts any version of it. Raises ``AssetError`` when there is none.
    """
    cache_dir = Path(cache_dir)
    path = debian.find_archive(PACKAGE, VERSION, sha256, archive, cache_dir / "downloads", "data.synthetic.archive")
    root = cache_dir / "corpora" / f"{PACKAGE}-{VERSION}-{'native' if langs == LANGS else 'named'}"
    files = {_COPYRIGHT, *map(_file, langs)}
    return debian.unpack(path, root, files.__contains__, _ANNOTATIONS)


def read_names(root: str | Path, langs: Sequence[str], kind: str = "names") -> list[tuple[str, str, str]]:
    """``(lang, cp, text)`` of an unpacked package, language by language in file order; ``cp`` is the character.

    Texts are cleaned; one that repeats an earlier text of its language, after ``normalise_text``, or has no two
    letters in a row is left out (the log tells how many). Raises ``ConfigError`` for a language not in ``NAMED`` or an
    unknown kind, ``DataError`` for a missing or damaged file.
    """
    if kind not in KINDS:
        raise unknown_value("kind of synthetic text", kind, KINDS)
    entries = []
    for lang in langs:
        if lang not in NAMED:
            raise unknown_value("language of names", lang, NAMED)
        found: dict[str, tuple[str, str, str]] = {}
        total = 0
        for cp, is_name, content in _read_annotations(Path(root), lang):
            if is_name == (kind == "names"):
                for text in [content] if is_name else content.split("|"):
                    total += 1
                    if _WORD.search(text):
                        found.setdefault(normalise_text(text), (lang, cp, clean_text(text)))
        entries += found.values()
        if len(found) < total:
            _log.info("%s %s: %d of %d texts; the others repeat one of them or hold no word", lang, kind, len(found),
                      total)  # fmt: skip
    return entries


def names(root: str | Path, langs: Sequence[str], kinds: Sequence[str] = ("names",)) -> TextSet:
    """The texts of ``read_names`` of some kinds, to be read aloud: languages without a voice are a ``ConfigError``.

    A name's ``sentence_id`` is that of its character and so shared across languages, a keyword's is its text.
    """
    if voiceless := [lang for lang in langs if lang not in LANGS]:
        raise unknown_value("synthetic language", voiceless[0], LANGS)
    texts = [
        (lang, f"cldr:{cp if kind == 'names' else normalise_text(text)}:{kind}", text)
        for kind in kinds
        for lang, cp, text in read_names(root, langs, kind)
    ]
    return TextSet("cldr", LICENCE, "CLDR names", texts)


def synthetic_corpus(
    sets: Sequence[TextSet],
    cache_dir: str | Path,
    langs: Sequence[str],
    exclude: Iterable[str] = (),
    limit: int | None = None,
    seed: int = 0,
    workers: int = 2,
) -> Corpus:
    """Read texts in ``langs`` aloud, once; all are of the split ``train``.

    ``exclude`` are the texts, of any language, that must not occur: every transcript and translation of dev and
    test. ``limit`` is per language; which texts it keeps depends on ``seed`` and ``sentence_id`` alone, so all
    languages keep the same names. The audio is 16 kHz 16-bit FLAC below ``cache_dir/espeak``, a folder per language,
    named by texts, speakers and synthesiser; a call that was interrupted goes on at the language it was at.
    ``workers=1`` reads in this process.

    Raises:
        ConfigError: a number below 1.
        DataError: no text is left.
        AssetError: espeak-ng, or what a language needs beside it, is not installed; its processes cannot be started.
    """
    for name, value in (("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise ConfigError(f"synthetic {name}={value} must be at least 1")
    langs = tuple(dict.fromkeys(map(resolve, langs)))
    chosen, dropped = _choose(sets, langs, {normalise_text(text) for text in exclude}, limit, seed)
    if not chosen:
        raise DataError(f"no text of {', '.join(langs) or 'no language'} is left to read: {len(dropped)} were dropped")
    texts: dict[str, list[tuple[str, str, Speaker]]] = {}
    for lang, sentence_id, text in chosen:
        texts.setdefault(lang, []).append((sentence_id, text, Speaker.draw(f"{seed}:{lang}:{text}")))
    sources = {sentence_id: part.source for part in sets for _, sentence_id, _ in part.texts}
    utterances = []
    for lang, folder in _read_all(texts, Path(cache_dir) / "espeak", workers).items():
        spoken = {path.name for path in folder.iterdir()}
        for number, (sentence_id, text, who) in enumerate(texts[lang]):
            name = _file_name(number)
            if name not in spoken:
                dropped.append(Dropped(f"{sentence_id}.{lang}", "not spoken", text))
                continue
            utterances.append(
                Utterance(
                    id=f"{sentence_id}.{lang}",
                    lang=lang,
                    text=text,
                    audio=str(folder / name),
                    sentence_id=sentence_id,
                    split="train",
                    speaker=NATIVE[lang] + who.variant,
                    source=f"espeak-ng reading of {sources[sentence_id]}",
                    synthetic=True,
                )
            )
    if not utterances:
        raise DataError(
            f"espeak-ng spoke none of {len(chosen)} texts; reinstall espeakng-loader, remove {cache_dir}/espeak"
        )
    name, licence = "+".join(part.name for part in sets), ", ".join(f"{part.licence} ({part.name})" for part in sets)
    return Corpus(name, utterances, langs, (), dropped, licence if len(sets) > 1 else sets[0].licence)


def _file(lang: str) -> PurePosixPath:
    return _ANNOTATIONS / f"{_LOCALES.get(lang, lang.split('_')[0])}.xml"


def _read_annotations(root: Path, lang: str) -> list[tuple[str, bool, str]]:
    """``(character, whether this is its name, content)`` of each annotation of a language."""
    path = root / _file(lang)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!ENTITY" in text:  # CLDR declares none, and nested ones could expand without end
            raise DataError(f"{path} declares XML entities; unpack the Debian package {PACKAGE} again")
        tree = ElementTree.fromstring(text)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; unpack the Debian package {PACKAGE} in {root}") from error
    except (OSError, UnicodeDecodeError, ElementTree.ParseError) as error:
        raise DataError(f"{path} cannot be read ({error}); unpack the Debian package {PACKAGE} again") from error
    return [(item.get("cp", ""), item.get("type") == "tts", item.text or "") for item in tree.iter("annotation")]


def _choose(
    sets: Sequence[TextSet], langs: Sequence[str], held_out: set[str], limit: int | None, seed: int
) -> tuple[list[tuple[str, str, str]], list[Dropped]]:
    """``(lang, sentence_id, text)`` of the texts to read, each once a language, and what was dropped."""
    chosen: dict[tuple[str, str], tuple[str, str, str]] = {}
    dropped = []
    for lang, sentence_id, text in (entry for part in sets for entry in part.texts):
        key = normalise_text(text)
        if lang not in langs:
            continue
        if key in held_out:
            dropped.append(Dropped(f"{sentence_id}.{lang}", "held out", text))
        elif (lang, key) in chosen:
            dropped.append(Dropped(f"{sentence_id}.{lang}", "repeats another text", text))
        else:
            chosen[lang, key] = (lang, sentence_id, text)
    if limit is None:
        return list(chosen.values()), dropped
    kept = []
    for lang in langs:
        own = [entry for entry in chosen.values() if entry[0] == lang]
        own.sort(key=lambda entry: hashlib.sha256(f"{seed}:{entry[1]}".encode()).digest())
        kept += own[:limit]
        dropped += [Dropped(f"{sentence_id}.{lang}", "over the limit", text) for _, sentence_id, text in own[limit:]]
    return kept, dropped


def _read_all(texts: Mapping[str, Sequence[tuple[str, str, Speaker]]], cache: Path, workers: int) -> dict[str, Path]:
    """The folder of each language's audio, read now where it is not there yet."""
    folders = {}
    for lang, own in texts.items():
        readings = [[spoken_form(text, lang), NATIVE[lang], *astuple(who)] for _, text, who in own]
        folders[lang] = cache / f"{lang}-{fingerprint({'readings': readings, 'version': reading_version()})}"
    read_missing(_read_language, folders, texts, workers)
    return folders


def _read_language(folder: Path, lang: str, texts: Sequence[tuple[str, str, Speaker]]) -> str:
    """Write one FLAC file per text, none where espeak-ng has nothing to say; return ``lang``."""
    with atomic_directory(folder) as part:
        for number, (_, text, speaker) in enumerate(texts):
            waveform = synthesiser().read(text, lang, speaker)
            if waveform.size:
                soundfile.write(part / _file_name(number), trim_silence(waveform), SAMPLE_RATE, "PCM_16")
    return lang


def _file_name(number: int) -> str:
    return f"{number:06d}.flac"
