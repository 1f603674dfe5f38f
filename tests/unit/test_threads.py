"""One model, any number of threads: the vectors are those of one thread, and nothing is loaded twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from speechde import Audio, Image, Item, SpeechTextEncoder, Text
from speechde.checkpoint import reader

QUERIES, THREADS = 50, 4


@pytest.fixture(params=["continuous", "discrete"])
def encoder(request, tiny_model):
    return SpeechTextEncoder.from_pretrained(tiny_model(request.param, speech_layer=1), device="cpu")


def in_threads(encode, questions):
    """Answers to all questions, asked by several threads that start together."""
    barrier = Barrier(THREADS)

    def ask(number):
        barrier.wait()
        return [encode(question) for question in questions[number::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(ask, range(THREADS)))
    return [parts[i % THREADS][i // THREADS] for i in range(len(questions))]


def test_speech_and_text_in_threads_give_the_vectors_of_one_thread(encoder, clips):
    # every third text spells an audio token, which a tokenizer reads in another way
    texts = [f"<audio_{i % 8}> {i}" if i % 3 == 0 else f"text {i}" for i in range(QUERIES)]
    mixed = [pair for row, text in enumerate(texts) for pair in (("text", text), ("speech", clips[row % 9].audio))]

    def encode(question):
        kind, value = question
        return getattr(encoder, f"encode_{kind}")(value, "fr")

    alone = [encode(question) for question in mixed]
    assert len(np.unique(np.round(alone, 4), axis=0)) == QUERIES + 5  # clips of equal number sound alike in all splits
    for question, vector, expected in zip(mixed, in_threads(encode, mixed), alone, strict=True):
        np.testing.assert_array_equal(vector, expected, err_msg=str(question))


def test_the_speech_encoder_is_loaded_once(encoder, monkeypatch):
    loaded, load = [], reader.speech_encoder
    monkeypatch.setattr(reader, "speech_encoder", lambda *a: loaded.append(load(*a)) or loaded[-1])
    found = in_threads(lambda _: encoder.encoder, range(THREADS))
    assert len(loaded) == 1 and all(one is loaded[0] for one in found)


def test_pictures_and_mixed_items_in_threads_give_the_vectors_of_one_thread(tiny_model, clips, monkeypatch):
    """Words of a mixed item go through layers that those of a clip skip at the same time."""
    loaded, load = [], reader.image_encoder
    monkeypatch.setattr(reader, "image_encoder", lambda *a: loaded.append(load(*a)) or loaded[-1])
    seeing = SpeechTextEncoder.from_pretrained(tiny_model("continuous", sees=True, speech_layer=1), device="cpu")
    draw = np.random.default_rng(0)
    pictures = [Image(draw.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(4)]
    makes = [
        lambda n: (pictures[n % 4],),
        lambda n: (Text(f"text {n}"), pictures[n % 4]),
        lambda n: (Audio(clips[n % 9].audio),),
        lambda n: (pictures[n % 4], Audio(clips[n % 9].audio), Text(f"{n}")),
        lambda n: (Text(f"text {n}"),),
    ]
    items = [Item(*makes[n % 5](n)) for n in range(QUERIES)]
    found = in_threads(seeing.embed, items)
    assert len(loaded) == 1
    for item, vector in zip(items, found, strict=True):
        np.testing.assert_array_equal(vector, seeing.embed(item))


def test_texts_that_were_cut_are_counted_for_the_call_that_gave_them(encoder, caplog):
    long = "a" * 200
    calls = [[long] * (n % 3) + ["b"] for n in range(QUERIES)]
    in_threads(encoder.encode_text, calls)
    counted = [record.getMessage().split(" were")[0] for record in caplog.records if "were cut" in record.getMessage()]
    assert sorted(counted) == sorted(f"{n % 3} of {n % 3 + 1} texts" for n in range(QUERIES) if n % 3)
