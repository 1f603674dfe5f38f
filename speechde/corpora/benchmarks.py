"""Texts that models are evaluated on: SIB-200, XQuAD, BANKING77. None of them is training data, and nothing here makes
training examples; ``tests/unit/test_architecture.py`` lists who may import this module.

SIB-200 (Adelani et al. 2024, arXiv 2309.07445) above all: its 1,004 sentences are of FLORES-200, and FLEURS is FLORES
read aloud, so whoever trains on them has seen the test sentences of FLEURS in every language.
XQuAD (Artetxe et al. 2020, arXiv 1910.11856): 240 paragraphs and 1,190 questions of SQuAD, translated.
BANKING77 (Casanueva et al. 2020, arXiv 2003.04807): questions to a bank, each with one of 77 intents.

Files are found or fetched as ``public.find_files`` does: ``folder`` is one that holds them, laid out as that module
names them, and ``option`` the setting that names it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechde.corpora.manifest import clean_text
from speechde.corpora.public import find_files, pinned, read_content
from speechde.errors import AssetError, unknown_value
from speechde.languages import resolve
from speechde.text import BadLine, read_rows

SIB200, XQUAD, BANKING77 = "sib200", "xquad", "banking77"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the number of the paragraph that answers it, and its ``id``, the same in all languages."""

    id: str
    text: str
    paragraph: int


@dataclass(frozen=True, slots=True)
class Paragraphs:
    """Paragraphs of articles, ``titles`` being those of the articles, and questions about them."""

    texts: tuple[str, ...]
    titles: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Intents:
    """``names`` of the intents, and (text, name) of customers' questions: those to test with, and others."""

    names: tuple[str, ...]
    test: tuple[tuple[str, str], ...]
    examples: tuple[tuple[str, str], ...]


def sib200_languages() -> tuple[str, ...]:
    """FLEURS codes of the languages of SIB-200: all of FLEURS."""
    return tuple(name.removeprefix("sib200/").removesuffix(".tsv") for name in pinned() if name.startswith("sib200/"))


def read_sib200(
    folder: str | Path | None, cache_dir: str | Path, langs: Sequence[str], option: str
) -> dict[str, dict[int, str]]:
    """The sentences of each language (FLEURS codes) by their number, in its order, which is that of no language.

    Raises:
        ConfigError: a language without a file.
        AssetError: a file cannot be had, or is damaged.
    """
    for lang in langs:
        if lang not in sib200_languages():
            raise unknown_value("SIB-200 language", lang, sib200_languages())
    files = find_files([f"sib200/{lang}.tsv" for lang in langs], folder, cache_dir, option)
    return {lang: _sentences(files[f"sib200/{lang}.tsv"]) for lang in dict.fromkeys(langs)}


def _sentences(path: Path) -> dict[int, str]:
    found = {}
    for number, row in list(read_rows(path))[1:]:
        if isinstance(row, BadLine) or len(row) != 4 or not row[0].isdecimal():
            raise AssetError(f"{path}, line {number}: no row of index_id, category, text, split; get the file again")
        found[int(row[0])] = clean_text(row[2])
    return dict(sorted(found.items()))


def xquad_languages() -> tuple[str, ...]:
    """FLEURS codes of the languages of XQuAD that are pinned."""
    return tuple(_xquad_names())


def read_xquad(
    folder: str | Path | None, cache_dir: str | Path, langs: Sequence[str], option: str
) -> dict[str, Paragraphs]:
    """Paragraphs and questions of each language, in one order; raises as :func:`read_sib200`."""
    names = _xquad_names()
    for lang in langs:
        if lang not in names:
            raise unknown_value("XQuAD language", lang, names)
    files = find_files([names[lang] for lang in langs], folder, cache_dir, option)
    return {lang: _paragraphs(files[names[lang]]) for lang in dict.fromkeys(langs)}


def _xquad_names() -> dict[str, str]:
    """The file of each language."""
    return {resolve(name.split(".")[-2]): name for name in pinned() if name.startswith("xquad/")}


def _paragraphs(path: Path) -> Paragraphs:
    texts: list[str] = []
    titles: list[str] = []
    questions: list[Question] = []
    try:
        for article in json.loads(read_content(path))["data"]:
            for paragraph in article["paragraphs"]:
                asked = [Question(each["id"], clean_text(each["question"]), len(texts)) for each in paragraph["qas"]]
                questions += asked
                texts.append(clean_text(paragraph["context"]))
                titles.append(article["title"].replace("_", " "))
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{path} is not in SQuAD's layout ({error!r}); get the file again") from error
    return Paragraphs(tuple(texts), tuple(titles), tuple(questions))


def read_banking77(folder: str | Path | None, cache_dir: str | Path, option: str) -> Intents:
    """English questions and their intents; the names of these as words. Raises as :func:`read_sib200`."""
    files = find_files([f"banking77/{name}" for name in ("categories.json", "test.csv", "train.csv")],
                       folder, cache_dir, option)  # fmt: skip
    try:
        names = [_words(name) for name in json.loads(read_content(files["banking77/categories.json"]))]
        test, examples = (_labelled(files[f"banking77/{part}.csv"]) for part in ("test", "train"))
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"BANKING77 is damaged ({error!r}); get its files again") from error
    if unknown := {name for _, name in (*test, *examples)} - set(names):
        raise AssetError(f"BANKING77: {sorted(unknown)} are in no list of intents; get its files again")
    return Intents(tuple(names), test, examples)


def _labelled(path: Path) -> tuple[tuple[str, str], ...]:
    rows = csv.DictReader(read_content(path).decode("utf-8").splitlines(keepends=True))
    return tuple((clean_text(row["text"]), _words(row["category"])) for row in rows)


def _words(name: str) -> str:
    """``reverted_card_payment?`` → ``reverted card payment``."""
    return name.replace("_", " ").rstrip("?").lower()
