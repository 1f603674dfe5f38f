"""Prefixes, the tokenizer's special tokens, and the limit on length."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sentencepiece
from tokenizers import processors
from transformers import AutoTokenizer

from speechde.errors import ConfigError
from speechde.models import prompt as prompt_module
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_rows
from speechde.models.frontends.units import UnitFrontend
from speechde.models.prompt import Prompt
from speechde.models.vocabulary import with_audio_tokens
from speechde.types import WORDS, Audio, Item, Text


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


@pytest.mark.parametrize("mode", ["name", "none"])
def test_many_texts_are_read_as_one_is(closing, monkeypatch, mode):
    """Cut ones, those that spell an audio token, and the end of a block too."""
    monkeypatch.setattr(prompt_module, "AT_ONCE", 3)
    tokenizer = with_audio_tokens(closing, len(closing), 4)
    texts = [("fr_fr", "chat"), (None, ""), ("ro_ro", "<audio_1> urs"), ("fr_fr", "long " * 20), ("es_419", "<eos>"),
             ("fr_fr", "ă"), ("fr_fr", "fin")]  # fmt: skip
    prompt = Prompt(tokenizer, mode=mode, max_tokens=40)
    each, many = [], []
    expected = [prompt.text_ids(text, lang, each.append) for lang, text in texts]
    found = list(prompt.ids_of_texts(iter(texts), many.append))
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in expected] and each == many == [texts[3]]


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
    rows = [[("text", prompt.text_ids(text, "fr_fr"))] for text in ("été", "a longer text", "x")]
    model = DualEncoder(Backbone.load(tiny_llm("llama"), audio_tokens=4), {"speech": UnitFrontend(4)}).eval()
    together = embed_rows(model, rows)
    for vector, row in zip(together, rows, strict=True):
        np.testing.assert_allclose(vector, embed_rows(model, [row])[0], atol=1e-5)


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


CLIP, OTHER = Audio("a.ogg"), Audio("b.ogg")
FIRST, LAST = "le petit chat", "un été"


def test_an_item_of_one_part_is_read_as_texts_and_clips_are(closing):
    prompt = Prompt(closing)
    for lang in ("fr_fr", None):
        ((kind, ids),) = prompt.segments(Item(Text(FIRST), lang=lang))
        assert kind == "text" and ids.tolist() == prompt.text_ids(FIRST, lang).tolist()
        (kind, ids), medium = prompt.segments(Item(CLIP, lang=lang))
        assert kind == "text" and ids.tolist() == prompt.speech_ids(lang).tolist() and medium == ("speech", CLIP)
    closing.backend_tokenizer.post_processor = processors.Sequence([])
    (_, ids), medium = Prompt(closing, mode="none").segments(Item(CLIP))
    assert ids.shape == (0,) and ids.dtype == np.int64 and medium == ("speech", CLIP)


# parts of an item → for each of its segments, whether it has the prefix, and its own words; None for a medium
MADE_UP = [
    ((Text(FIRST),), [(True, FIRST)]),
    ((Text(FIRST), Text(LAST)), [(True, FIRST + LAST)]),
    ((CLIP,), [(True, ""), None]),
    ((CLIP, OTHER), [(True, ""), None, None]),
    ((Text(FIRST), CLIP), [(True, FIRST), None]),
    ((CLIP, Text(LAST)), [(True, ""), None, (False, LAST)]),
    ((Text(FIRST), CLIP, Text(LAST)), [(True, FIRST), None, (False, LAST)]),
    ((CLIP, Text(LAST), OTHER), [(True, ""), None, (False, LAST), None]),
]


@pytest.fixture
def tokenizer_of(pieces, opening):
    """``tokenizer_of(kind)`` → tokenizer, and the special tokens that it writes in front of a text and behind it."""

    def load(kind):
        if kind in PIECES:
            return AutoTokenizer.from_pretrained(pieces(kind)), *PIECES[kind][3:]
        front, back = {"BERT": (["<bos>"], ["<eos>"]), "Qwen": ([], [])}[kind]
        if kind == "BERT":
            template = processors.TemplateProcessing("<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
            opening.backend_tokenizer.post_processor = template
        else:
            opening.backend_tokenizer.post_processor = processors.Sequence([])
        return opening, front, back

    return load


@pytest.mark.parametrize("mode", ["name", "none"])
@pytest.mark.parametrize("kind", [*PIECES, "BERT", "Qwen"])
def test_special_tokens_are_at_the_ends_of_an_item_alone(tokenizer_of, kind, mode):
    tokenizer, front, back = tokenizer_of(kind)
    front, back = (tokenizer.convert_tokens_to_ids(names) for names in (front, back))
    prompt = Prompt(tokenizer, mode=mode)
    for parts, expected in MADE_UP:
        segments = prompt.segments(Item(*parts, lang="fr_fr"))
        media = [part for part in parts if isinstance(part, Audio)]
        prefix = prompt.prefix("speech" if media else "text", "fr_fr")
        assert [value for name, value in segments if name not in WORDS] == media
        assert [name in WORDS for name, _ in segments] == [one is not None for one in expected]
        own = [one is not None and one[1] != "" and len(media) > 0 for one in expected]
        assert [name == "written" for name, _ in segments] == own
        for place, ((_, ids), one) in enumerate(zip(segments, expected, strict=True)):
            if one is not None:
                words = tokens(tokenizer, prefix * one[0] + one[1])
                last = back if place == len(expected) - 1 else []
                assert ids.dtype == np.int64 and ids.tolist() == [*(front if place == 0 else []), *words, *last]


def test_words_of_an_item_are_cut_and_told_and_keep_its_closing_token(closing):
    prompt, cut = Prompt(closing, mode="none", max_tokens=6), []
    item = Item(Text("abcdefgh"), CLIP, Text("ijklmnop"), lang="fr_fr")
    (_, first), _, (_, last) = prompt.segments(item, cut.append)
    assert first.tolist() == [1, *tokens(closing, "abcde")] and last.tolist() == [*tokens(closing, "ijklm"), 2]
    assert cut == [("fr_fr", "abcdefgh"), ("fr_fr", "ijklmnop")]
    prompt.segments(Item(Text("abcde"), CLIP, Text("ijklm")), cut.append)
    assert len(cut) == 2


def test_words_that_spell_an_audio_token_are_words_in_every_item(opening):
    plain, spelled = tokens(opening, "<audio_1> x"), Text("<audio_1> x")
    prompt = Prompt(with_audio_tokens(opening, 260, 4), mode="none")
    assert tokens(prompt.tokenizer, "<audio_1> x") != plain
    for _ in range(2):  # one tokenizer is not switched by another call
        assert prompt.segments(Item(spelled))[0][1].tolist() == [1, *plain]
        assert [ids.tolist() for name, ids in prompt.segments(Item(spelled, CLIP, spelled)) if name == "written"] == [
            [1, *plain],
            plain,
        ]


NAMED = {"qa-query": "task: {language} answers | query: {item}", "qa-document": "title: {title} | text: {item}"}


def test_a_named_prompt_stands_in_the_place_of_the_prefix(closing):
    prompt = Prompt(closing, named=NAMED)
    item = Item(Text("abc"), lang="fr_fr")
    ((_, ids),) = prompt.segments(item, name="qa-query")
    assert ids.tolist() == [1, *tokens(closing, "task: French answers | query: abc"), 2]
    ((_, ids),) = prompt.segments(item, name="qa-document")
    assert ids.tolist() == [1, *tokens(closing, "title: none | text: abc"), 2]
    ((_, ids),) = prompt.segments(Item(Text("abc"), title="A {b}"), name="qa-document")
    assert ids.tolist() == [1, *tokens(closing, "title: A {b} | text: abc"), 2]
    (_, ids), medium = prompt.segments(Item(CLIP), name="qa-query")
    assert ids.tolist() == [1, *tokens(closing, "task: Unknown answers | query: ")] and medium == ("speech", CLIP)
    (_, first), _, (_, last) = prompt.segments(Item(CLIP, Text("abc"), lang="fr_fr"), name="qa-query")
    assert first.tolist() == [1, *tokens(closing, "task: French answers | query: ")]
    assert last.tolist() == [*tokens(closing, "abc"), 2]


def test_a_role_is_a_name_where_one_task_has_a_prompt_for_it(closing):
    prompt = Prompt(closing, named=NAMED)
    assert prompt.find("query") == NAMED["qa-query"] and prompt.find("ranking") is None
    two = Prompt(closing, named={"fact-check-query": "check: {item}"})
    assert two.find("query") == "check: {item}" and two.find("check-query") is None, "a role, and no ending of a name"
    assert prompt.openings()["document"] == "title: {title} | text: "
    both = Prompt(closing, named=NAMED | {"sts-query": "task: similarity | query: {item}"})
    assert both.find("query") is None and set(both.openings()) == {"qa-query", "qa-document", "sts-query", "document"}
    with pytest.raises(ConfigError, match=r"prompt: 'query' is not known; allowed: qa-document, qa-query, sts-query"):
        both.segments(Item(Text("abc")), name="query")
    with pytest.raises(ConfigError, match="This model has none; leave it out"):
        Prompt(closing).segments(Item(Text("abc")), name="query")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("task: answers", r"does not end with \{item\}"),
        ("{item} is asked", r"does not end with \{item\}"),
        ("{lang}: {item}", r"placeholders before \{item\} are \{language\}, \{title\}; 'lang' is none"),
        ("{: {item}", r"placeholders before"),
        ("{language.code} {item}", r"placeholders before"),
        ("{title[a]} {item}", r"placeholders before"),
        (3, r"does not end with"),
    ],
)
def test_what_is_no_template_of_a_prompt_is_refused(closing, template, message):
    with pytest.raises(ConfigError, match=message):
        Prompt(closing, named={"qa-query": template})
