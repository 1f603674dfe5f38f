"""Prompts: words before an item that say what it is, or what is asked of it.

By default they are prefixes, a few text tokens that name the language and the modality, e.g. ``[French Speech]``. An
item with several media has the prefix of the first.

The paper prepends them at training and at inference and reports that they help. A query of unknown language can then
only be asked with an unknown-language prefix, so the prefix is a switch: ``name``, ``unknown`` or ``none``.

Tokenizers differ in the special tokens they add: in front (Gemma, Llama: ``<bos>``), at the end (T5: ``</s>``), on both
sides (BERT, XLM-R, EmbeddingGemma) or none (Qwen). A text gets them where its tokenizer puts them; speech gets those
in front, and not those at the end, because the sentence does not end before the speech. No padding token is needed:
batches are padded with zeros and masked.

A saved model keeps the strings of its prefixes, language by language, so that a language which is renamed later reads
as it did in training.

A model that was trained on several tasks may have a named prompt for each of their roles, such as ``task: question
answering | query: {item}`` (Gemini Embedding, arXiv 2503.07891). It stands in the place of the prefix, before an item
of any modality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from speechde.errors import ConfigError, unknown_value
from speechde.languages import LANGUAGES, get
from speechde.models.vocabulary import spells_audio_token
from speechde.types import TEXT, WRITTEN, Item, Part, Text

IMAGE_PREFIX = "[Image] "
MODES = ("name", "unknown", "none")
AT_ONCE = 4096  # texts that are tokenised together
UNKNOWN = "unknown"  # row of the prefix table for a language that is not known
MAX_TOKENS = 256  # of a text, prefix included, where a model states no other limit
Words = tuple[str | None, str]  # language and text
ITEM, FIELDS = "{item}", ("language", "title")  # what a template ends with, and what else may stand in it
MALFORMED = (KeyError, IndexError, ValueError, AttributeError, TypeError)  # what a template that is none raises
UNTITLED = "none"  # title of an item that has none, as Gemini Embedding and EmbeddingGemma call it


class Prompt:
    """Turns texts and languages into token ids. It may be used from several threads.

    Args:
        tokenizer: of the LLM, with or without special tokens.
        speech, text, image: templates; ``{language}`` becomes the English name of the language.
        mode: ``name``; ``unknown`` (every language is called "Unknown"); or ``none`` (no prefix at all).
        max_tokens: longer texts are cut.
        positions: of the LLM, which bound ``max_tokens``; None for no bound.
        table: prefixes as ``prefixes`` returned them when the model was saved; they go before the templates.
        named: templates of named prompts; ``{language}`` and ``{title}`` are those of the item, which is ``{item}``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        speech: str = "[{language} Speech] ",
        text: str = "[{language} Text] ",
        mode: str = "name",
        max_tokens: int = MAX_TOKENS,
        positions: int | None = None,
        table: Mapping[str, Mapping[str, str]] | None = None,
        named: Mapping[str, str] | None = None,
        image: str = IMAGE_PREFIX,
    ) -> None:
        if mode not in MODES:
            raise unknown_value("model.prefix.mode", mode, MODES)
        self.templates = {"speech": speech, "text": text, "image": image}
        for name, template in self.templates.items():
            try:
                template.format(language="Unknown")
            except MALFORMED as error:
                raise ConfigError(f"model.prefix.{name}={template!r}: the only placeholder is {{language}}") from error
        self.tokenizer = tokenizer
        self.mode = mode
        self.max_tokens = max_tokens if positions is None else min(max_tokens, positions)
        self.table, self.named = dict(table or {}), dict(named or {})
        for name, template in self.named.items():
            check_template(f"the prompt {name}", template)
        # this call also ends the padding and cutting that a tokenizer's file may ask for: a later one changes nothing
        self._closing = _closing_tokens(tokenizer)
        self._before_medium: dict[tuple[str, str | None], np.ndarray] = {}
        if self.max_tokens <= (taken := len(tokenizer(self.prefix("text", None))["input_ids"])):
            raise ConfigError(
                f"model.max_tokens={self.max_tokens} leaves no room for a text, whose prefix takes {taken} tokens; "
                "raise it, or shorten model.prefix.text"
            )

    def restated(self, named: Mapping[str, str], templates: Mapping[str, str]) -> Prompt:
        """The same with other ``named`` prompts, and other ``templates`` of the prefixes of some modalities."""
        table = {key: {kind: words for kind, words in row.items() if kind not in templates}
                 for key, row in self.table.items()}  # fmt: skip
        own = self.templates | dict(templates)
        return Prompt(self.tokenizer, **own, mode=self.mode, max_tokens=self.max_tokens, table=table, named=named)

    def prefix(self, modality: str, lang: str | None) -> str:
        """The prefix of ``speech``, ``text`` or ``image`` in a language (a FLEURS code; ``None`` if not known)."""
        if self.mode == "none":
            return ""
        known = lang is not None and self.mode == "name"
        if modality in (stored := self.table.get(lang if known else UNKNOWN, {})):
            return stored[modality]
        return self.templates[modality].format(language=get(lang).name if known else "Unknown")

    def prefixes(self) -> dict[str, dict[str, str]]:
        """The prefix of each modality in every language (FLEURS codes), and where it is not known."""
        langs = LANGUAGES if self.mode == "name" else ()
        return {
            name: {modality: self.prefix(modality, lang) for modality in self.templates}
            for name, lang in [(UNKNOWN, None), *((code, code) for code in langs)]
        }

    def openings(self) -> dict[str, str]:
        """Named prompts as other libraries write them: the words before an item, by name.

        A role alone is a name too, where one task of the model has a prompt for it.
        """
        roles = {name.rpartition("-")[2] for name in self.named}
        names = [*self.named, *(role for role in sorted(roles) if self.find(role))]
        return {name: self.find(name).removesuffix(ITEM) for name in names}

    def find(self, name: str) -> str | None:
        """The template of a name, or of a role alone (``query``) where one task of the model has a prompt for it."""
        roles = [own for own in self.named if own.rpartition("-")[2] == name]
        return self.named.get(name) or (self.named[roles[0]] if len(roles) == 1 else None)

    def before(self, item: Item, name: str | None = None) -> str:
        """The words before an item: its prefix, or the prompt of a name.

        Raises:
            ConfigError: the model has no such prompt.
        """
        if name is None:
            media = (part.modality for part in item.parts if not isinstance(part, Text))
            return self.prefix(next(media, TEXT), item.lang)
        if (template := self.find(name)) is None:
            raise unknown_value("prompt", name, self.named, "" if self.named else "This model has none; leave it out.")
        language = "Unknown" if item.lang is None else get(item.lang).name
        return template.removesuffix(ITEM).format(language=language, title=item.title or UNTITLED)

    def text_ids(
        self, text: str, lang: str | None, cut: Callable[[Words], object] | None = None, before: str | None = None
    ) -> np.ndarray:
        """Token ids of a text with its prefix and the tokenizer's special tokens, ``(time,)`` int64.

        ``cut`` is told each text that is longer than ``max_tokens`` and loses its end; whoever calls reports it.
        ``before`` stands in the place of the prefix.
        """
        before = self.prefix("text", lang) if before is None else before
        ids = self._ids(before + text, spells_audio_token(before) or spells_audio_token(text))
        return self._fitting(ids, text, lang, cut)

    def ids_of_texts(
        self, texts: Iterable[Words], cut: Callable[[Words], object] | None = None
    ) -> Iterator[np.ndarray]:
        """``text_ids`` of many texts with their prefixes, in order; some are tokenised at once, which is faster."""
        rest = iter(texts)
        while some := list(islice(rest, AT_ONCE)):
            plain = self._ids([self.prefix("text", lang) + text for lang, text in some], literal=False)
            for (lang, text), ids in zip(some, plain, strict=True):
                before = self.prefix("text", lang)
                literal = spells_audio_token(before) or spells_audio_token(text)
                yield self._fitting(self._ids(before + text, literal) if literal else ids, text, lang, cut)

    def _fitting(
        self, ids: list[int], text: str, lang: str | None, cut: Callable[[Words], object] | None
    ) -> np.ndarray:
        if len(ids) > self.max_tokens:
            if cut is not None:
                cut((lang, text))
            ids = ids[: self.max_tokens - len(self._closing)] + self._closing
        return np.array(ids, dtype=np.int64)

    def segments(
        self, item: Item, cut: Callable[[Words], object] | None = None, name: str | None = None
    ) -> list[tuple[str, np.ndarray | Part]]:
        """What an LLM reads of an item: token ids of its words, prompt and special tokens included, and its media.

        Words that follow each other, those of the prompt and of a text part, are tokenised together. In an item with
        media they are ``WRITTEN`` unless they are of the prompt alone. ``name`` is that of a prompt in the place of the
        prefix.
        """
        (first, *others), words = item.parts, self.before(item, name)
        if not others and isinstance(first, Text):
            return [(TEXT, self.text_ids(first.content, item.lang, cut, words))]
        if not others:
            ids = self.medium_ids(first.modality, item.lang) if name is None else self._opening(words)
            return [(TEXT, ids), (first.modality, first)]
        out: list[tuple[str, np.ndarray | Part]] = []
        opened, kind = False, TEXT
        for part in item.parts:
            if isinstance(part, Text):
                words, kind = words + part.content, WRITTEN
                continue
            if words or not opened:
                out.append((kind, self._words(words, item, opened, False, cut)))
            out.append((part.modality, part))
            words, opened, kind = "", True, TEXT
        if words:
            out.append((kind if opened else TEXT, self._words(words, item, opened, True, cut)))
        return out

    def _words(
        self, words: str, item: Item, opened: bool, closed: bool, cut: Callable[[Words], object] | None
    ) -> np.ndarray:
        """Token ids of some words of an item, with the opening special tokens where nothing is before them, and the
        closing ones where nothing follows."""
        bare = self._ids(words, spells_audio_token(words), add_special_tokens=False)
        opening = [] if opened else self.tokenizer("")["input_ids"]
        opening = opening[: len(opening) - len(self._closing)]
        closing = self._closing if closed else []
        if len(bare) > (room := self.max_tokens - len(opening) - len(closing)):
            if cut is not None:
                cut((item.lang, words))
            bare = bare[:room]
        return np.array([*opening, *bare, *closing], dtype=np.int64)

    def _ids(self, words: str | list[str], literal: bool, **options: bool) -> list:
        if literal:
            return self._literal(words, verbose=False, split_special_tokens=True, **options)["input_ids"]
        return self.tokenizer(words, verbose=False, **options)["input_ids"]

    @cached_property
    def _literal(self) -> PreTrainedTokenizerBase:
        """A tokenizer that knows no special tokens. One tokenizer cannot be switched while another thread uses it."""
        tokenizer = deepcopy(self.tokenizer)
        tokenizer("a", split_special_tokens=True)
        return tokenizer

    def speech_ids(self, lang: str | None) -> np.ndarray:
        """``medium_ids`` of speech."""
        return self.medium_ids("speech", lang)

    def medium_ids(self, modality: str, lang: str | None) -> np.ndarray:
        """Token ids that go before a medium: opening special tokens and prefix. May be empty."""
        if (modality, lang) not in self._before_medium:
            self._before_medium[modality, lang] = self._opening(self.prefix(modality, lang))
        return self._before_medium[modality, lang]

    def _opening(self, words: str) -> np.ndarray:
        """Token ids of words that something follows."""
        ids = self._ids(words, spells_audio_token(words))
        return np.array(ids[: len(ids) - len(self._closing)], dtype=np.int64)


def check_template(what: str, template: str) -> None:
    """Refuse what is no template of a prompt; ``what`` is what the message calls it.

    Raises:
        ConfigError: it does not end with ``{item}``, or holds another placeholder.
    """
    if not isinstance(template, str) or not template.endswith(ITEM):
        raise ConfigError(f"{what}={template!r} does not end with {ITEM}; write 'task: {{task}} | query: {ITEM}', say")
    try:
        template.removesuffix(ITEM).format(**dict.fromkeys(FIELDS, ""))
    except MALFORMED as error:
        fields = ", ".join(f"{{{field}}}" for field in FIELDS)
        raise ConfigError(f"{what}={template!r}: placeholders before {ITEM} are {fields}; {error} is none") from error


def _closing_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a tokenizer adds behind any text."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next(i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    return whole[start + len(bare) :]
