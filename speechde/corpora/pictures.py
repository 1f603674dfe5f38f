"""Concepts that are seen, read and heard, as files of training examples: one for each way to ask.

A concept lies in one split with all its pictures, texts and clips, and every item of it means it, so that in a batch it
is never held against itself. In train each text and clip meets every picture of its concept; in dev and test the first
picture stands for it, so that every concept is one answer. Train and dev are in the languages that may be trained on,
test is in all.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechde.cache import sha256_file
from speechde.corpora.examples import RECORDED
from speechde.corpora.examples_writer import write_examples
from speechde.errors import DataError
from speechde.media.image import ImageError, read_image
from speechde.media.sources import read_source
from speechde.text import normalise_text
from speechde.types import SPLITS, Audio, Corpus, Dropped, Example, Image, Item, Text

Found = Mapping[str, Mapping[str, list[Example]]]  # examples by way to ask, and by split


@dataclass(frozen=True, slots=True)
class Concept:
    """Something with at least one picture.

    ``id`` is what all its items mean. ``texts`` are by language, and so are ``clips``: (language, locator).
    """

    id: str
    split: str
    pictures: tuple[str, ...]
    texts: Mapping[str, str]
    clips: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Pictures:
    """Concepts of one source, what was left out of it, and its licence."""

    name: str
    concepts: list[Concept]
    dropped: list[Dropped]
    licence: str

    def counts(self) -> dict[str, int]:
        """Concepts by split."""
        return {split: sum(concept.split == split for concept in self.concepts) for split in SPLITS}


def readable(pictures: Iterable[tuple[str, str]]) -> tuple[dict[str, list[str]], list[Dropped]]:
    """The pictures of each concept that can be used, and the others.

    A copy within a concept is left out, and a picture that several concepts have, with all its copies: it says nothing
    of which is meant.

    Args:
        pictures: (concept, file or member of a container), in an order that decides which copy is kept.
    """
    owners: dict[str, list[tuple[str, str]]] = defaultdict(list)
    dropped = []
    for concept, picture in pictures:
        try:
            read_image(picture)
            data, _ = read_source(picture, ImageError)
        except ImageError as error:
            dropped.append(Dropped(picture, error.reason, error.detail))
            continue
        owners[hashlib.sha256(data).hexdigest()].append((concept, picture))
    found: dict[str, list[str]] = defaultdict(list)
    for same in owners.values():
        alone = len({concept for concept, _ in same}) == 1
        if alone:
            found[same[0][0]].append(same[0][1])
        reason = "copied picture" if alone else "copied picture of several concepts"
        dropped += [Dropped(picture, reason, f"same bytes as {same[0][1]}") for _, picture in same[alone:]]
    return found, dropped


def check_apart(concepts: Sequence[Concept], speech: Corpus | None = None) -> None:
    """Refuse concepts that are not split by concept, and as the speech is.

    Raises:
        DataError: a concept, one of its texts in its language (as ``normalise_text`` gives it), a clip, or the bytes of
            a picture is in two splits; or a clip of ``speech`` is in another split than here.
    """
    homes: dict[tuple[str, ...], str] = {}
    placed = {utterance.audio: utterance.split for utterance in speech.utterances} if speech else {}
    for concept in concepts:
        names = [("concept", concept.id)]
        names += [("text", lang, normalise_text(text)) for lang, text in concept.texts.items()]
        names += [("clip", clip) for _, clip in concept.clips]
        names += [("picture", sha256_file(picture)) for picture in concept.pictures]
        for name in names:
            if (split := homes.setdefault(name, concept.split)) != concept.split:
                raise DataError(f"{' '.join(name)} of {concept.id!r} is in {split} and in {concept.split}")
        for _, clip in concept.clips:
            if (split := placed.get(clip, concept.split)) != concept.split:
                raise DataError(f"{clip} of {concept.id!r} is in {split} of {speech.name} and in {concept.split} here")


def _picture(concept: Concept, number: int) -> Item:
    own = concept.pictures[number % len(concept.pictures)] if concept.split == "train" else concept.pictures[0]
    return Item(Image(own), meaning=concept.id)


def _text(concept: Concept, lang: str) -> Item:
    return Item(Text(concept.texts[lang]), lang=lang, meaning=concept.id)


def _image_to_text(concept: Concept, langs: Collection[str]) -> Iterator[Example]:
    for picture in concept.pictures:
        for lang in langs:
            query = Item(Image(picture), meaning=concept.id)
            yield Example(query, _text(concept, lang), stratum=lang)


def _text_to_image(concept: Concept, langs: Collection[str]) -> Iterator[Example]:
    for lang in langs:
        for number in range(len(concept.pictures) if concept.split == "train" else 1):
            yield Example(_text(concept, lang), _picture(concept, number), stratum=lang)


def _speech_to_image(concept: Concept, langs: Collection[str]) -> Iterator[Example]:
    for number, (lang, clip) in enumerate(concept.clips):
        if lang in langs:
            query = Item(Audio(clip), lang=lang, meaning=concept.id)
            yield Example(query, _picture(concept, number), stratum=lang, source=RECORDED)


def _image_speech_to_text(concept: Concept, langs: Collection[str]) -> Iterator[Example]:
    for number, (lang, clip) in enumerate(concept.clips):
        if lang in langs:
            (picture,) = _picture(concept, number).parts
            query = Item(picture, Audio(clip), lang=lang, meaning=concept.id)
            yield Example(query, _text(concept, lang), stratum=lang, source=RECORDED)


TASKS: dict[str, Callable[[Concept, Collection[str]], Iterator[Example]]] = {
    "image_to_text": _image_to_text,
    "text_to_image": _text_to_image,
    "speech_to_image": _speech_to_image,
    "image_speech_to_text": _image_speech_to_text,
}


def write_tasks(source: Pictures, out: str | Path, trained: Collection[str]) -> dict[str, dict[str, int]]:
    """Write ``out/TASK.jsonl`` for each of ``TASKS`` that there are examples of; return their counts by split.

    Args:
        trained: languages of the examples of train and dev; test has all.

    Raises:
        DataError: there is no concept, or a split has none to train on or to test.
    """
    by_split = {split: [concept for concept in source.concepts if concept.split == split] for split in SPLITS}
    if empty := [split for split, some in by_split.items() if not some]:
        raise DataError(f"{source.name} has no concept with a picture in {', '.join(empty)}")
    found: Found = {
        task: {
            split: [
                example
                for concept in some
                for example in examples(concept, [lang for lang in concept.texts if split == "test" or lang in trained])
            ]
            for split, some in by_split.items()
        }
        for task, examples in TASKS.items()
    }
    return write_found({task: splits for task, splits in found.items() if splits["train"]}, out)


def write_found(found: Found, out: str | Path) -> dict[str, dict[str, int]]:
    """Write ``out/TASK.jsonl`` of each task that has an example, and return their counts by split."""
    counts = {}
    for task, splits in found.items():
        if any(splits.values()):
            write_examples(splits["train"], Path(out) / f"{task}.jsonl", others={**splits, "train": ()})
            counts[task] = {split: len(some) for split, some in splits.items()}
    return counts
