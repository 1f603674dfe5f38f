"""Hard negatives: for each example, documents that a model takes for its answer, and that are not.

Candidates of an example are other documents in the language of its answer: the ``k`` nearest to its query by a model,
or *minimal pairs* of its answer, texts that are one letter or one word apart, which a clip has to be heard well to
tell. A document of equal content or meaning is no candidate. Rankings of the candidates are fused by reciprocal ranks
(Cormack et al. 2009): by the model, by shared letters, and by scores that a file brings, of a judge that reads query
and document. The candidate at ``rank`` of the fused order is taken. Gemini Embedding (arXiv 2503.07891) takes the last
of the ``k``: the first ones are often right answers that nobody marked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein

from speechde.api import SpeechTextEncoder
from speechde.corpora.examples import SpeechExamples
from speechde.corpora.examples_file import answers, is_examples_file, names, read_examples
from speechde.corpora.manifest import read_manifest
from speechde.errors import ConfigError, DataError, unknown_value
from speechde.evaluation.retrieval import DOCUMENT, QUERY
from speechde.evaluation.text_model import task_prompts
from speechde.search.mining import nearest
from speechde.text import BadLine, normalise_text, read_rows
from speechde.types import Dropped, Example, Item, Text

CANDIDATES = NEAREST, MINIMAL = ("nearest", "minimal-pairs")
RANKINGS = MODEL, CHARACTERS = ("model", "characters")
RRF = 60  # of the paper: how much a first place is worth more than a tenth
BLOCK = 256  # texts compared with all others at once
Scores = Mapping[tuple[str, str], float]  # by the names of query and document; higher is nearer
EmbedItems = Callable[[Sequence[Item], str], np.ndarray]  # items, role → (n, dim); NaN where one cannot be used


@dataclass(frozen=True)
class Mining:
    """How negatives are chosen.

    Args:
        candidates: one of ``CANDIDATES``.
        k: candidates of an example, at most.
        rank: place in the fused order that is taken, from 1; None: the last of the nearest, the first minimal pairs.
        count: negatives of an example: that many places, up to ``rank``.
        rankings: of ``RANKINGS``, and names of tables of scores; none: the model's for the nearest, else the letters'.

    Raises:
        ConfigError: numbers that do not fit together, or an unknown name.
    """

    candidates: str = NEAREST
    k: int = 20
    rank: int | None = None
    count: int = 1
    rankings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.candidates not in CANDIDATES:
            raise unknown_value("candidates", self.candidates, CANDIDATES)
        first = {NEAREST: (self.k, MODEL), MINIMAL: (self.count, CHARACTERS)}[self.candidates]
        for name, value, default in (("rank", self.rank, first[0]), ("rankings", self.rankings or None, (first[1],))):
            object.__setattr__(self, name, default if value is None else value)
        if not 1 <= self.count <= self.rank <= self.k:
            raise ConfigError(
                f"count={self.count}, rank={self.rank}, k={self.k}: the places up to rank are taken, so that 1 ≤ count "
                "≤ rank ≤ k has to hold"
            )

    @property
    def needs_model(self) -> bool:
        """Whether anything is embedded."""
        return self.candidates == NEAREST or MODEL in self.rankings


@dataclass(frozen=True)
class Mined:
    """Examples with their negatives, those mined behind those that were there, and what was left out."""

    examples: list[Example]
    dropped: list[Dropped]
    without: int  # examples for which nothing was found


def read_source(path: Path) -> tuple[list[Example], list[Dropped], dict[str, list[Example]]]:
    """The training examples of an examples file, or clips of a manifest that ask for their transcripts.

    Then what was left out, and the examples of a file that are held out, by split.

    Raises:
        DataError: there are none.
    """
    if is_examples_file(path):
        file = read_examples(path)
        examples, dropped = list(file.select("train")), file.dropped
        later = {split: list(file.select(split)) for split in ("dev", "test")}
    else:
        corpus = read_manifest(path, split="train")
        examples, dropped = list(SpeechExamples(corpus.select("train"))), corpus.dropped
        later = {}
    if not examples:
        raise DataError(f"{path} has no example of the split train; negatives are for training alone")
    return examples, dropped, later


def read_scores(path: Path) -> tuple[Scores, list[Dropped]]:
    """Scores of pairs from a TSV of query, document and score; a first row that ends in ``score`` is a header.

    Queries and documents are named by their ``id``, or by their text where they have none. Bad rows are listed.

    Raises:
        DataError: the file is missing, or has no usable row.
    """
    scores: dict[tuple[str, str], float] = {}
    dropped = []
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a TSV of query, document and score")
    for number, row in read_rows(path):
        place = f"{path}:{number}"
        if isinstance(row, BadLine):
            dropped.append(Dropped(place, row.reason, row.detail))
        elif row == [""] or (number == 1 and row[-1] == "score"):
            continue
        elif len(row) != 3 or (score := _number(row[2])) is None:
            dropped.append(Dropped(place, "no query, document and score", "\t".join(row)[:80]))
        else:
            scores[row[0], row[1]] = score
    if not scores:
        raise DataError(f"{path} has no usable row; a row is query, document and score, with tabs between")
    return scores, dropped


def mine_negatives(
    examples: Sequence[Example],
    how: Mining,
    embed: EmbedItems | None = None,
    tables: Mapping[str, Scores] | None = None,
) -> Mined:
    """Add hard negatives to examples, from the documents of all of them, made up as those that an example has.

    Args:
        embed: of the model; None where ``how`` needs none.
        tables: scores by the names that ``how.rankings`` has.

    Raises:
        ConfigError: a ranking that is unknown.
        DataError: no item could be embedded.
    """
    tables = dict(tables or {})
    for name in how.rankings:
        if name not in RANKINGS and name not in tables:
            raise unknown_value("rankings", name, [*RANKINGS, *tables], "A file of scores is named by its path.")
    documents = _distinct(document for one in examples for document in (one.positive, *one.negatives))
    groups: dict[tuple, tuple[list[Example], list[Item]]] = defaultdict(lambda: ([], []))
    for one in examples:
        like = (*one.negatives, one.positive)[0]
        groups[one.positive.lang, like.make_up][0].append(one)
    for document in documents:
        groups[document.lang, document.make_up][1].append(document)
    mined: dict[int, Example] = {}
    dropped: list[Dropped] = []
    for own, gallery in groups.values():
        if own:
            found = _Group(own, gallery, how, embed, tables)
            dropped += found.dropped
            mined |= {id(one): found.with_negatives(row) for row, one in enumerate(own) if found.usable[row]}
    kept = [(one, mined[id(one)]) for one in examples if id(one) in mined]
    if not kept:
        raise DataError(f"none of {len(examples)} queries could be embedded ({dropped[0].id}, first)")
    return Mined([after for _, after in kept], dropped, sum(len(a.negatives) == len(b.negatives) for b, a in kept))


def item_embedder(encoder: SpeechTextEncoder, task: str | None = None) -> EmbedItems:
    """How a model embeds queries and documents; an item that cannot be used has a row of NaN.

    Args:
        task: whose prompts both get; None: the prefixes.

    Raises:
        ConfigError: the model has no prompts of that task.
    """
    prompts = task_prompts(encoder.trained.prompt, task)

    def embed(items: Sequence[Item], role: str) -> np.ndarray:
        blocks = (items[start : start + BLOCK] for start in range(0, len(items), BLOCK))
        return np.concatenate([_embedded(encoder, block, prompts[role]) for block in blocks])

    return embed


def _embedded(encoder: SpeechTextEncoder, items: Sequence[Item], prompt: str | None) -> np.ndarray:
    try:
        return encoder.embed(items, prompt=prompt)
    except DataError:  # a clip that cannot be decoded, say
        if len(items) == 1:
            return np.full((1, encoder.dim), np.nan, np.float32)
        return np.concatenate([_embedded(encoder, [item], prompt) for item in items])


def fuse(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The order ``(n,)`` of candidates, best first, of one score ``(n,)`` each by several judges.

    A candidate gets Σ 1 / (60 + rank), where ties share the better rank; where sums tie, the order given decides.
    """
    total = np.zeros(len(scores[0]))
    for one in scores:
        ranks = 1 + (one[None, :] > one[:, None]).sum(axis=1)
        total += 1 / (RRF + ranks)
    return np.argsort(-total, kind="stable")


def minimal_pairs(texts: Sequence[str]) -> list[list[int]]:
    """For each text the rows of those that are one letter, or one word, apart after ``normalise_text``.

    One is replaced, added or left out. Every text is compared with every other; words are compared as if they were
    letters, so that both are one fast comparison.
    """
    plain = [normalise_text(text) for text in texts]
    found: list[set[int]] = [set() for _ in texts]
    for written in (plain, _words_as_letters(plain)):
        for start in range(0, len(written), BLOCK):
            block = written[start : start + BLOCK]
            apart = process.cdist(block, written, scorer=Levenshtein.distance, score_cutoff=1, dtype=np.uint8)
            for row, column in np.argwhere(apart == 1).tolist():
                found[start + row].add(column)
    return [sorted(rows) for rows in found]


class _Group:
    """Examples whose answers are in one language, and the documents of that language and one make-up."""

    def __init__(
        self, examples: list[Example], gallery: list[Item], how: Mining, embed: EmbedItems | None,
        tables: Mapping[str, Scores],
    ) -> None:  # fmt: skip
        self.examples, self.gallery, self.how, self.tables = examples, gallery, how, tables
        self.usable, self.dropped = np.ones(len(examples), bool), []
        self.known = defaultdict(set)
        for row, document in enumerate(gallery):
            for name in names(document):
                self.known[name].add(row)
        self.excluded = [self._excluded(one) for one in examples]
        if how.needs_model:
            self.queries = embed([one.query for one in examples], QUERY)
            self.documents = embed(gallery, DOCUMENT)
            self.usable = np.isfinite(self.queries).all(axis=1)
            bad = [examples[row].query for row in np.flatnonzero(~self.usable)]
            self.dropped = [Dropped(_key(query), "cannot be embedded") for query in bad]
        self.candidates = self._nearest() if how.candidates == NEAREST else self._minimal_pairs()

    def with_negatives(self, row: int) -> Example:
        """An example with what is mined for it behind the negatives that it has."""
        example, rows = self.examples[row], self.candidates[row]
        if not rows:
            return example
        order = fuse([self._scores(name, row, rows) for name in self.how.rankings])
        end = min(self.how.rank, len(rows))
        taken = tuple(self.gallery[rows[place]] for place in order[max(0, end - self.how.count) : end])
        return replace(example, negatives=(*example.negatives, *taken))

    def _excluded(self, example: Example) -> set[int]:
        """Rows of documents that answer an example, or are its negatives already."""
        own = answers(example) | {normalise_text(meaning) or meaning for _, meaning in example.also}
        for negative in example.negatives:
            own |= names(negative)
        return set().union(*(self.known[name] for name in own if name in self.known))

    def _nearest(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.examples]
        there = np.flatnonzero(np.isfinite(self.documents).all(axis=1))
        asking = np.flatnonzero(self.usable)
        if not len(there) or not len(asking):
            return found
        k = self.how.k + max(map(len, self.excluded))
        _, rows = nearest(self.queries[asking], self.documents[there], k)
        for query, near in zip(asking.tolist(), rows, strict=True):
            own = [row for row in there[near[near >= 0]].tolist() if row not in self.excluded[query]]
            found[query] = own[: self.how.k]
        return found

    def _minimal_pairs(self) -> list[list[int]]:
        """Of the answers, which are documents of the gallery themselves; nearest by letters first."""
        texts = list(map(_text, self.gallery))
        pairs = minimal_pairs(texts)
        found = []
        for one, excluded in zip(self.examples, self.excluded, strict=True):
            own = _text(one.positive)
            rows = set.intersection(*(self.known[name] for name in names(one.positive)))  # none: made up otherwise
            there = [
                other
                for row in sorted(rows)[:1]
                for other in pairs[row]
                if other not in excluded and self._is_there(other)
            ]
            there.sort(key=lambda other: -fuzz.ratio(own, texts[other]))
            found.append(there[: self.how.k])
        return found

    def _is_there(self, row: int) -> bool:
        return not self.how.needs_model or bool(np.isfinite(self.documents[row]).all())

    def _scores(self, name: str, row: int, rows: list[int]) -> np.ndarray:
        """``(candidates,)`` by one ranking; what a table does not have comes last."""
        example = self.examples[row]
        if name == MODEL:
            return self.documents[rows] @ self.queries[row]
        if name == CHARACTERS:  # a clip is compared by what is said in it
            own = _text(example.query) or _text(example.positive)
            return np.array([fuzz.ratio(own, _text(self.gallery[other])) for other in rows])
        table, query = self.tables[name], _key(example.query)
        return np.array([table.get((query, _key(self.gallery[other])), -math.inf) for other in rows])


def _distinct(documents: Sequence[Item]) -> list[Item]:
    """One of each content, meaning and language, in their order."""
    return list({(frozenset(names(one)), one.lang): one for one in reversed(list(documents))}.values())[::-1]


def _text(item: Item) -> str:
    """What is written in an item, normalised; empty where nothing is."""
    return normalise_text(" ".join(part.content for part in item.parts if isinstance(part, Text)))


def _key(item: Item) -> str:
    """The name of an item in a table of scores."""
    return item.id or " ".join(part.content for part in item.parts if isinstance(part, Text))


def _words_as_letters(texts: Sequence[str]) -> list[str]:
    """Each word as one character, the same for the same word."""
    letters: dict[str, str] = {}
    for text in texts:
        for word in text.split():
            number = len(letters)
            letters.setdefault(word, chr(number if number < 0xD800 else number + 0x800))  # past the surrogates
    return ["".join(letters[word] for word in text.split()) for text in texts]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
