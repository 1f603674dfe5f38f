"""An evaluation of FLEURS' size from vectors that are there: all directions, intervals, galleries of a fixed size.

77,809 recordings in 102 languages, 350 sentences each, two speakers, random vectors of 384: an item is its sentence
with noise. What is timed is all that happens after the embedding. Recall@1 must be that of plain products.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

import numpy as np

from benchmarks.harness import Result, check_equal, timed
from benchmarks.inputs import Inputs
from speechde.evaluation.metrics import TIE
from speechde.evaluation.speech import evaluate_speech
from speechde.languages import LANGUAGES
from speechde.types import Item, Utterance

QUERIES, SENTENCES, DIM = 77_809, 350, 384
NOISE = 3.0  # of an item, per unit length of its sentence
SECONDS = 180.0  # the limit, on two cores


def run(inputs: Inputs) -> Iterator[Result]:
    """The one row."""
    langs = list(LANGUAGES)[: 2 if inputs.tiny else len(LANGUAGES)]
    utterances = corpus(langs, 60 if inputs.tiny else QUERIES, 12 if inputs.tiny else SENTENCES)
    vectors = Vectors(utterances)
    seconds, (metrics, records) = timed(lambda: evaluate_speech(utterances, vectors, seen=langs))
    seconds -= vectors.seconds
    rows = metrics["audio_to_text"]["per_language"]
    check_equal("recall@1", [rows[lang]["recall@1"] for lang in langs], plain_recall(utterances, vectors, langs), 0.0)
    yield Result(
        "evaluation_fleurs", f"scoring {len(utterances)} recordings in {len(langs)} languages, all directions",
        "the limit that was set", "s", {"ours": [seconds], "peer": [SECONDS]}, 1.0, True,
        {"records": len(records), "directions": [name for name, row in metrics.items() if "per_language" in row],
         "recall@1": metrics["audio_to_text"]["seen"]["recall@1"]},
    )  # fmt: skip


def corpus(langs: Sequence[str], count: int, sentences: int) -> list[Utterance]:
    """``count`` recordings, as many of each language, of ``sentences`` made-up sentences and their English."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghilmnoprstuvéèà", k=draw.randint(2, 9))) for _ in range(5000)]

    def written() -> list[str]:
        return [" ".join(draw.choices(words, k=draw.randint(10, 30))) for _ in range(sentences)]

    english, said = written(), {lang: written() for lang in langs}
    out = []
    for n in range(count):
        lang, take = langs[n % len(langs)], n // len(langs)
        row, speaker = take % sentences, f"{lang} {take // sentences % 2}"
        out.append(Utterance(f"{lang}-{take}", lang, said[lang][row], "", str(row), "test", speaker, english[row]))
    return out


class Vectors:
    """An ``Embed`` of random unit vectors, drawn by the item's sentence and id, and the ``seconds`` that it took."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.seconds = 0.0
        self.sentence = {name: u.sentence_id for u in utterances for name in (u.id, u.text, u.translation)}

    def __call__(self, items: Sequence[Item], role: str = "") -> np.ndarray:
        taken, vectors = timed(lambda: self.named(item.id for item in items))
        self.seconds += taken
        return vectors

    def named(self, names: Iterable[str]) -> np.ndarray:
        """Vectors ``(n, dim)`` of items by their ids."""
        return np.stack([self._vector(name) for name in names])

    def _vector(self, name: str) -> np.ndarray:
        own, noise = (np.random.default_rng(crc32(key.encode())).standard_normal(DIM, np.float32)
                      for key in (self.sentence[name], name))  # fmt: skip
        vector = own + np.float32(NOISE) * noise
        return vector / np.linalg.norm(vector)


def plain_recall(utterances: Sequence[Utterance], vectors: Vectors, langs: Sequence[str]) -> list[float]:
    """Recall@1 of each language's recordings among its sentences, ties counted against it."""
    out = []
    for lang in langs:
        spoken = [u for u in utterances if u.lang == lang]
        texts = list(dict.fromkeys(u.text for u in spoken))
        scores = vectors.named(u.id for u in spoken) @ vectors.named(texts).T
        own = np.arange(len(spoken)), np.array([texts.index(u.text) for u in spoken])
        right = scores[own]
        scores[own] = -np.inf
        out.append(float(np.mean(scores.max(1) < right - TIE)))
    return out
