"""What baselines are run on, and how their answers become rows of ``metrics.json``.

A baseline sees a :class:`Scene` and returns an :class:`Answer`, the rank of every query. Ranks become rows as those of
the model do (``protocol``), and every row has the model's lead over the baseline, with the interval of the paired
bootstrap over sentences (``compare``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np

from speechde.errors import ConfigError
from speechde.evaluation import metrics as m
from speechde.evaluation import protocol
from speechde.evaluation.transcripts import Transcriber, Transcripts, transcribe_clips
from speechde.export.folder import TrainedModel, model_folder
from speechde.models.embed import embed_speech, embed_texts
from speechde.types import Utterance
from speechde.weights import resolve

AVERAGED = ("recall@1", "recall@5", "mrr", "chance")


@dataclass
class Request:
    """Which baselines to run, and what some of them need.

    Args:
        names: of ``BASELINES``, or ``cascade:MODEL``, ``rival:MODEL`` and ``run:PATH``.
        asr: the Whisper model of the cascades, as ``weights.resolve`` takes it.
        frames: gives the encoder's frames of the utterances by id (those of a continuous model are its items).
        items_of: gives the stored items of the utterances as another trained model reads them.
        initial: settings of the model before training, of the group ``model`` of the configuration; None: not known.
    """

    names: Sequence[str]
    asr: str
    cache: Path
    frames: Callable[[], Mapping[str, np.ndarray]]
    items_of: Callable[[TrainedModel], Mapping[str, np.ndarray]]
    initial: Mapping | None = None
    seed: int = 0

    def __post_init__(self) -> None:  # before the evaluation, and not after it
        if "untrained" in self.names and self.initial is None:
            raise ConfigError(
                "eval.baselines: 'untrained' needs the configuration that the model was trained with; keep model/ in "
                "its run directory, beside results/metrics.json, or leave 'untrained' out"
            )
        for kind, _, path in (name.partition(":") for name in self.names):
            if kind == "run" and not (model_folder(path) / "speechde.json").is_file():
                raise ConfigError(f"eval.baselines: {path!r} holds no trained model; give run:runs/RECIPE/NAME")


class Skipped(Exception):
    """The data have nothing that a baseline could be scored on; the message says what is missing."""


@dataclass
class Language:
    """Queries and gallery of one language, as positions."""

    lang: str
    rows: np.ndarray  # (n,) of the utterances
    items: np.ndarray  # (m,) of the texts
    sentences: np.ndarray  # (n,) of the texts: the correct one of each query


@dataclass
class Scene:
    """What has been evaluated: recordings, their texts, the model and its embeddings; what baselines share."""

    trained: TrainedModel
    utterances: Sequence[Utterance]
    items: Mapping[str, np.ndarray]
    texts: Sequence[tuple[str, str]]
    vectors: np.ndarray  # of the texts
    records: Sequence[Mapping]  # of the model, one per query
    roles: Mapping[str, str]
    request: Request
    notes: list[str] = field(default_factory=list)

    @cached_property
    def languages(self) -> list[Language]:
        """In the order of the protocol."""
        row = {text: i for i, text in enumerate(self.texts)}
        own = np.array([row[u.lang, protocol.clean(u.text)] for u in self.utterances])
        codes = np.array([u.lang for u in self.utterances])
        rows = {lang: np.flatnonzero(codes == lang) for lang in sorted(set(codes))}
        return [Language(lang, at, np.unique(own[at]), own[at]) for lang, at in rows.items()]

    @cached_property
    def own_ranks(self) -> dict[tuple[str, str], dict[str, int]]:
        """Ranks of the model's queries by id, for each direction and language."""
        ranks: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for record in self.records:
            ranks[record["direction"], record["lang"]][record["id"]] = record["rank"]
        return ranks

    @cached_property
    def transcripts(self) -> Transcripts:
        """Of all recordings, by ``request.asr``."""
        transcriber = Transcriber(resolve(self.request.asr))
        made = transcribe_clips(self.utterances, self.durations, transcriber, self.request.cache)
        if made.detected:
            self.notes.append(f"the cascade detected the language of {', '.join(made.detected)}: it cannot be given")
        return made

    @cached_property
    def durations(self) -> dict[str, float]:
        """Seconds of each clip by id; its length in items where the store does not know them."""
        known = getattr(self.items, "seconds", None)
        return known or {u.id: float(len(self.items[u.id])) for u in self.utterances}

    @property
    def encoder_seconds(self) -> float:
        """Mean seconds that the speech encoder took for a clip when its frames were made; 0 where it is not known."""
        return self.seconds_to_encode(self.items)

    def seconds_to_encode(self, items: Mapping[str, np.ndarray]) -> float:
        """``encoder_seconds`` of other stored items."""
        speed = getattr(items, "speed", None)
        return float(np.mean([self.durations[u.id] for u in self.utterances])) / speed if speed else 0.0

    def speech(self, trained: TrainedModel, items: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """``(n, dim)`` embeddings of the recordings; ``items`` are those of a model that reads others."""
        stored = self.items if items is None else items
        clips, langs = [stored[u.id] for u in self.utterances], [u.lang for u in self.utterances]
        return embed_speech(trained.model, trained.prompt, clips, langs)

    def text_vectors(self, trained: TrainedModel, texts: Sequence[tuple[str, str]]) -> np.ndarray:
        """``(n, dim)`` embeddings of ``(lang, text)`` pairs."""
        cut: list[tuple[str | None, str]] = []
        ids = [trained.prompt.text_ids(text, lang, cut.append) for lang, text in texts]
        self.note_cut(len(cut), trained.prompt.max_tokens)
        return embed_texts(trained.model, ids)

    def note_cut(self, count: int, tokens: int) -> None:
        """Note that texts which a baseline reads were cut."""
        if count:
            self.notes.append(f"{count} texts that baselines read were cut at {tokens} tokens")


@dataclass
class Answer:
    """Ranks of every query by language, in the order of the utterances.

    ``seconds`` are from clip to ranks, of all queries together. ``queries`` are positions of the utterances that ask,
    by language, and ``chance`` is theirs; None where every recording asks for its transcript.
    """

    ranks: dict[str, np.ndarray]
    seconds: float
    direction: str = "audio_to_text"
    queries: dict[str, list[int]] | None = None
    chance: dict[str, float] | None = None


def score(scene: Scene, answer: Answer) -> dict:
    """Rows by language and means by role of one answer, with the model's lead over it."""
    rows: dict[str, dict] = {}
    means: dict[str, np.ndarray] = {}
    leads: dict[str, np.ndarray] = {}
    for lang in scene.languages:
        if lang.lang not in answer.ranks:
            continue
        at = lang.rows if answer.queries is None else np.array(answer.queries[lang.lang])
        sentences = lang.sentences[np.searchsorted(lang.rows, at)]
        ranks, own = answer.ranks[lang.lang], scene.own_ranks[answer.direction, lang.lang]
        lead = np.array([own[scene.utterances[i].id] == 1 for i in at], float) - (ranks == 1)
        seed = scene.request.seed, crc32(lang.lang.encode())
        means[lang.lang] = m.bootstrap_means(ranks == 1, sentences, seed=seed)
        leads[lang.lang] = m.bootstrap_means(lead, sentences, seed=seed)
        rows[lang.lang] = {
            "role": scene.roles[lang.lang],
            "queries": len(ranks),
            "recall@1": m.recall_at(ranks, 1),
            "ci95": list(m.interval(means[lang.lang])),
            "recall@5": m.recall_at(ranks, 5),
            "mrr": m.mean_reciprocal_rank(ranks),
            "chance": m.chance_recall(sentences, lang.items) if answer.chance is None else answer.chance[lang.lang],
            "lead": float(lead.mean()),
            "lead_ci95": list(m.interval(leads[lang.lang])),
        }
    macro = {}
    for role in dict.fromkeys(row["role"] for row in rows.values()):
        langs = [lang for lang, row in rows.items() if row["role"] == role]
        macro[role] = protocol.macro_mean(rows, means, langs, [*AVERAGED, "lead"])
        macro[role]["lead_ci95"] = list(m.interval(np.mean([leads[lang] for lang in langs], axis=0)))
    queries = sum(row["queries"] for row in rows.values())
    return {
        "direction": answer.direction,
        "seconds_per_query": answer.seconds / queries,
        "per_language": rows,
        **{role: macro[role] for role in protocol.ROLES if role in macro},
    }
