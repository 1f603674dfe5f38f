"""The evaluation protocol: from embeddings and utterances to the numbers of ``metrics.json`` (``docs/protocol.md``).

No model is seen here, so every system (dual encoder, baseline, cascade) is scored by the same code. Each language is
scored alone against its own gallery, then languages are averaged (macro), seen and zero-shot apart. Random draws are
seeded by language, so a language keeps its interval and its fixed galleries whichever other languages are evaluated.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from speechde.errors import DataError
from speechde.evaluation import metrics as m
from speechde.languages import LANGUAGES
from speechde.types import Utterance

DIRECTIONS = ("audio_to_text", "text_to_audio", "audio_to_english_text")
ROLES = ("seen", "zero_shot", "proxy")  # the last is in the output only when there are such languages
# The smallest FLEURS test gallery (om_et): the largest size that every one of its languages can be scored at.
FIXED_GALLERY_SIZE = 36
FIXED_GALLERY_DRAWS = 100
AVERAGED = ("recall@1", "recall@5", "mrr", "wer", "chance", "recall@1_fixed")


def clean(text: str) -> str:
    """Two transcripts are one gallery item when they are equal after NFC and stripping outer whitespace."""
    return unicodedata.normalize("NFC", text).strip()


def unique_texts(utterances: Iterable[Utterance]) -> list[tuple[str, str]]:
    """Unique ``(lang, transcript)`` pairs in first-seen order: the texts that :func:`evaluate` needs vectors of."""
    return list(dict.fromkeys((u.lang, clean(u.text)) for u in utterances))


def unique_translations(utterances: Iterable[Utterance]) -> list[str]:
    """Unique English translations in first-seen order; recordings without one are left out, English ones too."""
    return list(dict.fromkeys(clean(u.translation) for u in utterances if _has_translation(u)))


def data_counts(utterances: Sequence[Utterance]) -> dict:
    """What was evaluated: ``languages``, ``recordings``, unique ``transcripts``, and ``synthetic`` recordings."""
    return {
        "languages": len({u.lang for u in utterances}),
        "recordings": len(utterances),
        "transcripts": len(unique_texts(utterances)),
        "synthetic": sum(u.synthetic for u in utterances),
    }


@dataclass
class _Task:
    """One language in one direction; query and item labels are equal where the item is correct."""

    lang: str
    queries: np.ndarray  # (n, dim)
    gallery: np.ndarray  # (m, dim)
    query_group: np.ndarray  # (n,)
    gallery_group: np.ndarray  # (m,)
    sentences: np.ndarray  # (n,) what the bootstrap resamples
    query_name: Callable[[int], str]
    item_name: Callable[[int], str]


def evaluate(
    utterances: Sequence[Utterance],
    speech: np.ndarray,
    texts: Sequence[tuple[str, str]],
    text_vectors: np.ndarray,
    english: tuple[Sequence[str], np.ndarray] | None = None,
    *,
    seen: Sequence[str],
    zero_shot: Sequence[str] = (),
    proxy: Sequence[str] = (),
    seed: int = 0,
) -> tuple[dict, list[dict]]:
    """Score one split in all directions.

    Args:
        utterances: recordings of one split; their languages are those of the three roles together.
        speech: ``(n, dim)`` float32, one row per utterance.
        texts: unique ``(lang, transcript)`` pairs, as from :func:`unique_texts`; pairs nobody speaks are not used.
        text_vectors: ``(m, dim)`` float32, one row per text.
        english: unique English translations, as from :func:`unique_translations`, and their ``(k, dim)`` vectors.
        seen: languages that were trained on.
        zero_shot: languages that were not.
        proxy: languages that were not, whose synthetic speech another language's voice reads; averaged apart.
        seed: of the bootstrap and of the fixed galleries.

    Returns:
        The metrics (``audio_to_text``, ``text_to_audio``, ``audio_to_english_text``, ``fixed_gallery``) and one record
        per query: ``direction``, ``lang``, ``id``, ``rank``, ``retrieved``. A recording goes by its id, a text by
        itself. The retrieved item is an incorrect one when it ties with the correct one.

    Raises:
        DataError: shapes, languages, splits or texts do not fit together.
    """
    speech, text_vectors = np.asarray(speech, np.float32), np.asarray(text_vectors, np.float32)
    roles = _roles(utterances, {"seen": seen, "zero_shot": zero_shot, "proxy": proxy})
    _check_vectors("speech", speech, len(utterances))
    text_row = _rows("texts", [(lang, clean(text)) for lang, text in texts], text_vectors)
    english_row = {} if english is None else _rows("english", [clean(text) for text in english[0]], english[1])
    by_lang = defaultdict(list)
    for row, utterance in enumerate(utterances):
        by_lang[utterance.lang].append(row)

    tasks: dict[str, list[_Task]] = {direction: [] for direction in DIRECTIONS}
    for lang in sorted(by_lang):
        rows = np.array(by_lang[lang])
        spoken = [utterances[row] for row in rows]
        own = _lookup(text_row, [(lang, clean(u.text)) for u in spoken], "texts", "unique_texts")
        items = np.unique(own)
        ids = [u.id for u in spoken]
        names = [texts[item][1] for item in items]
        audio = (speech[rows], own, own, ids.__getitem__)
        text = (text_vectors[items], items, items, names.__getitem__)
        tasks["audio_to_text"].append(_task(lang, audio, text))
        tasks["text_to_audio"].append(_task(lang, text, audio))
        translated = np.array([_has_translation(u) for u in spoken])
        if english is not None and translated.any():
            wanted = [clean(u.translation) for u in spoken if _has_translation(u)]
            target = _lookup(english_row, wanted, "english", "unique_translations")
            items = np.unique(target)
            ids = [u.id for u in spoken if _has_translation(u)]
            names = [english[0][item] for item in items]
            audio = (speech[rows[translated]], target, own[translated], ids.__getitem__)
            text = (np.asarray(english[1], np.float32)[items], items, items, names.__getitem__)
            tasks["audio_to_english_text"].append(_task(lang, audio, text))

    groups = [len(np.unique(task.gallery_group)) for each in tasks.values() for task in each]
    size = min(FIXED_GALLERY_SIZE, *groups)
    output: dict = {"fixed_gallery": {"size": size, "draws": FIXED_GALLERY_DRAWS, "seed": seed}}
    records: list[dict] = []
    for direction, each in tasks.items():
        output[direction] = _score_direction(direction, each, roles, size, seed, records)
    return output, records


def macro_recall(metrics: Mapping, langs: Iterable[str]) -> float:
    """Mean audio→text recall@1 over ``langs``, for choosing checkpoints (dev split, seen languages only)."""
    rows = metrics["audio_to_text"]["per_language"]
    langs = list(langs)
    missing = sorted(set(langs) - set(rows))
    if missing or not langs:
        raise DataError(f"no audio_to_text row for {missing or 'an empty list of languages'}; there are {sorted(rows)}")
    return float(np.mean([rows[lang]["recall@1"] for lang in langs]))


def _score_direction(
    direction: str, tasks: list[_Task], roles: dict[str, str], size: int, seed: int, records: list[dict]
) -> dict:
    """Rows per language and macro rows of one direction; appends one record per query."""
    rows: dict[str, dict] = {}
    means: dict[str, np.ndarray] = {}
    for task in tasks:
        lang_seed = (seed, crc32(task.lang.encode()))
        arrays = (task.queries, task.gallery, task.query_group, task.gallery_group)
        ranks, retrieved = m.rank_and_retrieve(*arrays)
        means[task.lang] = m.bootstrap_means(ranks <= 1, task.sentences, seed=lang_seed)
        found = [task.item_name(item) for item in retrieved]
        rows[task.lang] = row = {
            "role": roles[task.lang],
            "queries": len(ranks),
            "gallery": len(task.gallery),
            "chance": m.chance_recall(task.query_group, task.gallery_group),
            "recall@1": m.recall_at(ranks, 1),
            "ci95": list(m.interval(means[task.lang])),
            "recall@5": m.recall_at(ranks, 5),
            "mrr": m.mean_reciprocal_rank(ranks),
            "recall@1_fixed": m.fixed_gallery_recall(*arrays, size, FIXED_GALLERY_DRAWS, lang_seed),
        }
        if direction == "audio_to_text":
            position = {group: item for item, group in enumerate(task.gallery_group)}
            truth = [task.item_name(position[group]) for group in task.query_group]
            row["wer"] = m.word_error_rate(truth, found, task.lang)
        records += [
            {
                "direction": direction,
                "lang": task.lang,
                "id": task.query_name(query),
                "rank": int(rank),
                "retrieved": found[query],
            }
            for query, rank in enumerate(ranks)
        ]
    keys = [key for key in AVERAGED if direction == "audio_to_text" or key != "wer"]

    def macro(role: str, region: str | None = None) -> dict:
        langs = [lang for lang in rows if roles[lang] == role and region in (None, _region(lang))]
        return _macro(rows, means, langs, keys)

    regions = sorted({_region(lang) for lang in rows})
    used = [role for role in ROLES if role != "proxy" or role in roles.values()]
    return {
        "per_language": rows,
        "per_region": {region: {role: macro(role, region) for role in used} for region in regions},
        **{role: macro(role) for role in used},
    }


def _region(lang: str) -> str:
    return LANGUAGES[lang].region if lang in LANGUAGES else "other"


def _macro(rows: dict[str, dict], means: dict[str, np.ndarray], langs: list[str], keys: list[str]) -> dict:
    """Mean over ``langs``; the numbers are None when there are none."""
    if not langs:
        return {"languages": 0, "ci95": None, **dict.fromkeys(keys)}
    # Languages are fixed and sentences random: the interval speaks of other sentences, not of other languages.
    low_high = m.interval(np.mean([means[lang] for lang in langs], axis=0))
    averages = {key: float(np.mean([rows[lang][key] for lang in langs])) for key in keys}
    return {"languages": len(langs), "ci95": list(low_high), **averages}


def _task(lang: str, query_side: tuple, item_side: tuple) -> _Task:
    queries, query_group, sentences, query_name = query_side
    gallery, gallery_group, _, item_name = item_side
    return _Task(lang, queries, gallery, query_group, gallery_group, sentences, query_name, item_name)


def _has_translation(utterance: Utterance) -> bool:
    # English→English is not translation retrieval; that language is scored by audio→text.
    return bool(clean(utterance.translation)) and not utterance.lang.startswith("en_")


def _roles(utterances: Sequence[Utterance], languages: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Role of each language, from the languages of each role."""
    roles = {lang: role for role, langs in languages.items() for lang in langs}
    several = Counter(lang for langs in languages.values() for lang in set(langs))
    if both := sorted(lang for lang, times in several.items() if times > 1):
        raise DataError(f"languages {both} are listed in several of {', '.join(languages)}; keep each in one list")
    spoken = {u.lang for u in utterances}
    if unknown := sorted(spoken - set(roles)):
        raise DataError(f"languages {unknown} are in none of {', '.join(languages)}; add them to one list or drop them")
    if silent := sorted(set(roles) - spoken):
        raise DataError(f"languages {silent} have no recordings here; take them out of the lists")
    if not roles:
        raise DataError("0 utterances to evaluate; give at least one recording")
    splits = sorted({u.split for u in utterances})
    if len(splits) > 1:
        raise DataError(f"utterances of splits {splits} together; evaluate one split at a time")
    if repeated := [id_ for id_, times in Counter(u.id for u in utterances).items() if times > 1]:
        raise DataError(
            f"{len(repeated)} utterance ids occur more than once (first: {repeated[0]!r}); make them unique"
        )
    return roles


def _check_vectors(what: str, vectors: np.ndarray, rows: int) -> None:
    if vectors.ndim != 2 or len(vectors) != rows:
        raise DataError(f"{what} vectors have shape {vectors.shape}; expected ({rows}, dim), one row for each item")


def _rows(what: str, names: Sequence, vectors: np.ndarray) -> dict:
    """Row of each unique name."""
    _check_vectors(what, np.asarray(vectors), len(names))
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        repeated = Counter(names).most_common(1)[0][0]
        raise DataError(f"{what}: {repeated!r} occurs more than once after NFC and strip; make the list unique")
    return rows


def _lookup(rows: dict, names: Sequence, what: str, maker: str) -> np.ndarray:
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(f"{what}: no vector for {missing[0]!r}; make the list with protocol.{maker}(utterances)")
    return np.array([rows[name] for name in names])
