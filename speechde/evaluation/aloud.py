"""Text tasks asked aloud: their inputs read by espeak-ng, so that a model that hears is asked by speech.

What is said is *synthetic* speech of the very words of the input, by a speaker that these words alone decide, whatever
else is asked, and answers stay text: it tells how much of what a model can do with texts it can do with speech, and
nothing about people who speak. An input without a voice, or longer than what a model can be expected to hear, is left
out and counted; galleries stay whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from speechde.corpora.espeak import VOICES, Speaker, missing_package, reading_version, synthesiser
from speechde.errors import DataError
from speechde.evaluation.retrieval import Retrieval
from speechde.languages import LANGUAGES
from speechde.media.audio import AudioError, check_waveform
from speechde.progress import progress
from speechde.types import SAMPLE_RATE, Audio, Dropped, Item


def read_aloud(tasks: Sequence[Retrieval], seconds: float) -> tuple[list[Retrieval], dict]:
    """The tasks with their queries as speech, those that have one left; and what is said of it in reports.

    The second has ``reader``, the limit ``seconds``, the number of inputs ``read``, and ``left out`` by their reason.

    Raises:
        AssetError: espeak-ng is not installed.
        DataError: no input can be read.
    """
    items = {(item.lang, _words(item)): item for task in tasks for item in task.queries}  # one of several tasks once
    left_out: Counter[str] = Counter()
    spoken: dict[tuple[str | None, str], Item] = {}
    with progress("espeak-ng", len(items), "inputs") as advance:
        for key, item in items.items():
            if isinstance(made := _read(item, seconds), Dropped):
                left_out[made.reason] += 1
            else:
                spoken[key] = made
            advance(1)
    if not spoken:
        why = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DataError(f"no input can be asked aloud ({why}); give other languages or tasks, or a longer --aloud")
    facts = {"reader": f"espeak-ng ({reading_version()})", "seconds": seconds, "read": len(spoken)}
    return list(_asked(tasks, spoken)), facts | {"left out": dict(left_out)}


def _asked(tasks: Sequence[Retrieval], spoken: dict[tuple[str | None, str], Item]) -> Iterable[Retrieval]:
    for task in tasks:
        found = [spoken.get((item.lang, _words(item))) for item in task.queries]
        if rows := [row for row, item in enumerate(found) if item is not None]:
            # the ids stay those of the rows, so that text and speech compare query by query
            yield task.asked_by(np.array(rows), [_named(found[row], task.queries[row]) for row in rows])


def _named(spoken: Item, row: Item) -> Item:
    return spoken if spoken.id == row.id else Item(*spoken.parts, id=row.id, lang=row.lang, meaning=row.meaning)


def _read(item: Item, seconds: float) -> Item | Dropped:
    """An item as speech, unless there is no voice, or nothing to say, or too much."""
    if item.lang not in VOICES:
        named = LANGUAGES[item.lang].name if item.lang in LANGUAGES else "a language that is not known"
        return Dropped(item.id, f"no voice for {named}")
    if package := missing_package(item.lang):
        return Dropped(item.id, f"{LANGUAGES[item.lang].name} without {package}")
    waveform = synthesiser().read(_words(item), item.lang, Speaker.draw(_words(item)))
    if len(waveform) > seconds * SAMPLE_RATE:
        return Dropped(item.id, f"longer than {seconds:g} s")
    try:
        check_waveform(waveform)
    except AudioError:
        return Dropped(item.id, "nothing to say")
    samples = np.clip(np.round(waveform * 32767), -32768, 32767).astype(np.int16)  # half the memory
    return Item(Audio(samples, SAMPLE_RATE), id=item.id, lang=item.lang, meaning=item.meaning)


def _words(item: Item) -> str:
    return "\n".join(part.content for part in item.parts)
