"""What is held out is neither trained on nor chosen by."""

from __future__ import annotations

import pytest

from speechde.corpora.leaks import without_leaks
from speechde.types import Utterance

CLIPS = [  # id, lang, split, text, sentence
    ("a", "fr_fr", "train", "Un chat.", "1"),
    ("b", "fr_fr", "train", "un  CHAT", "2"),
    ("c", "fr_fr", "train", "Un chien.", "3"),
    ("d", "es_419", "train", "un chat", "4"),
    ("e", "es_419", "train", "Un perro.", "5"),
    ("f", "fr_fr", "dev", "Un ours.", "6"),
    ("g", "fr_fr", "dev", "Deux ours.", "7"),
    ("h", "fr_fr", "test", "Un chat", "8"),
    ("i", "ro_ro", "test", "Un urs.", "6"),
    ("j", "ro_ro", "test", "Un câine.", "5"),
    ("k", "fr_fr", "train", "Deux ours !", "9"),
]


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        (True, {"a": "train sentence is in test", "b": "train sentence is in test", "e": "train sentence is in test",
                "f": "dev sentence is in test", "k": "train sentence is in dev"}),
        (False, {"a": "train sentence is in test", "b": "train sentence is in test", "k": "train sentence is in dev"}),
    ],
)  # fmt: skip
def test_transcripts_of_a_language_and_sentences_of_all(sentences, expected):
    """Spanish "un chat" is another text; a text of dev is no leak where it is in test alone."""
    clips = [Utterance(id_, lang, text, "", sentence, split) for id_, lang, split, text, sentence in CLIPS]
    kept, leaks = without_leaks(clips, sentences)
    assert {leak.id: leak.reason for leak in leaks} == expected
    assert kept == [clip for clip in clips if clip.id not in expected]
