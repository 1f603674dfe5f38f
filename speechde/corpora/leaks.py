"""No sentence is trained on, or chooses a checkpoint, and is tested on: the check that every corpus passes.

Readers know their corpora, and some leave such clips out by themselves; a manifest, and corpora that are joined, are
checked by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speechde.text import normalise_text
from speechde.types import Dropped, Utterance

LATER = {"train": ("test", "dev"), "dev": ("test",), "test": ()}  # splits that a sentence of a split must not be in


def without_leaks(utterances: Sequence[Utterance], sentences: bool = True) -> tuple[list[Utterance], list[Dropped]]:
    """The clips that may be used, in their order, and those left out.

    A clip of train (of dev) is left out when its transcript, as ``normalise_text`` gives it, is one of dev or test (of
    test) in its language, or its sentence is there in any language.

    Args:
        sentences: whether ``sentence_id`` means one sentence throughout; not of corpora that number theirs apart.
    """
    held_out = {split: set() for split in ("test", "dev")}
    for utterance in utterances:
        if utterance.split in held_out:
            held_out[utterance.split].update(_names(utterance, sentences))
    kept, leaks = [], []
    for utterance in utterances:
        later = [split for split in LATER[utterance.split] if held_out[split]]
        names = list(_names(utterance, sentences)) if later else []
        found = [split for split in later if not held_out[split].isdisjoint(names)]
        if found:
            leaks.append(Dropped(utterance.id, f"{utterance.split} sentence is in {found[0]}", utterance.sentence_id))
        else:
            kept.append(utterance)
    return kept, leaks


def _names(utterance: Utterance, sentences: bool) -> Iterator[tuple[str, ...]]:
    """Of the sentence of a clip."""
    yield utterance.lang, normalise_text(utterance.text) or utterance.text
    if sentences and utterance.sentence_id:
        yield (utterance.sentence_id,)
