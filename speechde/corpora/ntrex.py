"""NTREX: 1,997 English news sentences of 123 documents, translated by people, aligned by line.

Federmann, Kocmi and Xin, "NTREX-128 – News Test References for MT Evaluation of 128 Languages" (SUMEval 2022),
CC-BY-SA-4.0. Of its languages those are listed that are among the 102 of FLEURS and have been looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechde.corpora.manifest import clean_text
from speechde.corpora.public import find_files, pinned
from speechde.errors import DataError, unknown_value
from speechde.text import BadLine, read_lines

LICENCE = "CC-BY-SA-4.0"
_DOCUMENTS = "ntrex/DOCUMENT_IDS.tsv"


def languages() -> tuple[str, ...]:
    """FLEURS codes of the languages that can be read."""
    names = (name.removeprefix("ntrex/") for name in pinned() if name.startswith("ntrex/"))
    return tuple(name.removesuffix(".txt") for name in names if name.endswith(".txt"))


def read_ntrex(
    folder: str | Path | None, cache_dir: str | Path, langs: Sequence[str], option: str = "data.public"
) -> dict[str, list[str]]:
    """The sentences of each language, cleaned: entry ``i`` of every list translates entry ``i`` of every other.

    The files lie in ``folder/ntrex``, or are found or fetched as ``public.find_files`` does. An entry is empty where a
    language has no text.

    Raises:
        ConfigError: a language that is not among ``languages()``.
        AssetError: a file cannot be had.
        DataError: a file is no text.
    """
    for lang in langs:
        if lang not in languages():
            raise unknown_value("NTREX language", lang, languages())
    files = find_files([f"ntrex/{lang}.txt" for lang in langs], folder, cache_dir, option)
    return {lang: _read(files[f"ntrex/{lang}.txt"]) for lang in dict.fromkeys(langs)}


def read_documents(folder: str | Path | None, cache_dir: str | Path, option: str = "data.public") -> list[str]:
    """The document of each line of ``read_ntrex``."""
    return _read(find_files([_DOCUMENTS], folder, cache_dir, option)[_DOCUMENTS])


def _read(path: Path) -> list[str]:
    texts = []
    for number, line in read_lines(path):
        if isinstance(line, BadLine):
            raise DataError(f"{path}, line {number}: {line.reason}; get the file again")
        texts.append(clean_text(line))
    return texts
