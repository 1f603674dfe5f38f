"""Many visitors at once, by voice and by text, on one model whose speech passes over the lowest layer of the LLM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from speechde import SpeechTextEncoder
from speechde.demo.answers import Answers
from speechde.demo.clips import Limits
from speechde.search.index import SearchIndex

CLIENTS, QUESTIONS = 20, 10  # questions of each client
TEXTS = ["un autobuz", "o pisică", "una casa", "un chat", "deux oiseaux"]


@pytest.fixture
def answers(tiny_model):
    encoder = SpeechTextEncoder.from_pretrained(tiny_model("continuous", speech_layer=1), device="cpu")
    rows = [{"id": text, "language": "ro_ro", "text": text} for text in TEXTS]
    vectors = encoder.encode_text(TEXTS, "ro")
    return Answers(encoder, SearchIndex.build(vectors, rows, model="M", fingerprint=encoder.fingerprint), Limits())


def test_parallel_clients_get_the_answers_of_one(answers, make_wav):
    """Needs a model that any number of threads may use: nothing may be changed on it for the time of a pass."""
    clips = [str(make_wav(f"{n}.wav", 0.3 + 0.2 * n, seed=n)) for n in range(5)]

    def ask(number):
        by, question = (answers.by_text, TEXTS) if number % 2 else (answers.by_speech, clips)
        found = by(question[number % 5], "ro_ro", len(TEXTS))
        return [(row.text, pytest.approx(row.score, abs=1e-4)) for row in found]

    alone = [ask(number) for number in range(10)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(ask, [number % 10 for number in range(CLIENTS * QUESTIONS)]))
    wrong = [number for number, found in enumerate(together) if dict(found) != dict(alone[number % 10])]
    assert wrong == []
