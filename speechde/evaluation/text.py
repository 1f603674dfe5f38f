"""Text as retrieval: public benchmarks become the tasks of each language (``docs/protocol.md``).

    sib200, ntrex          a sentence asks for its English translation; ``_back``: the English one asks for it
    ntrex_documents        the same with whole news texts
    xquad                  a question asks for the paragraph that answers it, among all of its language
    banking77              a customer's question asks for the name of its intent
    banking77_examples     … for any example of its intent
    ateb_…                 sets of ATEB's abilities (``evaluation.ateb``)

Galleries are whole, whatever is sampled: sampling takes queries. Texts that are equal are one item, and a query is
right with any translation of its text. All of it is evaluated on and never trained on: a model whose record says that
it was trained on the same texts is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import numpy as np

from speechde.corpora import benchmarks, ntrex
from speechde.corpora.bitext import ENGLISH
from speechde.corpora.examples import SYNTHETIC
from speechde.corpora.load import histories
from speechde.errors import ConfigError, unknown_value
from speechde.evaluation import ateb
from speechde.evaluation.asked import ROLES, Asked
from speechde.evaluation.retrieval import COMMON, Labels, Results, Retrieval
from speechde.groups import joined
from speechde.text import normalise_text
from speechde.types import Item, Text

BACK = "_back"
AVERAGED = ("recall@1", *COMMON, "chance")


def expanded(names: Iterable[str]) -> list[str]:
    """The tasks that names of tasks and of ``GROUPS`` stand for, each once."""
    return list(dict.fromkeys(task for name in names for task in GROUPS.get(name, (name,))))


def text_tasks(names: Iterable[str], asked: Asked) -> list[Retrieval]:
    """The tasks of ``names`` (of ``TASKS`` or ``GROUPS``), in their order; languages by code.

    Raises:
        ConfigError: an unknown name, or no benchmark has one of the languages.
        AssetError: a file cannot be had.
    """
    names = expanded(names)
    for name in names:
        if name not in TASKS:
            raise unknown_value("text task", name, [*TASKS, *GROUPS])
    built: dict[str, list[Retrieval]] = {}
    for build, makes in _BUILDERS.items():
        if wanted := [name for name in names if name in makes]:
            for task in build(wanted, asked):
                built.setdefault(task.name, []).append(task)
    found = {task.subset for tasks in built.values() for task in tasks}
    if missing := [lang for lang in asked.langs or () if lang not in found and lang != ENGLISH]:
        raise ConfigError(f"{', '.join(missing)}: in none of {', '.join(names)}; leave it out, or ask for sib200")
    if not built:
        raise ConfigError(f"{', '.join(names)}: nothing is asked for but English; give another language")
    return [task for name in names for task in built.get(name, ())]


def text_metrics(results: Results) -> dict:
    """Of each task: a row for each language, and means over the languages of each role that occurs."""
    return {
        name: {
            "per_language": rows,
            **{
                role: results.mean(name, AVERAGED, lambda _, row, role=role: row["role"] == role)
                for role in ROLES
                if any(row["role"] == role for row in rows.values())
            },
        }
        for name, rows in results.rows.items()
    }


def refuse_trained_on(record: Mapping | None, names: Iterable[str]) -> None:
    """Refuse benchmarks whose texts a model was trained on, as far as its record says.

    Raises:
        ConfigError: FLEURS reads the sentences of SIB-200; NTREX may have been read by a synthesiser.
    """
    for config in (each.get("config", {}) for each in histories(record or {})):
        corpora = [own for own in (config.get("data"), (config.get("adapt") or {}).get("old")) if own]
        spoken = any(task and task.get("shares", {}).get(SYNTHETIC, 0) > 0 for task in config.get("tasks", {}).values())
        read = [own for own in corpora if "sentences" in own.get("synthetic", {}).get("texts", "").split("+")]
        for trained, family, why in (
            (
                any(own.get("name") == "fleurs" for own in corpora),
                "sib200",
                "FLEURS, whose readers read these sentences",
            ),
            (spoken and read, "ntrex", "readings of these very sentences"),
        ):
            if own := [name for name in names if trained and name.startswith(family)]:
                raise ConfigError(f"{', '.join(own)}: the model was trained on {why}; leave {own[0]} out")


def _sib200(names: Sequence[str], asked: Asked) -> list[Retrieval]:
    langs = asked.of(benchmarks.sib200_languages())
    sentences = benchmarks.read_sib200(asked.folder, asked.cache, [*langs, ENGLISH], asked.option)
    order = list(sentences[ENGLISH])
    texts = {lang: [own[number] for number in order] for lang, own in sentences.items()}
    return _translations("sib200", names, texts, asked)


def _ntrex(names: Sequence[str], asked: Asked) -> list[Retrieval]:
    texts = ntrex.read_ntrex(asked.folder, asked.cache, [*asked.of(ntrex.languages()), ENGLISH], asked.option)
    tasks = _translations("ntrex", names, texts, asked)
    if "ntrex_documents" in names:
        document = ntrex.read_documents(asked.folder, asked.cache, asked.option)
        whole = {lang: _grouped(document, own) for lang, own in texts.items()}
        tasks += _translations("ntrex_documents", names, whole, asked)
    return tasks


def _grouped(document: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Lines of each document, joined."""
    lines: dict[str, list[str]] = {name: [] for name in document}
    for name, text in zip(document, texts, strict=True):
        lines[name] += [text] if text else []
    return ["\n".join(own) for own in lines.values()]


def _translations(name: str, names: Sequence[str], texts: Mapping[str, Sequence[str]], asked: Asked) -> list[Retrieval]:
    """Tasks of each language but English, where ``texts`` are aligned; those that are empty on a side are left out."""
    english: dict[str, Item] = {}  # one item for each text, whichever languages share it, so that it is embedded once
    tasks = []
    for lang in sorted(set(texts) - {ENGLISH}):
        there = [pair for pair in zip(texts[lang], texts[ENGLISH], strict=True) if all(pair)]
        (own, place), (other, target) = (_unique([pair[side] for pair in there]) for side in (0, 1))
        # pairs that share a text on either side, or do by way of others, mean the same
        shared = ([("text", one), ("translation", other)] for one, other in zip(place, target, strict=True))
        meaning = np.array(joined(shared), np.int64)
        # (items, label of what each means, first pair that each is of), of both sides
        sides = []
        for items, rows in (
            (_items(own, lang), place),
            ([english.setdefault(text, _items([text], ENGLISH)[0]) for text in other], target),
        ):
            _, first = np.unique(rows, return_index=True)
            sides.append((items, meaning[first], first))
        for task, asking, answering in ((name, *sides), (name + BACK, *reversed(sides))):
            if task in names:
                items, labels, first = asking
                drawn = asked.drawn([there[pair][1] for pair in first])  # the same sentences in all languages
                gallery, labelled, _ = answering
                tasks.append(Retrieval(task, lang, asked.role_of(lang), [items[row] for row in drawn], gallery,
                                       Labels(labels[drawn], labelled), labels[drawn]))  # fmt: skip
    return tasks


def _xquad(names: Sequence[str], asked: Asked) -> list[Retrieval]:
    tasks = []
    for lang, found in benchmarks.read_xquad(
        asked.folder, asked.cache, asked.of(benchmarks.xquad_languages()), asked.option
    ).items():
        texts, place = _unique(found.texts)
        titles = {text: title for text, title in zip(found.texts, found.titles, strict=True)}
        gallery = _items(texts, lang, titles)
        questions = [found.questions[row] for row in asked.drawn([question.id for question in found.questions])]
        queries = [Item(Text(q.text), id=f"{lang}:{q.id}", lang=lang, meaning=q.text) for q in questions]
        own = place[[question.paragraph for question in questions]]
        # questions about one paragraph are right or wrong together: the bootstrap draws paragraphs
        tasks.append(Retrieval("xquad", lang, asked.role_of(lang), queries, gallery,
                               Labels(own, np.arange(len(gallery))), own))  # fmt: skip
    return tasks


def _banking77(names: Sequence[str], asked: Asked) -> list[Retrieval]:
    if not asked.of([ENGLISH]):
        return []
    found = benchmarks.read_banking77(asked.folder, asked.cache, asked.option)
    number = {name: place for place, name in enumerate(found.names)}
    texts, sentence = _unique([text for text, _ in found.test])
    drawn = asked.drawn(texts)
    label = np.zeros(len(texts), np.int64)
    label[sentence] = [number[name] for _, name in found.test]
    queries, own = _items([texts[row] for row in drawn], ENGLISH), label[drawn]
    tested = {normalise_text(text) for text in texts}
    # some questions of the test are examples too, and would find themselves
    examples = dict(pair for pair in found.examples if normalise_text(pair[0]) not in tested)
    galleries = {
        "banking77": (_items(found.names, ENGLISH), np.arange(len(found.names))),
        "banking77_examples": (_items(examples, ENGLISH), np.array([number[name] for name in examples.values()])),
    }
    return [
        Retrieval(name, ENGLISH, asked.role_of(ENGLISH), queries, items, Labels(own, labels), drawn)
        for name, (items, labels) in galleries.items()
        if name in names
    ]


_BUILDERS = {
    _sib200: ("sib200", "sib200" + BACK),
    _ntrex: ("ntrex", "ntrex" + BACK, "ntrex_documents"),
    _xquad: ("xquad",),
    _banking77: ("banking77", "banking77_examples"),
    ateb.ateb_tasks: ateb.NAMES,
}
TASKS = tuple(name for makes in _BUILDERS.values() for name in makes)
DOCUMENTS = ("ntrex", "ntrex_documents", "xquad")  # ATEB's fifth ability
GROUPS = ateb.GROUPS | {"ateb_documents": DOCUMENTS, "ateb": (*ateb.GROUPS["ateb"], *DOCUMENTS)}
LICENCES = {"sib200": "CC-BY-SA-4.0", "ntrex": "CC-BY-SA-4.0", "xquad": "CC-BY-SA-4.0", "banking77": "CC-BY-4.0"}


def licences_of(names: Iterable[str]) -> dict[str, str]:
    """The terms of what tasks are asked of."""
    names = list(names)
    return {of: terms for of, terms in LICENCES.items() if any(name.startswith(of) for name in names)} | ateb.licences(
        names
    )


def _items(texts: Iterable[str], lang: str, titles: Mapping[str, str] | None = None) -> list[Item]:
    titles = titles or {}
    return [Item(Text(t), id=f"{lang}:{_digest(t)}", lang=lang, meaning=t, title=titles.get(t, "")) for t in texts]


def _digest(text: str) -> str:
    """16 hex digits: an id goes into files of results, where no text of a benchmark is."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _unique(texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different texts, and the place ``(n,)`` of each among them."""
    number: dict[str, int] = {}
    place = np.array([number.setdefault(text, len(number)) for text in texts], np.int64)
    return list(number), place
