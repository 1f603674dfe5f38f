"""Prefixes, the tokenizer's special tokens, and the limit on length."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import processors

from speechde.errors import ConfigError
from speechde.models.prompt import Prompt


@pytest.fixture
def opening(tiny_llm):
    """A tokenizer that writes ``<bos>`` in front."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llm("gemma3_text"))


@pytest.fixture
def closing(opening):
    """A tokenizer that writes ``<bos> … <eos>``."""
    template = processors.TemplateProcessing("<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    opening.backend_tokenizer.post_processor = template
    return opening


def tokens(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("mode", "lang", "expected"),
    [
        ("name", "fr_fr", "[French Speech] "),
        ("name", None, "[Unknown Speech] "),
        ("unknown", "fr_fr", "[Unknown Speech] "),
        ("none", "fr_fr", ""),
    ],
)
def test_prefix_modes(opening, mode, lang, expected):
    prompt = Prompt(opening, mode=mode)
    assert prompt.prefix("speech", lang) == expected
    assert prompt.prefix("text", lang) == expected.replace("Speech", "Text")
    assert prompt.speech_ids(lang).tolist() == [1, *tokens(opening, expected)]
    written = expected.replace("Speech", "Text") + "été"
    assert prompt.text_ids("été", lang).tolist() == [1, *tokens(opening, written)]


def test_a_template_without_a_language(opening):
    prompt = Prompt(opening, speech="query: ", text="query: ")
    assert prompt.prefix("speech", "fr_fr") == prompt.prefix("text", "ro_ro") == "query: "


def test_a_closing_token_ends_the_text_and_not_the_speech_prefix(closing):
    prompt = Prompt(closing)
    prefix = tokens(closing, "[French Speech] ")
    assert prompt.speech_ids("fr_fr").tolist() == [1, *prefix]
    assert prompt.text_ids("a", "fr_fr").tolist() == [1, *tokens(closing, "[French Text] a"), 2]
    assert Prompt(closing, mode="none").speech_ids("fr_fr").tolist() == [1]


def test_a_tokenizer_without_special_tokens(opening):
    opening.backend_tokenizer.post_processor = processors.Sequence([])
    prompt = Prompt(opening, mode="none")
    ids = prompt.speech_ids("fr_fr")
    assert ids.shape == (0,) and ids.dtype == np.int64
    assert Prompt(opening).speech_ids("fr_fr").tolist() == tokens(opening, "[French Speech] ")


def test_long_texts_are_cut_and_counted(closing):
    prompt = Prompt(closing, mode="none", max_tokens=6)
    assert prompt.text_ids("abcd", None).tolist() == [1, *tokens(closing, "abcd"), 2]
    assert prompt.truncated == 0
    assert prompt.text_ids("abcdefgh", None).tolist() == [1, *tokens(closing, "abcd"), 2]
    assert prompt.truncated == 1


def test_unknown_language_and_mode_are_refused(opening):
    with pytest.raises(ConfigError, match=r"language: 'xx_xx' is not known"):
        Prompt(opening).text_ids("a", "xx_xx")
    assert Prompt(opening, mode="none").text_ids("a", "xx_xx").tolist() == [1, *tokens(opening, "a")]
    with pytest.raises(ConfigError, match=r"model\.prefix\.mode: 'nam' is not known; allowed: name, none, unknown"):
        Prompt(opening, mode="nam")


@pytest.mark.parametrize("template", ["[{lang} Text] ", "{} ", "{language"])
def test_a_template_with_another_placeholder_is_refused(opening, template):
    with pytest.raises(ConfigError, match=r"model\.prefix\.text=.*the only placeholder is \{language\}"):
        Prompt(opening, text=template)
