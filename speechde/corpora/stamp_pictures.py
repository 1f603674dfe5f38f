"""The pictures of the stamps, linked with the texts and recordings that :mod:`speechde.corpora.stamps` reads.

A stamp ``NAME.txt`` has its drawing or photograph beside it, as ``NAME.png`` or ``NAME.svg``; where it has both, the
PNG is taken, which is the same picture drawn for a small screen. The split is that of the speech. Concepts that share a
transcript in some language are one group: in train they mean the same, in dev and test one of them stands for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from speechde.corpora import debian, stamps
from speechde.corpora.pictures import Concept, Pictures, check_apart, readable
from speechde.corpora.stamps import Stamp
from speechde.errors import DataError
from speechde.types import Dropped

SUFFIXES = (".png", ".svg")  # the first that a stamp has
ENGLISH = "en_us"
LOCALES = {**stamps.LOCALES, ENGLISH: "en"}  # of the texts


def unpack(archive: str | Path, root: str | Path) -> Path:
    """Extract the stamps' pictures to ``root`` (``debian.unpack``)."""
    return debian.unpack(archive, root, _is_wanted, stamps.STAMPS)


def read_pictures(
    root: str | Path, pictures: str | Path, seed: int = 0, zero_shot: Sequence[str] = stamps.ZERO_SHOT
) -> Pictures:
    """Concepts with their pictures, texts in nine languages and English, and recordings.

    Args:
        root, pictures: the unpacked package, by ``stamps.unpack`` and by ``unpack``.
        seed: of the split (``data.split_seed``).
        zero_shot: as in ``stamps.read_stamps``.

    Raises:
        DataError: there is no picture, or what was found is not split as the speech is.
    """
    speech = stamps.read_stamps(root, [lang for lang in stamps.LOCALES if lang not in zero_shot], zero_shot, seed)
    texts, dropped = stamps.read_texts(root, seed)
    files, unused = _find_pictures(Path(pictures) / stamps.STAMPS, texts)
    found, unusable = readable((texts[stem].concept, str(path)) for stem, path in files.items())
    if not found:
        raise DataError(f"{pictures} holds no picture of a stamp; unpack the Debian package {stamps.PACKAGE} there")
    dropped += unused + unusable
    first, written = _texts(texts.values())
    clips = defaultdict(list)
    for utterance in speech.utterances:
        if utterance.text == written[utterance.sentence_id].get(utterance.lang):
            clips[utterance.sentence_id].append((utterance.lang, utterance.audio))
        else:  # two stamps of one English text
            dropped.append(Dropped(utterance.id, "transcript is not the text of its concept", utterance.text))
    concepts, taken = [], {}
    for concept, own in found.items():
        group, split = first[concept].group, first[concept].split
        if split != "train" and (other := taken.setdefault(group, concept)) != concept:
            dropped.append(Dropped(concept, f"shares a text with another concept of {split}", other))
        else:
            concepts.append(Concept(group, split, tuple(own), written[concept], tuple(clips[concept])))
    check_apart(concepts, speech)
    return Pictures("stamps", concepts, dropped, stamps.LICENCE)


def _texts(found: Iterable[Stamp]) -> tuple[dict[str, Stamp], dict[str, dict[str, str]]]:
    """Of each concept its first stamp, and its first text in each language."""
    first: dict[str, Stamp] = {}
    written: dict[str, dict[str, str]] = defaultdict(dict)
    for stamp in found:
        first.setdefault(stamp.concept, stamp)
        for lang, locale in LOCALES.items():
            if locale in stamp.texts:
                written[stamp.concept].setdefault(lang, stamp.texts[locale])
    return first, written


def _find_pictures(folder: Path, texts: Mapping[str, Stamp]) -> tuple[dict[str, Path], list[Dropped]]:
    """The picture of each stamp in path order, and those that none is described by."""
    found: dict[str, Path] = {}
    dropped = []
    paths = (path for suffix in SUFFIXES for path in sorted(folder.rglob(f"*{suffix}")))
    for path in paths:
        stem = path.relative_to(folder).with_suffix("").as_posix()
        name = path.relative_to(folder).as_posix()
        if stem not in texts:
            dropped.append(Dropped(name, "picture without a text"))
        elif stem in found:
            dropped.append(Dropped(name, "second file of a stamp", found[stem].name))
        else:
            found[stem] = path
    return dict(sorted(found.items())), dropped


def _is_wanted(path: PurePosixPath) -> bool:
    return path == stamps.COPYRIGHT or (path.is_relative_to(stamps.STAMPS) and path.suffix in SUFFIXES)
