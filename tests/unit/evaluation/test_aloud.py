"""Text tasks asked aloud: the same rows by synthetic speech, what is left out, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from speechde.errors import ConfigError, DataError
from speechde.evaluation import aloud
from speechde.evaluation.asked import Asked
from speechde.evaluation.retrieval import Labels, Qrels, Retrieval
from speechde.evaluation.text import text_tasks
from speechde.evaluation.text_model import evaluate_texts, open_text_model
from speechde.reporting.text import text_markdown
from speechde.types import SAMPLE_RATE, Item, Text


@pytest.fixture(autouse=True)
def voice(monkeypatch):
    """A reader that needs no espeak-ng: a tenth of a second a letter."""

    class Voice:
        def read(self, text, lang, speaker):
            rng = np.random.default_rng(len(text))
            return rng.normal(0, 0.1, SAMPLE_RATE // 10 * len(text)).astype(np.float32) * (text != "…")

    monkeypatch.setattr(aloud, "synthesiser", Voice)
    monkeypatch.setattr(aloud, "reading_version", lambda: "a test")


def item(text, lang="en_us"):
    return Item(Text(text), id=f"row {text}", lang=lang, meaning=text)


def task(relevance, *texts, lang="en_us"):
    items = [item(text, lang) for text in texts]
    return Retrieval("t", "en_us", "unknown", items, [item("a"), item("b")], relevance, np.arange(10, 10 + len(texts)))


LABELS = Labels(np.array([0, 1, 0]), np.array([0, 1]))
QRELS = Qrels(np.array([(0, 0), (1, 1), (2, 0)]), [np.array([0, 1])] * 3)


@pytest.mark.parametrize("relevance", [LABELS, QRELS])
def test_what_is_too_long_is_left_out_and_the_rest_stays_what_it_was(relevance):
    ((made,), said) = aloud.read_aloud([task(relevance, "one", "much too long", "two")], seconds=0.5)
    assert said == {"reader": "espeak-ng (a test)", "seconds": 0.5, "read": 2, "left out": {"longer than 0.5 s": 1}}
    assert [query.id for query in made.queries] == ["row one", "row two"] and made.resample.tolist() == [10, 12]
    assert [len(query.parts[0].content) for query in made.queries] == [4800, 4800]
    assert {query.make_up for query in made.queries} == {("speech",)} and len(made.gallery) == 2
    correct = made._masks(slice(None))[0]
    assert correct.tolist() == [[True, False], [True, False]] and made.chance == 0.5


def test_languages_without_a_voice_and_texts_without_words():
    tasks = [task(LABELS, "one", "…", "two"), replace(task(LABELS, "um", "dois", "três", lang="lo_la"), subset="lo_la")]
    made, said = aloud.read_aloud(tasks, 20.0)
    assert [one.subset for one in made] == ["en_us"] and said["read"] == 2
    assert said["left out"] == {"nothing to say": 1, "no voice for Lao": 3}
    with pytest.raises(DataError, match=r"no input can be asked aloud \(no voice for Lao: 3\)"):
        aloud.read_aloud(tasks[1:], 20.0)


def test_what_is_asked_beside_changes_no_speaker(monkeypatch):
    """Two tasks may have one input by two ids; it is read once."""
    heard = []

    class Voice:
        def read(self, text, lang, speaker):
            heard.append(speaker)
            return np.ones(SAMPLE_RATE, np.float32) / 9

    monkeypatch.setattr(aloud, "synthesiser", Voice)
    one = replace(task(LABELS, "one"), relevance=Labels(np.array([0]), np.array([0, 1])))
    other = replace(one, queries=[Item(Text("one"), id="another row", lang="en_us")])
    for tasks in ([one], [one, other], [other]):
        aloud.read_aloud(tasks, 20.0)
    assert len(heard) == 3 and len(set(heard)) == 1


def test_a_model_that_hears(tiny_model, public_folder, tmp_path):
    opened = open_text_model(str(tiny_model()), device="cpu")
    asked = Asked(tmp_path, public_folder, langs=["ro_ro"])
    metrics, hits = evaluate_texts(opened, ["sib200"], asked, aloud=20.0)
    assert metrics["aloud"]["read"] == metrics["tasks"]["sib200"]["per_language"]["ro_ro"]["queries"] == 3
    written, others = evaluate_texts(opened, ["sib200"], asked)
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in others] and "aloud" not in written
    about = {"commit": "0", "hardware": "h", "seconds": 1.0, "command": "c"}
    page = text_markdown(metrics | about)
    assert (
        "*synthetic* speech: 3 inputs read by espeak-ng (a test); left out: none" in page
        and "| sib200 aloud (*synthetic*) | zero-shot |" in page
    )
    assert "aloud" not in text_markdown(written | about)


def test_vectors_are_those_of_the_library(tiny_model, public_folder, tmp_path):
    """Chunks, and text beside speech, change nothing."""
    from speechde import SpeechTextEncoder

    opened = open_text_model(str(tiny_model()), device="cpu")
    (read,), _ = aloud.read_aloud(text_tasks(["sib200"], Asked(tmp_path, public_folder, langs=["ro_ro"])), 20.0)
    items = [read.queries[0], item("un text", "ro_ro"), *read.queries[1:]]
    expected = SpeechTextEncoder.from_pretrained(tiny_model(), device="cpu").embed(items)
    np.testing.assert_allclose(opened.embed(items, "query"), expected, atol=1e-5)


def test_who_does_not_hear_is_refused(tiny_llm, tiny_model, public_folder, tmp_path):
    asked = Asked(tmp_path, public_folder)
    with pytest.raises(ConfigError, match="reads text alone; leave --aloud out"):
        evaluate_texts(open_text_model(str(tiny_llm("bert")), device="cpu"), ["sib200"], asked, aloud=20.0)
    with pytest.raises(ConfigError, match="--controls are of texts"):
        evaluate_texts(open_text_model(str(tiny_model()), device="cpu"), ["sib200"], asked, controls=True, aloud=20.0)
