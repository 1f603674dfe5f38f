"""Prefixes, the tokenizer's special tokens, and the limit on length."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sentencepiece
from tokenizers import processors
from transformers import AutoTokenizer

from speechde.errors import ConfigError
from speechde.features.units import UnitFrontend
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_texts
from speechde.models.prompt import Prompt


@pytest.fixture
def opening(tiny_llm):
    """A tokenizer that writes ``<bos>`` in front."""
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
    prompt, cut = Prompt(closing, mode="none", max_tokens=6), []
    assert prompt.text_ids("abcd", None, cut.append).tolist() == [1, *tokens(closing, "abcd"), 2]
    assert cut == []
    assert prompt.text_ids("abcdefgh", "fr_fr", cut.append).tolist() == [1, *tokens(closing, "abcd"), 2]
    assert cut == [("fr_fr", "abcdefgh")]
    assert Prompt(closing, mode="none", max_tokens=300, positions=6).max_tokens == 6
    assert Prompt(closing, mode="none", max_tokens=6, positions=300).max_tokens == 6
    with pytest.raises(ConfigError, match=r"model\.max_tokens=17 leaves no room for a text, whose prefix takes 17 tok"):
        Prompt(closing, max_tokens=17)


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


SENTENCES = ["the cat sat on the mat", "le chat est sur le tapis", "un petit été à la mer", "el gato negro duerme",
             "[French Speech] [French Text] good morning to all of you", "[Unknown Text] доброе утро"]  # fmt: skip
# tokenizer class → file of its sentencepiece model, how that is trained, options, opening and closing tokens
PIECES = {
    "LlamaTokenizer": ("tokenizer.model", {"model_type": "bpe", "byte_fallback": True}, {"add_bos_token": True},
                       ["<s>"], []),
    "GemmaTokenizer": ("tokenizer.model", {"model_type": "bpe", "byte_fallback": True, "pad_id": 0, "eos_id": 1,
                                           "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>", "bos_piece": "<bos>",
                                           "eos_piece": "<eos>"}, {"add_bos_token": True}, ["<bos>"], []),
    "T5Tokenizer": ("spiece.model", {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, {},
                    [], ["</s>"]),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", {"model_type": "unigram"}, {}, ["<s>"], ["</s>"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """``pieces(class)`` → folder as old checkpoints have it: a sentencepiece model, no ``tokenizer.json``."""

    def build(name):
        folder = tmp_path_factory.mktemp(name)
        (folder / "corpus.txt").write_text("\n".join(SENTENCES * 20), encoding="utf-8")
        file, training, options, _, _ = PIECES[name]
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "corpus.txt"), model_prefix=str(folder / "m"), vocab_size=400, hard_vocab_limit=False,
            minloglevel=2, **training,
        )  # fmt: skip
        (folder / "m.model").rename(folder / file)
        config = json.dumps({"tokenizer_class": name, **options})
        (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
        return folder

    return build


@pytest.mark.parametrize("name", list(PIECES))
def test_sentencepiece_models_are_converted_and_keep_their_special_tokens(pieces, tmp_path, name):
    tokenizer = AutoTokenizer.from_pretrained(pieces(name))
    assert tokenizer.is_fast
    *_, opening, closing = PIECES[name]
    prompt = Prompt(tokenizer)
    text = tokenizer.convert_ids_to_tokens(prompt.text_ids("le petit chat", "fr_fr"))
    speech = tokenizer.convert_ids_to_tokens(prompt.speech_ids("fr_fr"))
    special = {"<s>", "</s>", "<bos>", "<eos>", "<pad>"}
    assert [t for t in text if t in special] == opening + closing  # one of each, and no second <bos>
    assert text[: len(opening)] == opening and text[len(text) - len(closing) :] == closing
    assert speech[: len(opening)] == opening and [t for t in speech if t in special] == opening
    assert len(speech) > len(opening) + 1 and len(text) > len(speech)
    assert Prompt(tokenizer, mode="none").speech_ids("fr_fr").tolist() == tokenizer.convert_tokens_to_ids(opening)
    cut = Prompt(tokenizer, mode="none", max_tokens=5).text_ids("le petit chat " * 3, "fr_fr").tolist()
    whole = Prompt(tokenizer, mode="none").text_ids("le petit chat " * 3, "fr_fr").tolist()
    assert len(whole) > 5 and cut == whole[: 5 - len(closing)] + whole[len(whole) - len(closing) :]
    tokenizer.save_pretrained(tmp_path)  # as a trained model's folder holds it
    again = Prompt(AutoTokenizer.from_pretrained(tmp_path))
    assert again.text_ids("un été à la mer", "fr_fr").tolist() == prompt.text_ids("un été à la mer", "fr_fr").tolist()
    assert again.speech_ids(None).tolist() == prompt.speech_ids(None).tolist()


def test_a_tokenizer_without_a_padding_token_makes_batches(tiny_llm, opening):
    opening.pad_token = None
    assert opening.pad_token_id is None
    prompt = Prompt(opening)
    ids = [prompt.text_ids(text, "fr_fr") for text in ("été", "a longer text", "x")]
    model = DualEncoder(Backbone.load(tiny_llm("llama"), audio_tokens=4), UnitFrontend(4)).eval()
    together = embed_texts(model, ids)
    for row, item in zip(together, ids, strict=True):
        np.testing.assert_allclose(row, embed_texts(model, [item])[0], atol=1e-5)


def test_one_token_that_is_both_first_and_last_is_taken_for_what_it_is(opening):
    opening.eos_token = "<bos>"  # as in models whose only special token is <|endoftext|>
    assert Prompt(opening, mode="none").speech_ids(None).tolist() == [1]
    template = processors.TemplateProcessing("$A <bos>", special_tokens=[("<bos>", 1)])
    opening.backend_tokenizer.post_processor = template
    prompt = Prompt(opening, mode="none", max_tokens=3)
    assert prompt.speech_ids(None).tolist() == []
    assert prompt.text_ids("abc", None).tolist() == [*tokens(opening, "ab"), 1]


def test_a_long_text_without_a_closing_token_loses_its_end_alone(opening):
    prompt = Prompt(opening, mode="none", max_tokens=4)
    assert prompt.text_ids("abcdefgh", None).tolist() == [1, *tokens(opening, "abc")]
