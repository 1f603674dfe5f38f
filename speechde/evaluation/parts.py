"""What each part of a query adds: its queries asked again with one part alone, in another order, under conditions.

A picture with a recording asks for a text. The answers are those of an evaluation under conditions
(``evaluation.degraded``): a system is the whole query, ``model``, or what is left of it, and its ``lead`` is recall@1
of the whole query minus its own, of the same queries in the same galleries. So what a picture adds to speech in noise
is the lead over ``speech alone`` there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from speechde.checkpoint.reader import Reader
from speechde.conditions import CLEAN, Condition
from speechde.corpora.examples_file import FileExamples
from speechde.errors import DataError
from speechde.evaluation.files import NEVER, ROLE, language_tasks
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Remembered, Results, Retrieval, evaluate
from speechde.evaluation.scene import AVERAGED, add_paired
from speechde.evaluation.speech import ROLES
from speechde.media.audio import AudioError
from speechde.media.degradations import degrade
from speechde.media.image import ImageError
from speechde.models.embed import embed_items
from speechde.progress import progress
from speechde.types import Dropped, Image, Item, Part, Text

WHOLE, REVERSED = "model", "reverse order"  # the first as reports call the system that others are held against
AT_ONCE = 64  # media decoded together
Key = tuple[str, str]  # modality and locator
Store = dict[Key, list[np.ndarray]]
Vary = Callable[[Item], Item]


def evaluate_parts(
    reader: Reader,
    examples: FileExamples,
    split: str,
    *,
    conditions: Sequence[Condition] = (),
    task: str | None = None,
    seed: int = 0,
) -> dict:
    """Ask the queries of a split, in galleries of one language, whole and in parts, clean and under conditions.

    Args:
        task: whose prompts both sides have; None: prefixes.
        conditions: beside clean; they change recordings alone.

    Returns:
        ``conditions`` as in ``metrics.json``, ``queries``, ``gallery`` (mean size) and ``dropped``, a count by reason.

    Raises:
        DataError: not one query can be used.
    """
    known: Store = {}
    usable, dropped = readable(reader, examples.select(split), known)
    roles = {ROLE: "seen", NEVER: "zero_shot"}
    sides = tuple(f"{task}-{side}" if task else side for side in (QUERY, DOCUMENT))
    made = language_tasks("queries", usable, split, sides, reader.trained.settings.training.get("seen"))
    tasks = [replace(one, subset=one.subset.partition(" ")[2], role=roles[one.role], top=None) for one in made]
    whole: Remembered | None = None
    found, clean = {}, {}
    for condition in (CLEAN, *conditions):
        items = {id(item): item for one in tasks for item in (*one.queries, *(() if whole else one.gallery))}
        store = known | stored_media(reader, items.values(), condition, known)[0]
        embed = _embed(reader, store)
        whole = whole.knowing(embed) if whole else Remembered(embed)
        found[condition.name], heard = _answers(tasks, whole, seed)
        clean = clean or heard
        if condition != CLEAN:
            add_paired(found[condition.name][WHOLE], "change", tasks, heard, clean, seed)
    sizes = [len(one.gallery) for one in tasks]
    return {
        "conditions": found, "queries": sum(len(one.queries) for one in tasks), "gallery": round(float(np.mean(sizes))),
        "languages": len(tasks), "dropped": dict(Counter(each.reason for each in dropped)),
    }  # fmt: skip


def variants(queries: Sequence[Item]) -> dict[str, Vary]:
    """What becomes of a query, by name: what all of them have alone, and their parts in reverse order.

    >>> list(variants([Item(Image("a.png"), Audio("a.ogg"))]))
    ['model', 'image alone', 'speech alone', 'reverse order']
    """
    if all(len(query.parts) == 1 for query in queries):
        return {WHOLE: _as_it_is}
    common = set.intersection(*({*query.make_up} for query in queries))
    mixed = any(len({*query.make_up}) > 1 for query in queries)
    alone = {f"{name} alone": _only(name) for name in sorted(common)} if mixed else {}
    return {WHOLE: _as_it_is, **alone, REVERSED: lambda item: _of(item, item.parts[::-1])}


def readable(reader: Reader, examples: FileExamples, known: Store) -> tuple[FileExamples, list[Dropped]]:
    """The examples whose media can be read, which ``known`` is given, and what is left out.

    Raises:
        DataError: there is none.
    """
    sides = [[*one.query.parts, *one.positive.parts] for one in examples]
    store, dropped = stored_media(reader, [Item(*parts) for parts in sides], CLEAN, known)
    known |= store
    bad = {each.id for each in dropped}
    kept = [row for row, parts in enumerate(sides) if not any(_key(part)[1] in bad for part in parts if _medium(part))]
    if not kept:
        first = f": {dropped[0].id}: {dropped[0].reason}" if dropped else "; it has no example"
        raise DataError(f"not one of {len(sides)} examples of the split can be used{first}")
    return examples.subset(np.array(kept, np.int64)), dropped


def stored_media(
    reader: Reader, items: Iterable[Item], condition: Condition, known: Mapping
) -> tuple[Store, list[Dropped]]:
    """What the encoders make of clips under a condition and of pictures, each once, and the files that cannot be read.

    Clean media and pictures that are ``known`` are not made again.
    """
    media = {_key(part): part for item in items for part in item.parts if _medium(part)}
    same = condition == CLEAN
    missing = [key for key, part in media.items() if key not in known or not (same or isinstance(part, Image))]
    store: Store = {}
    dropped: list[Dropped] = []
    with progress(f"clips and pictures, {condition.name}", len(missing), "files") as advance:
        for keys in (missing[start : start + AT_ONCE] for start in range(0, len(missing), AT_ONCE)):
            clips: dict[Key, np.ndarray] = {}
            pictures: dict[Key, Image] = {}
            for key in keys:
                content = media[key].content
                try:
                    if isinstance(media[key], Image):
                        pictures[key] = Image(reader.picture(content))
                    else:  # checked as recorded alone: which clips can be used does not depend on the condition
                        name = PurePath(str(content)).name  # noise is drawn by it
                        clips[key] = degrade(reader.waveform(content), condition, name)
                except (AudioError, ImageError) as error:
                    dropped.append(Dropped(key[1], error.reason, error.detail))
            if clips:
                store |= zip(clips, reader.pieces(list(clips.values())), strict=True)
            store |= zip(pictures, reader.read_parts([(Item(one), one) for one in pictures.values()]), strict=True)
            advance(len(keys))
    return store, dropped


def _answers(tasks: Sequence[Retrieval], whole: Remembered, seed: int) -> tuple[dict, Mapping[str, np.ndarray]]:
    """The answers of every variant: rows and means, with the lead of the whole query; and the ranks of these."""
    ways = variants([query for one in tasks for query in one.queries])
    output, ranks = {}, {}
    for name, vary in ways.items():
        own = [replace(one, queries=[vary(_anew(query)) for query in one.queries]) for one in tasks]
        results = evaluate(own, whole, seed=seed, label=None)
        output[name] = _rows(results)
        ranks[name] = results.ranks["queries"]
        if name != WHOLE:
            add_paired(output[name], "lead", own, ranks[WHOLE], ranks[name], seed)
    return output, ranks[WHOLE]


def _rows(results: Results) -> dict:
    rows = results.rows["queries"]
    present = [role for role in ROLES if any(row["role"] == role for row in rows.values())]
    means = {role: results.mean("queries", AVERAGED, lambda _, row, role=role: row["role"] == role) for role in present}
    return {"per_language": rows, **means}


def _embed(reader: Reader, store: Store) -> Callable[[Sequence[Item], str], np.ndarray]:
    trained = reader.trained

    def embed(items: Sequence[Item], role: str) -> np.ndarray:
        def read(media: Sequence[tuple[Item, Part]]) -> list[list[np.ndarray]]:
            return [store[_key(part)] for _, part in media]

        name = role if role in trained.prompt.named else None
        return embed_items(trained.model, trained.prompt, items, read, label="embedding", name=name).vectors

    return embed


def _medium(part: Part) -> bool:
    return not isinstance(part, Text)


def _key(part: Part) -> Key:
    return part.modality, str(part.content)


def _only(modality: str) -> Vary:
    return lambda item: _of(item, [part for part in item.parts if part.modality == modality])


def _of(item: Item, parts: Sequence[Part]) -> Item:
    return Item(*parts, id=item.id, lang=item.lang, meaning=item.meaning, title=item.title)


def _as_it_is(item: Item) -> Item:
    return item


def _anew(item: Item) -> Item:
    """The same, with no vector remembered of it."""
    return _of(item, item.parts)
