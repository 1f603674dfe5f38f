"""Speech and text as retrieval: recordings of one split become the tasks of each language (``docs/protocol.md``).

A recording asks for its transcript among the unique transcripts of its language, and the other way round; where the
corpus has translations, for the English one; where it names speakers, for another speaker's recording of the sentence.
What comes back are the numbers of ``metrics.json``: a row per language, and means of each role and region.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from speechde.errors import DataError
from speechde.evaluation import metrics as m
from speechde.evaluation.retrieval import (
    COMMON,
    Embed,
    Labels,
    Ranking,
    Results,
    Retrieval,
    Score,
    evaluate,
    subset_seed,
)
from speechde.languages import LANGUAGES
from speechde.types import Audio, Item, Text, Utterance

DIRECTIONS = ("audio_to_text", "text_to_audio", "audio_to_english_text")
# in the output only where they can be scored
MORE_DIRECTIONS = ("audio_to_audio", "text_to_english_text")
ROLES = ("seen", "synthetic_only", "zero_shot", "proxy")
ALWAYS = ("seen", "zero_shot")  # the others are in the output only when there are such languages
ENGLISH = "en_us"
# The smallest FLEURS test gallery (om_et): the largest size that every one of its languages can be scored at.
FIXED_GALLERY_SIZE = 36
FIXED_GALLERY_DRAWS = 100
AVERAGED = ("recall@1", "recall@5", "mrr", "wer", "bleu", "chance", "recall@1_fixed")
QUANTILES = (5, 50, 95)  # of lengths, in per cent
# numbers that not every direction has
ONLY = {
    "wer": ("audio_to_text",),
    "bleu": ("audio_to_english_text", "text_to_english_text"),
    "recall@1_fixed": (*DIRECTIONS, "text_to_english_text"),
}


def clean(text: str) -> str:
    """Two transcripts are one gallery item when they are equal after NFC and stripping outer whitespace."""
    return unicodedata.normalize("NFC", text).strip()


def sample_sentences(utterances: Sequence[Utterance], per_language: int | None, seed: int) -> list[Utterance]:
    """All recordings of ``per_language`` transcripts of each language, in their order; None keeps everything.

    Which are drawn depends on ``seed`` and sentence ids alone, so languages of a parallel corpus get the same sentences
    where they have them, and a clip more in the corpus exchanges a sentence at most.
    """
    if per_language is None:
        return list(utterances)
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for u in utterances:
        place, texts = hashlib.sha256(f"{seed}:{u.sentence_id}".encode()).hexdigest(), places[u.lang]
        texts[clean(u.text)] = min(place, texts.get(clean(u.text), place))
    kept = {lang: set(sorted(texts, key=texts.__getitem__)[:per_language]) for lang, texts in places.items()}
    return [u for u in utterances if clean(u.text) in kept[u.lang]]


def sample_counts(whole: Sequence[Utterance], per_language: int | None) -> dict[str, dict]:
    """What is recorded beside the counts of a sample: its size, and what it was drawn from; nothing without one."""
    if per_language is None:
        return {}
    of = {f"of {key}": value for key, value in data_counts(whole).items() if key in ("recordings", "transcripts")}
    return {"sample": {"sentences per language": per_language, **of}}


def data_counts(utterances: Sequence[Utterance], lengths: Mapping[str, float] | None = None) -> dict:
    """What was evaluated: ``languages``, ``recordings``, unique ``transcripts``, and ``synthetic`` recordings.

    ``lengths`` is in seconds, by id. Phrases of a second and sentences of ten are other tasks, so that the quantiles
    (``QUANTILES``, in per cent) of those that are known are told too: ``seconds``.
    """
    known = [lengths[u.id] for u in utterances if u.id in lengths] if lengths else []
    return {
        "languages": len({u.lang for u in utterances}),
        "recordings": len(utterances),
        "transcripts": len({(u.lang, clean(u.text)) for u in utterances}),
        "synthetic": sum(u.synthetic for u in utterances),
        **({"seconds": {f"{q} %": round(float(np.percentile(known, q)), 2) for q in QUANTILES}} if known else {}),
    }


def speech_tasks(utterances: Sequence[Utterance], roles: Mapping[str, Sequence[str]]) -> list[Retrieval]:
    """The tasks of one split: directions in the order of ``DIRECTIONS`` and ``MORE_DIRECTIONS``, languages by code.

    Args:
        utterances: recordings of one split.
        roles: languages of each of ``ROLES``; together those of the utterances.

    Raises:
        DataError: languages or splits do not fit together, ids repeat, or there is no recording.
    """
    role_of = _roles(utterances, roles)
    # one item for each translation, in the order of the corpus, whichever languages share it
    wanted = dict.fromkeys(clean(u.translation) for u in utterances if _has_translation(u))
    english = {text: Item(Text(text), id=text, lang=ENGLISH, meaning=text) for text in wanted}
    by_lang: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_lang[utterance.lang].append(utterance)
    tasks = [task for lang in sorted(by_lang) for task in _language_tasks(lang, role_of[lang], by_lang[lang], english)]
    order = {direction: place for place, direction in enumerate((*DIRECTIONS, *MORE_DIRECTIONS))}
    return sorted(tasks, key=lambda task: order[task.name])


def evaluate_speech(
    utterances: Sequence[Utterance],
    embed: Embed,
    *,
    seen: Sequence[str],
    synthetic_only: Sequence[str] = (),
    zero_shot: Sequence[str] = (),
    proxy: Sequence[str] = (),
    seed: int = 0,
) -> tuple[dict, list[dict]]:
    """Score one split in all directions.

    Args:
        embed: items and their role → vectors; recordings go by the id of their utterance.
        seen: languages that were trained on.
        synthetic_only: languages that were trained on as synthetic speech alone; averaged apart.
        zero_shot: languages that were not.
        proxy: languages that were not, whose synthetic speech another language's voice reads; averaged apart.
        seed: of the bootstrap and of the fixed galleries.

    Returns:
        The metrics (see :func:`speech_metrics`), and one record per query: ``direction``, ``lang``, ``id``,
        ``sentence``, ``rank``, ``retrieved``. A recording goes by its id, a text by itself; ``sentence`` is the
        transcript of the query. The retrieved item is an incorrect one when it ties with the correct one.

    Raises:
        DataError: languages, splits or ids do not fit together.
    """
    roles = {"seen": seen, "synthetic_only": synthetic_only, "zero_shot": zero_shot, "proxy": proxy}
    tasks = speech_tasks(utterances, roles)
    tasks, size = scored(tasks, seed)
    results = evaluate(tasks, embed, seed=seed)
    return speech_metrics(tasks, results, size, seed), results.records


def scored(tasks: Sequence[Retrieval], seed: int) -> tuple[list[Retrieval], int]:
    """The tasks with the columns that only some directions have, and the size of the fixed galleries."""
    groups = [len(np.unique(task.relevance.gallery)) for task in tasks if task.name in DIRECTIONS]
    size = min(FIXED_GALLERY_SIZE, *groups)
    columns: dict[str, Score] = {
        "recall@1_fixed": _fixed_gallery(size, seed),
        "wer": _of_texts(lambda truth, found, lang: m.word_error_rate(truth, found, lang)),
        "bleu": _of_texts(lambda truth, found, lang: m.bleu(truth, found)),
    }
    out = []
    for task in tasks:
        own = {name: column for name, column in columns.items() if task.name in ONLY[name]}
        out.append(replace(task, scores={**COMMON, **own}))
    return out, size


def speech_metrics(tasks: Sequence[Retrieval], results: Results, size: int, seed: int) -> dict:
    """The evaluation's part of ``metrics.json``: a key for each direction, ``fixed_gallery``, ``bleu_signature``."""
    roles = {task.role for task in tasks}
    used = [role for role in ROLES if role in ALWAYS or role in roles]
    output: dict = {
        "fixed_gallery": {"size": size, "draws": FIXED_GALLERY_DRAWS, "seed": seed},
        "bleu_signature": m.bleu_signature(),
    }
    for direction in (*DIRECTIONS, *(name for name in MORE_DIRECTIONS if name in results.rows)):
        rows = results.rows.get(direction, {})
        keys = [key for key in AVERAGED if direction in ONLY.get(key, (direction,))]

        def macro(role: str, region: str | None = None, *, name=direction, keys=keys) -> dict:
            return results.mean(name, keys, lambda code, row: row["role"] == role and region in (None, _region(code)))

        regions = sorted({_region(lang) for lang in rows})
        output[direction] = {
            "per_language": rows,
            "per_region": {region: {role: macro(role, region) for role in used} for region in regions},
            **{role: macro(role) for role in used},
        }
    return output


def _language_tasks(lang: str, role: str, spoken: Sequence[Utterance], english: dict[str, Item]) -> list[Retrieval]:
    """Every direction of one language; ``english`` are the items of all translations."""
    said = [clean(u.text) for u in spoken]
    number: dict[str, int] = {}
    own = np.array([number.setdefault(text, len(number)) for text in said])
    texts = [Item(Text(text), id=text, lang=lang, meaning=text) for text in number]
    clips = [Item(Audio(u.audio), id=u.id, lang=lang, meaning=text) for u, text in zip(spoken, said, strict=True)]
    rows = np.arange(len(texts))

    def task(name: str, queries, gallery, labels: Labels, resample: np.ndarray) -> Retrieval:
        return Retrieval(name, lang, role, queries, gallery, labels, resample)

    out = [
        task("audio_to_text", clips, texts, Labels(own, rows), own),
        task("text_to_audio", texts, clips, Labels(rows, own), rows),
    ]
    asked, known, voice = across_speakers(own, [u.speaker for u in spoken])
    if len(asked):
        labels = Labels(own[asked], own[known], (voice[asked], voice[known]))
        out.append(task("audio_to_audio", _take(clips, asked), _take(clips, known), labels, own[asked]))
    translated = np.flatnonzero([_has_translation(u) for u in spoken])
    if len(translated):
        number = {text: place for place, text in enumerate(english)}
        target = np.array([number[clean(spoken[row].translation)] for row in translated])
        places = np.unique(target)
        answers = _take(list(english.values()), places)
        sentences, first = np.unique(own[translated], return_index=True)  # of several translations the first
        labels = Labels(target, places)
        out.append(task("audio_to_english_text", _take(clips, translated), answers, labels, own[translated]))
        labels = Labels(target[first], places)
        out.append(task("text_to_english_text", _take(texts, sentences), answers, labels, sentences))
    return out


def _take(items: Sequence[Item], rows: np.ndarray) -> list[Item]:
    return [items[row] for row in rows]


def _fixed_gallery(size: int, seed: int) -> Score:
    def column(task: Retrieval, ranking: Ranking) -> float:
        labels = task.relevance.query, task.relevance.gallery
        seeded = subset_seed(seed, task.subset)
        return m.fixed_gallery_recall(*ranking.vectors, *labels, size, FIXED_GALLERY_DRAWS, seeded)

    return column


def _of_texts(measure: Callable[[list[str], list[str], str], float]) -> Score:
    """A measure of the retrieved texts against the correct ones."""

    def column(task: Retrieval, ranking: Ranking) -> float:
        place = {label: item for item, label in enumerate(task.relevance.gallery)}
        truth = [task.gallery[place[label]].id for label in task.relevance.query]
        return measure(truth, [task.gallery[item].id for item in ranking.retrieved], task.subset)

    return column


def _region(lang: str) -> str:
    return LANGUAGES[lang].region if lang in LANGUAGES else "other"


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
