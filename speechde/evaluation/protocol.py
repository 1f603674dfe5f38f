"""The evaluation protocol: from embeddings and utterances to the numbers of ``metrics.json`` (``docs/protocol.md``).

No model is seen here, so every system (dual encoder, baseline, cascade) is scored by the same code. Each language is
scored alone against its own gallery, then languages are averaged (macro), seen and zero-shot apart. Random draws are
seeded by language, so a language keeps its interval and its fixed galleries whichever other languages are evaluated.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np

from speechde.errors import DataError
from speechde.evaluation import metrics as m
from speechde.languages import LANGUAGES
from speechde.progress import Advance, progress
from speechde.types import Utterance

DIRECTIONS = ("audio_to_text", "text_to_audio", "audio_to_english_text")
# in the output only where they can be scored
MORE_DIRECTIONS = ("audio_to_audio", "text_to_english_text")
ROLES = ("seen", "zero_shot", "proxy")  # the last is in the output only when there are such languages
# The smallest FLEURS test gallery (om_et): the largest size that every one of its languages can be scored at.
FIXED_GALLERY_SIZE = 36
FIXED_GALLERY_DRAWS = 100
AVERAGED = ("recall@1", "recall@5", "mrr", "wer", "bleu", "chance", "recall@1_fixed")
# numbers that not every direction has
ONLY = {
    "wer": ("audio_to_text",),
    "bleu": ("audio_to_english_text", "text_to_english_text"),
    "recall@1_fixed": (*DIRECTIONS, "text_to_english_text"),
}


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
class _Side:
    """Queries or items of one language."""

    vectors: np.ndarray  # (n, dim)
    group: np.ndarray  # (n,)
    sentences: np.ndarray  # (n,) rows of the texts
    names: list[str]

    def take(self, rows: np.ndarray) -> _Side:
        return _Side(self.vectors[rows], self.group[rows], self.sentences[rows], [self.names[row] for row in rows])


@dataclass
class _Task:
    """One language in one direction; query and item labels are equal where the item is correct."""

    lang: str
    queries: _Side
    items: _Side
    apart: m.Apart = None  # speaker of each query and item: nobody is looked for among own recordings


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
        The metrics (a key for each direction, ``fixed_gallery``, ``bleu_signature``) and one record per query:
        ``direction``, ``lang``, ``id``, ``sentence``, ``rank``, ``retrieved``. A recording goes by its id, a text by
        itself; ``sentence`` is the transcript of the query. The retrieved item is an incorrect one when it ties with
        the correct one.

    Raises:
        DataError: shapes, languages, splits or texts do not fit together.
    """
    speech, text_vectors = np.asarray(speech, np.float32), np.asarray(text_vectors, np.float32)
    roles = _roles(utterances, {"seen": seen, "zero_shot": zero_shot, "proxy": proxy})
    _check_vectors("speech", speech, len(utterances))
    text_row = _rows("texts", [(lang, clean(text)) for lang, text in texts], text_vectors)
    english_row = {} if english is None else _rows("english", [clean(text) for text in english[0]], english[1])
    names = [clean(text) for _, text in texts]
    by_lang = defaultdict(list)
    for row, utterance in enumerate(utterances):
        by_lang[utterance.lang].append(row)

    tasks: dict[str, list[_Task]] = {direction: [] for direction in (*DIRECTIONS, *MORE_DIRECTIONS)}
    for lang in sorted(by_lang):
        rows = np.array(by_lang[lang])
        spoken = [utterances[row] for row in rows]
        own = _lookup(text_row, [(lang, clean(u.text)) for u in spoken], "texts", "unique_texts")
        items = np.unique(own)
        audio = _Side(speech[rows], own, own, [u.id for u in spoken])
        text = _Side(text_vectors[items], items, items, [names[item] for item in items])
        tasks["audio_to_text"].append(_Task(lang, audio, text))
        tasks["text_to_audio"].append(_Task(lang, text, audio))
        asked, known, voice = across_speakers(own, [u.speaker for u in spoken])
        if len(asked):
            apart = voice[asked], voice[known]
            tasks["audio_to_audio"].append(_Task(lang, audio.take(asked), audio.take(known), apart))
        translated = np.flatnonzero([_has_translation(u) for u in spoken])
        if english is not None and len(translated):
            wanted = [clean(spoken[row].translation) for row in translated]
            target = _lookup(english_row, wanted, "english", "unique_translations")
            items = np.unique(target)
            vectors = np.asarray(english[1], np.float32)[items]
            answers = _Side(vectors, items, items, [clean(english[0][item]) for item in items])
            audio = replace(audio.take(translated), group=target)
            tasks["audio_to_english_text"].append(_Task(lang, audio, answers))
            _, first = np.unique(audio.sentences, return_index=True)  # of several translations the first
            source = text.take(np.searchsorted(text.sentences, audio.sentences[first]))
            tasks["text_to_english_text"].append(_Task(lang, replace(source, group=target[first]), answers))

    groups = [len(np.unique(task.items.group)) for each in DIRECTIONS for task in tasks[each]]
    size = min(FIXED_GALLERY_SIZE, *groups)
    output: dict = {
        "fixed_gallery": {"size": size, "draws": FIXED_GALLERY_DRAWS, "seed": seed},
        "bleu_signature": m.bleu_signature(),
    }
    records: list[dict] = []
    with progress("scoring", sum(map(len, tasks.values())), "rankings") as advance:
        for direction, each in tasks.items():
            if each or direction in DIRECTIONS:
                output[direction] = _score_direction(direction, each, names, roles, size, seed, records, advance)
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
    direction: str,
    tasks: list[_Task],
    names: list[str],
    roles: dict[str, str],
    size: int,
    seed: int,
    records: list[dict],
    advance: Advance,
) -> dict:
    """Rows per language and macro rows of one direction; appends one record per query."""
    keys = [key for key in AVERAGED if direction in ONLY.get(key, (direction,))]
    rows: dict[str, dict] = {}
    means: dict[str, np.ndarray] = {}
    for task in tasks:
        lang_seed = (seed, crc32(task.lang.encode()))
        groups = (task.queries.group, task.items.group)
        arrays = (task.queries.vectors, task.items.vectors, *groups)
        ranks, retrieved = m.rank_and_retrieve(*arrays, apart=task.apart)
        means[task.lang] = m.bootstrap_means(ranks <= 1, task.queries.sentences, seed=lang_seed)
        found = [task.items.names[item] for item in retrieved]
        rows[task.lang] = row = {
            "role": roles[task.lang],
            "queries": len(ranks),
            "gallery": len(task.items.names),
            "chance": m.chance_recall(*groups, apart=task.apart),
            "recall@1": m.recall_at(ranks, 1),
            "ci95": list(m.interval(means[task.lang])),
            "recall@5": m.recall_at(ranks, 5),
            "mrr": m.mean_reciprocal_rank(ranks),
        }
        if "recall@1_fixed" in keys:
            row["recall@1_fixed"] = m.fixed_gallery_recall(*arrays, size, FIXED_GALLERY_DRAWS, lang_seed)
        if "wer" in keys or "bleu" in keys:
            position = {group: item for item, group in enumerate(task.items.group)}
            truth = [task.items.names[position[group]] for group in task.queries.group]
            if "wer" in keys:
                row["wer"] = m.word_error_rate(truth, found, task.lang)
            else:
                row["bleu"] = m.bleu(truth, found)
        records += [
            {
                "direction": direction,
                "lang": task.lang,
                "id": task.queries.names[query],
                "sentence": names[task.queries.sentences[query]],
                "rank": int(rank),
                "retrieved": found[query],
            }
            for query, rank in enumerate(ranks)
        ]
        advance(1)

    def macro(role: str, region: str | None = None) -> dict:
        langs = [lang for lang in rows if roles[lang] == role and region in (None, _region(lang))]
        return macro_mean(rows, means, langs, keys)

    regions = sorted({_region(lang) for lang in rows})
    used = [role for role in ROLES if role != "proxy" or role in roles.values()]
    return {
        "per_language": rows,
        "per_region": {region: {role: macro(role, region) for role in used} for region in regions},
        **{role: macro(role) for role in used},
    }


def _region(lang: str) -> str:
    return LANGUAGES[lang].region if lang in LANGUAGES else "other"


def macro_mean(rows: dict[str, dict], means: dict[str, np.ndarray], langs: list[str], keys: list[str]) -> dict:
    """Mean of ``keys`` over the rows of ``langs``, with the interval of their bootstrap ``means``.

    The numbers are None when there are no languages.
    """
    if not langs:
        return {"languages": 0, "ci95": None, **dict.fromkeys(keys), "recall@1_micro": None}
    # Languages are fixed and sentences random: the interval speaks of other sentences, not of other languages.
    low_high = m.interval(np.mean([means[lang] for lang in langs], axis=0))
    averages = {key: float(np.mean([rows[lang][key] for lang in langs])) for key in keys}
    queries = [rows[lang]["queries"] for lang in langs]
    averages["recall@1_micro"] = float(np.average([rows[lang]["recall@1"] for lang in langs], weights=queries))
    return {"languages": len(langs), "ci95": list(low_high), **averages}


def across_speakers(sentences: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which recordings of a language ask, and are asked for, across speakers.

    Args:
        sentences: ``(n,)`` label of the sentence of each recording.
        speakers: of each recording; empty where it is not known.

    Returns:
        Positions of the recordings whose sentence another known speaker has recorded too (none: not scored), of all
        recordings of known speakers, and ``(n,)`` labels of the speakers.
    """
    voices, voice = np.unique(speakers, return_inverse=True)
    known = np.flatnonzero(voices[voice] != "")
    several = defaultdict(set)
    for row in known:
        several[sentences[row]].add(voice[row])
    return np.array([row for row in known if len(several[sentences[row]]) > 1], int), known, voice


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
