"""FLEURS: sentences of FLoRes-101 read aloud in 102 languages (Conneau et al. 2022, arXiv 2205.12446; CC-BY-4.0).

The upstream layout is read as it is, nothing is unpacked: ``data/<code>/<split>.tsv`` beside
``data/<code>/audio/<split>.tar.gz``, whose members are ``<split>/<file name>``. A TSV row has seven columns and no
header: sentence id, file name, raw transcription, transcription, the same by characters, number of 16 kHz samples,
gender. There is no quoting, so a ``"`` is a character of the text, and there is no speaker id.

Every recording is one utterance and a sentence has one to several of them in each language. The sentence id is shared
by all languages, which makes the corpus parallel. In ``ln_cd`` one test text has two ids: its recordings are all kept,
the evaluation protocol puts equal texts together, and the reader lists the text in ``Corpus.dropped``.

The *transcription* column (lower case, no punctuation) is the default text: it is what was spoken, and what MTEB's
FLEURS retrieval tasks rank. ``text="raw"`` takes the raw transcription, with case, digits and punctuation.
"""

from __future__ import annotations

import logging
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from speechde.corpora.leaks import without_leaks
from speechde.corpora.manifest import clean_text
from speechde.errors import AssetError, ConfigError, DataError, unknown_value
from speechde.languages import resolve, resolve_roles
from speechde.media.archives import ArchiveIndex, index_archive
from speechde.media.containers import locator
from speechde.progress import on_terminal, progress
from speechde.text import BadLine, normalise_text, read_rows
from speechde.types import SAMPLE_RATE, SPLITS, Corpus, Dropped, Utterance
from speechde.weights import hub

REPO = "google/fleurs"
# The commit that public projects pin together with the SHA-256 of its sv_se, vi_vn, ja_jp and en_us test archives.
REVISION = "70bb2e84b976b7e960aa89f1c648e09c59f894dd"
LICENCE = "CC-BY-4.0"
ENGLISH = "en_us"
TEXTS = {"raw": 2, "normalised": 3}  # column
_COLUMNS = 7

_log = logging.getLogger(__name__)


def read_fleurs(
    root: str | Path,
    seen: Sequence[str],
    zero_shot: Sequence[str],
    *,
    cache_dir: str | Path,
    splits: Mapping[str, Sequence[str]] | None = None,
    english: bool = True,
    text: str = "normalised",
    missing: str = "error",
) -> Corpus:
    """Read FLEURS from ``root``, the folder that holds ``data/``; one utterance a recording, in archive order.

    Each archive is decompressed once to list it; the list is kept in ``cache_dir``. ``splits`` says which languages are
    read of a split; without it, the seen ones of train and dev and all of test. With ``english``, ``translation`` is
    the ``en_us`` transcript of the same sentence, where the English TSV files are there (the audio is not needed).

    A language without files is an error, or with ``missing="skip"`` listed in ``Corpus.dropped``; one that has no
    utterance at all is then taken out of ``Corpus.seen`` and ``Corpus.zero_shot``.

    Raises:
        ConfigError: an unknown language, split, ``text`` or ``missing``, or a language that is seen and zero-shot.
        DataError: files of a language are missing, or none of its recordings in a split can be used.
    """
    seen, zero_shot = resolve_roles(seen, zero_shot)
    if text not in TEXTS:
        raise unknown_value("FLEURS text", text, TEXTS)
    if missing not in ("error", "skip"):
        raise unknown_value("FLEURS missing", missing, ("error", "skip"))
    plan = _plan(splits, seen, zero_shot)
    folder = Path(root) / "data"
    absent = [(split, lang) for split, lang in plan if not all(path.is_file() for path in _files(folder, lang, split))]
    if absent and missing == "error":
        raise DataError(_missing_message(root, absent))

    dropped = [Dropped(f"fleurs:{lang}:{split}", "missing language", "no files") for split, lang in absent]
    translations = _translations(folder, text) if english else {}
    utterances: list[Utterance] = []
    noted: list[Dropped] = []
    for split, lang in plan:
        if (split, lang) in absent:
            continue
        found, left_out = _read_part(folder, lang, split, TEXTS[text], translations, cache_dir)
        if not found and missing == "error":
            first = f"; first: {left_out[0].reason}, {left_out[0].detail}" if left_out else ""
            raise DataError(f"no recording of {lang} {split} in {folder} can be used{first}; fetch its files again")
        utterances += found
        dropped += left_out
        noted += _shared_texts(found, f"fleurs:{lang}:{split}")
    utterances, leaks = without_leaks(utterances)
    dropped += leaks
    if not utterances:
        raise DataError(f"{folder} has no usable recording. {_missing_message(root, plan)}")
    present = {utterance.lang for utterance in utterances}
    seen, zero_shot = (tuple(lang for lang in langs if lang in present) for langs in (seen, zero_shot))
    return Corpus("fleurs", utterances, seen, zero_shot, dropped, LICENCE, noted=noted)


def fetch_fleurs(wanted: Mapping[str, Sequence[str]], root: str | Path | None = None, revision: str = REVISION) -> Path:
    """Download languages from the hub and return the folder that ``read_fleurs`` takes; what is there is not fetched.

    ``wanted`` lists the languages of each split. With ``root=None`` the files stay in the hub's own cache. The English
    transcripts of the splits (not the audio) come along. A test archive has 0.3 to 0.5 GB, a train archive some four
    times that. ``REVISION`` was confirmed by what other projects publish of it, not against the hub itself.

    Raises:
        ConfigError: an unknown language or split.
        AssetError: a file cannot be fetched.
    """
    names = []
    for split, langs in wanted.items():
        if split not in SPLITS:
            raise unknown_value("split", split, SPLITS)
        codes = dict.fromkeys(map(resolve, langs))
        names += [path.as_posix() for code in codes for path in _files(Path("data"), code, split)]
        names += [_files(Path("data"), ENGLISH, split)[0].as_posix()] if codes else []
    if not names:
        raise ConfigError(f"nothing to fetch: {dict(wanted)}; name a split and a language of it at least")
    names = list(dict.fromkeys(names))
    absent = [name for name in names if _held(name, root, revision) is None]
    what = f"{len(absent)} of {len(names)} files of the dataset {REPO}@{revision} could not be fetched"
    if absent and (reason := hub.unreachable()):
        raise AssetError(f"{what} ({reason}), e.g. {absent[0]}")
    for name in absent:
        with hub.calling(f"{name} of the dataset {REPO}@{revision} could not be fetched", "What is there is kept."):
            with progress(f"fetching {name}", None, "files", enabled=not on_terminal()):  # the hub has bars there
                hf_hub_download(REPO, name, repo_type="dataset", revision=revision, local_dir=root)
    folders = {_held(name, root, revision) for name in names}
    if len(folders) != 1 or None in folders:
        raise AssetError(f"{REPO}@{revision} lies in several folders: {folders}; give fetch_fleurs one root")
    return folders.pop()


def _held(name: str, root: str | Path | None, revision: str) -> Path | None:
    """The folder under which a file of the hub is here already."""
    if root is not None:
        return Path(root) if (Path(root) / name).is_file() else None
    path = try_to_load_from_cache(REPO, name, repo_type="dataset", revision=revision)
    return Path(path).parents[name.count("/")] if isinstance(path, str) else None


def _plan(
    splits: Mapping[str, Sequence[str]] | None, seen: tuple[str, ...], zero_shot: tuple[str, ...]
) -> list[tuple[str, str]]:
    """What is read: ``(split, language)`` in order."""
    everything = seen + zero_shot
    wanted = splits if splits is not None else {"train": seen, "dev": seen, "test": everything}
    plan = []
    for split in wanted:
        if split not in SPLITS:
            raise unknown_value("split", split, SPLITS)
        for lang in dict.fromkeys(map(resolve, wanted[split])):
            if lang not in everything:
                raise unknown_value(f"language of split {split}", lang, everything, "Add it to seen or zero_shot.")
            plan.append((split, lang))
    if not plan:
        raise ConfigError("no language of any split is asked for; name languages as seen or zero_shot")
    return plan


def _files(folder: Path, lang: str, split: str) -> tuple[Path, Path]:
    return folder / lang / f"{split}.tsv", folder / lang / "audio" / f"{split}.tar.gz"


def _missing_message(root: str | Path, absent: Sequence[tuple[str, str]]) -> str:
    langs = sorted({lang for _, lang in absent})
    parts = [split for split in SPLITS if any(split == other for other, _ in absent)]
    wanted = " ".join(f"--include 'data/{lang}/*{split}*'" for split, lang in absent)
    return (
        f"FLEURS files of {len(langs)} language(s) ({', '.join(parts)}) are not under {Path(root) / 'data'}: "
        f"{', '.join(langs)}. Fetch them with: hf download {REPO} --repo-type dataset --revision {REVISION} "
        f"--local-dir {shlex.quote(str(root))} {wanted}; or go on without them: data.missing=skip"
    )


def _read_rows(path: Path) -> Iterator[tuple[str, list[str] | str]]:
    """Yield ``("line 3", columns)``, or the reason why that line is no row."""
    for number, columns in read_rows(path, quoting=False):
        place = f"{path.name} line {number}"
        if isinstance(columns, BadLine):
            yield place, columns.reason
        elif any(map(str.strip, columns)):
            good = len(columns) == _COLUMNS and columns[0].isdecimal() and columns[5].isdecimal()
            good = good and columns[1].endswith(".wav") and "/" not in columns[1]
            yield place, columns if good else "malformed row"


def _translations(folder: Path, text: str) -> dict[str, str]:
    """English transcripts by sentence id, of all splits whose TSV is there."""
    out: dict[str, str] = {}
    for split in SPLITS:
        path = _files(folder, ENGLISH, split)[0]
        for _, row in _read_rows(path) if path.is_file() else ():
            if not isinstance(row, str) and normalise_text(row[TEXTS[text]]):
                out.setdefault(row[0], clean_text(row[TEXTS[text]]))
    if not out:
        _log.warning("%s has no English transcripts, so no recording has a translation", folder / ENGLISH)
    return out


def _read_part(
    folder: Path, lang: str, split: str, column: int, translations: Mapping[str, str], cache_dir: str | Path
) -> tuple[list[Utterance], list[Dropped]]:
    """Utterances of one language and split, in archive order, and what was left out."""
    table, archive = _files(folder, lang, split)
    part = f"fleurs:{lang}:{split}"
    dropped = []
    try:
        index = index_archive(archive, cache_dir)
    except DataError as error:
        index = ArchiveIndex({}, {}, str(error))
    if index.damage:
        dropped.append(Dropped(part, "damaged archive", index.damage))
    dropped += [Dropped(f"{part}:{name}", "refused member", reason) for name, reason in index.refused.items()]
    rows: dict[str, tuple[str, list[str]]] = {}
    for place, row in _read_rows(table):
        if isinstance(row, str):
            dropped.append(Dropped(f"{part}:{place}", row))
        elif (member := f"{split}/{row[1]}") in rows:
            dropped.append(Dropped(f"{part}:{row[1]}", "repeated file name", f"{place}; {rows[member][0]} is used"))
        else:
            rows[member] = place, row
    utterances = []
    for member, size in index.members.items():
        place, row = rows.pop(member, ("", None))
        id_ = f"{part}:{PurePosixPath(member).stem}"
        if row is None:
            dropped.append(Dropped(id_, "no transcript", f"{member} is in no row of {table.name}"))
        elif not normalise_text(row[column]):
            dropped.append(Dropped(id_, "empty transcript", place))
        elif not int(row[5]) or not size:
            dropped.append(Dropped(id_, "no samples", place))
        else:
            utterances.append(
                Utterance(
                    id=id_,
                    lang=lang,
                    text=clean_text(row[column]),
                    audio=locator(archive, member),
                    sentence_id=f"fleurs:{row[0]}",
                    split=split,
                    translation=translations.get(row[0], ""),
                    source="fleurs",
                    seconds=int(row[5]) / SAMPLE_RATE,
                )
            )
    dropped += [
        Dropped(f"{part}:{PurePosixPath(member).stem}", "missing clip", f"{place}; {member} is not in {archive.name}")
        for member, (place, _) in rows.items()
    ]
    return utterances, dropped


def _shared_texts(utterances: Sequence[Utterance], part: str) -> list[Dropped]:
    """One note for each text that stands under several sentence ids."""
    ids: dict[str, dict[str, None]] = defaultdict(dict)
    for utterance in utterances:
        ids[utterance.text][utterance.sentence_id] = None
    return [
        Dropped(part, "text under several ids", f"{', '.join(several)}: {text}")
        for text, several in ids.items()
        if len(several) > 1
    ]
