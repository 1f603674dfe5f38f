"""sentences: recorded sentences beside the phrases of the stamps, and news sentences to be read by a synthesiser.

* Phrases: the stamps, as :mod:`speechde.corpora.stamps` reads them.
* German and Dutch sentences, each read by one woman (CC0), of the repositories in ``READERS``. German is split by
  sentence into train, dev and test; Dutch is for test alone and is in no training.
* NTREX (CC-BY-SA-4.0), for espeak-ng: each line is cut into pieces of at most a length that is drawn for it, so that
  they spread from a phrase to 20 seconds, and clauses and runs of words are among them. MediaWiki's messages likewise.

A recorded corpus lies as its repository has it (``metadata.csv`` of ``ID|TEXT`` rows, ``verified/ID.flac``), or as a
manifest ``clips.tsv``. It is fetched by ``git``, which checks every file against the commit.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechde.cache import atomic_directory
from speechde.corpora import ntrex
from speechde.corpora.manifest import clean_text, read_manifest
from speechde.corpora.stamps import assign_split
from speechde.corpora.synthetic import TextSet
from speechde.corpora.texts import MESSAGES_LICENCE, cut, find_messages, read_messages
from speechde.errors import AssetError, DataError
from speechde.progress import progress
from speechde.text import BadLine, normalise_text, read_lines
from speechde.types import Corpus, Dropped, Utterance

LICENCE = "CC0-1.0"
FRACTIONS = (0.75, 0.08, 0.17)  # of the sentences of a seen language; 200 and more are left to test
_HOST = "https://github.com"
_METADATA, _MANIFEST = "metadata.csv", "clips.tsv"
_SHORTEST, _LONGEST = 4, 40  # words of English: the limits of pieces
_OF_A_LINE = 2  # pieces; otherwise nearly all would be of the lines that are cut short
_MESSAGE = 20  # words of English: the longest message
_SCRAP = 1 / 3  # of its limit; a shorter piece is the end of something
_ENGLISH = "en_us"


@dataclass(frozen=True, slots=True)
class Reader:
    """Sentences read by one person: the language, and the repository and commit that hold them."""

    lang: str
    repository: str
    commit: str


READERS = {
    "kerstin_de": Reader("de_de", "rhasspy/dataset-voice-kerstin", "f73127135cf8"),
    "nathalie_nl": Reader("nl_nl", "rhasspy/dataset-voice-nathalie", "3b3e91f39d13e2e681d8937575efb9bd3b3d8f5c"),
}


def find_reader(name: str, folder: str | Path | None, cache_dir: str | Path, option: str = "data.public") -> Path:
    """The folder of one of ``READERS``: ``folder/speech/NAME`` if a folder is given, else fetched to the cache.

    ``option`` is the configuration key of ``folder``, for the messages. Raises ``AssetError``, naming the fix, when it
    is not there or cannot be fetched.
    """
    reader = READERS[name]
    url = f"{_HOST}/{reader.repository}"
    fix = f"set {option}=FOLDER to one where speech/{name} is a copy of {url} at {reader.commit[:12]}"
    if folder is not None:
        path = Path(folder) / "speech" / name
        if not any((path / file).is_file() for file in (_METADATA, _MANIFEST)):
            raise AssetError(f"{path} holds neither {_METADATA} nor {_MANIFEST}; {fix}, or unset {option}")
        return path
    path = Path(cache_dir) / "corpora" / f"{name}-{reader.commit[:12]}"
    if not path.is_dir():
        with progress(f"fetching {name}", 1, "repositories") as advance, atomic_directory(path) as part:
            # blobs come when they are asked for: the repository has every recording twice
            _git(["clone", "--quiet", "--filter=blob:none", "--no-checkout", url, str(part)], fix)
            _git(["-C", str(part), "checkout", "--quiet", reader.commit, "--", _METADATA, "verified"], fix)
            shutil.rmtree(part / ".git")
            advance(1)
    return path


def read_reader(name: str, folder: str | Path, seen: bool, seed: int = 0) -> Corpus:
    """The sentences of one reader, ``seen`` ones split by ``FRACTIONS``, others all test.

    A text is one sentence, however often it was read; where it is placed depends on ``seed`` and its words alone.

    Raises:
        DataError: there is no usable recording.
    """
    folder, reader = Path(folder), READERS[name]
    if (folder / _MANIFEST).is_file():
        corpus = read_manifest(folder / _MANIFEST, name=name)
        found, dropped = corpus.utterances, corpus.dropped
    else:
        found, dropped = _read_metadata(name, folder)
    utterances = []
    for utterance in found:
        sentence = normalise_text(utterance.text)
        split = assign_split(sentence, seed, FRACTIONS) if seen else "test"
        utterances.append(replace(utterance, sentence_id=f"{reader.lang}:{sentence}", split=split, source=name))
    return Corpus(name, utterances, *(((reader.lang,), ()) if seen else ((), (reader.lang,))), dropped, LICENCE)


def news(
    folder: str | Path | None, cache_dir: str | Path, langs: Sequence[str], seed: int = 0, option: str = "data.public"
) -> TextSet:
    """Pieces of the NTREX sentences of those of ``langs`` that it has, for ``synthetic_corpus``: at most two of a line.

    Piece ``k`` of a line has the ``sentence_id`` ``ntrex:LINE.k`` in every language. Lengths are counted in words of
    English, so that a limit means the same in all of them. Raises as ``ntrex.read_ntrex``.
    """
    langs = [lang for lang in dict.fromkeys(langs) if lang in ntrex.languages()]
    texts = ntrex.read_ntrex(folder, cache_dir, [*langs, _ENGLISH], option)
    pieces = []
    for lang in langs:
        for number, (text, english) in enumerate(zip(texts[lang], texts[_ENGLISH], strict=True)):
            if text and english:
                # a length whose logarithm is uniform: as many lines are cut short as are left long
                rng = random.Random(hashlib.sha256(f"{seed}:{number}".encode()).digest())
                words = _SHORTEST * (_LONGEST / _SHORTEST) ** rng.random()
                limit = words * len(text) / len(english.split())
                found = [piece for piece in cut(text, lang, limit) if len(piece) >= min(limit, len(text)) * _SCRAP]
                chosen = sorted(rng.sample(range(len(found)), min(_OF_A_LINE, len(found))))
                pieces += [(lang, f"ntrex:{number}.{k}", found[k]) for k in chosen if normalise_text(found[k])]
    return TextSet("ntrex", ntrex.LICENCE, "NTREX sentences", pieces)


def messages(archive: str | Path | None, cache_dir: str | Path, langs: Sequence[str]) -> TextSet:
    """MediaWiki's messages in those of ``langs`` that it has, for ``synthetic_corpus``.

    They are what a program tells and asks people, in short sentences. Raises as ``texts.find_messages``.
    """
    root = find_messages(archive, cache_dir, "data.synthetic.mediawiki")
    found = read_messages(root, langs, _MESSAGE)
    listed = [(lang, each.key, each.text) for lang, own in found.items() for each in own]
    return TextSet("mediawiki", MESSAGES_LICENCE, "MediaWiki messages", listed)


def _read_metadata(name: str, folder: Path) -> tuple[list[Utterance], list[Dropped]]:
    path, lang = folder / _METADATA, READERS[name].lang
    found, dropped = [], []
    for number, line in read_lines(path):
        clip, bar, text = ("", "", "") if isinstance(line, BadLine) else line.partition("|")
        audio = folder / "verified" / f"{clip}.flac"
        if isinstance(line, BadLine) or not (bar and clip and normalise_text(text)):
            dropped.append(Dropped(f"{name}, line {number}", getattr(line, "reason", "no row of ID|TEXT"), path.name))
        elif not audio.is_file():
            dropped.append(Dropped(f"{name}/{clip}", "missing file", str(audio)))
        else:
            found.append(Utterance(f"{name}/{clip}", lang, clean_text(text), str(audio), "", "test", speaker=name))
    if not found:
        reasons = "; ".join(f"{item.id}: {item.reason}" for item in dropped[:3]) or "no row at all"
        raise DataError(f"{path} has no usable recording ({reasons}); get the repository again")
    return found, dropped


def _git(arguments: list[str], fix: str) -> None:
    git = shutil.which("git")
    if git is None:
        raise AssetError(f"this system has no git to fetch a repository with; install it, or {fix}")
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # a repository that is gone would have it ask for a password
    done = subprocess.run([git, *arguments], capture_output=True, text=True, check=False, env=quiet)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise AssetError(f"git could not fetch ({reason}); {fix}")
