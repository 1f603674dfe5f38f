"""Rows as training examples and as what an evaluation asks.

Training: the input asks for the right answer, and the wrong ones are hard negatives. An answer that is a label may have
the row's explanation and an id, which its negatives have too, so that neither says which is right; the id is a hash
that the input does not show. What answers mean is their label, so that the loss's mask (``loss.mask_duplicates``) does
the work for which ATEB gave every answer an id of its own: two rows of one label are no negatives of each other.

Dev and test: answers are bare labels, because an explanation of the right one would give it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from hashlib import blake2b
from pathlib import Path
from random import Random

from speechde.cache import fingerprint
from speechde.config.ateb import AtebConfig
from speechde.corpora.ateb.rows import Row
from speechde.corpora.ateb.sets import LABEL, read_set, set_of
from speechde.corpora.examples_writer import write_examples
from speechde.corpora.fingerprint import hash_of
from speechde.errors import ConfigError
from speechde.types import Dropped, Example, Item, Text

VERSION = 1  # of what is made of rows: a file of another version is made again


def examples_of(name: str, rows: Iterable[Row], config: AtebConfig, template: str | None = None) -> list[Example]:
    """An example of each row; no query or id has a text in it that a report would show.

    Args:
        name: of the set, which tells its labels from those of others.
        template: of answers that are labels, of ``{label}``, ``{explanation}`` and ``{id}``; None for the bare label.
    """
    labelled = set_of(name).kind == LABEL
    return [_example(name, row, config, (template or "{label}") if labelled else None) for row in rows]


def input_text(fields: Iterable[tuple[str, str]], template: str) -> str:
    """Fields of an input as one text."""
    return "\n".join(template.format(name=name, text=text) for name, text in fields)


def _example(name: str, row: Row, config: AtebConfig, template: str | None) -> Example:
    known = f"{name} {row.id}"
    query = Item(Text(input_text(row.fields, config.field)), id=known, lang=row.lang, meaning=known)
    answers = []
    for number, answer in enumerate(row.answers):
        text, meaning = answer, answer
        if template is not None:
            written = {"label": answer, "explanation": row.explanation, "id": unique_id(row.id)}
            text, meaning = template.format(**written).strip(), f"{name}: {answer}"
        answers.append(Item(Text(text), id=f"{known} {number}", lang=row.lang, meaning=meaning))
    negatives = tuple(answer for number, answer in enumerate(answers) if number != row.right)
    return Example(query, answers[row.right], negatives, stratum=row.part, source=name, shared=True)


def unique_id(row: str) -> str:
    """Eight hex digits of a row's id."""
    return blake2b(row.encode(), digest_size=4).hexdigest()


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows with explanations of other rows of their label, where there are others."""
    whys: dict[int, list[str]] = {}
    for row in rows:
        whys.setdefault(row.right, []).append(row.explanation)
    taken = {}
    for label, own in whys.items():
        order = list(range(len(own)))
        Random(f"{seed} {label}").shuffle(order)
        given = [""] * len(own)
        for place, following in zip(order, order[1:] + order[:1], strict=True):
            given[place] = own[following]
        taken[label] = iter(given)
    return [replace(row, explanation=next(taken[row.right])) for row in rows]


def drawn(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """``limit`` rows in their order; which they are depends on the seed and their ids alone."""
    places = [blake2b(f"{seed}:{row.id}".encode()).digest() for row in rows]
    kept = sorted(range(len(rows)), key=places.__getitem__)[:limit]
    return [rows[place] for place in sorted(kept)]


def check_explained(name: str, config: AtebConfig) -> None:
    """Refuse a target that a set does not have.

    Raises:
        ConfigError: there is no such set, or its rows have no explanations.
    """
    own = set_of(name)
    if "explanation" in config.target and not own.explained:
        raise ConfigError(f"ateb.target={config.target}: {name} has no explanations; set ateb.target=label")


def examples_file(name: str, config: AtebConfig, folder: str | None, cache: Path) -> tuple[Path, list[Dropped]]:
    """A file of examples of a set, with its three splits, below ``cache``; and what was left out of the set.

    Raises as ``check_explained`` and ``sets.read_set``.
    """
    check_explained(name, config)
    rows = read_set(name, folder, cache)
    made = {
        split: drawn(own, config.limit if split == "train" else config.held_out_limit, config.seed)
        for split, own in rows.splits.items()
    }
    if config.shuffled:
        made["train"] = shuffled(made["train"], config.seed)
    written = {
        split: examples_of(name, own, config, config.template if split == "train" else None)
        for split, own in made.items()
    }
    read = {split: hash_of(map(astuple, own)) for split, own in made.items()}
    path = cache / "ateb" / f"{name}-{fingerprint({'version': VERSION, 'config': vars(config), 'rows': read})}.jsonl"
    if not path.is_file():
        write_examples(written["train"], path, others={split: written[split] for split in ("dev", "test")})
    return path, rows.dropped
