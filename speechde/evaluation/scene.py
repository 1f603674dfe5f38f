"""What baselines are run on, and how their answers become rows of ``metrics.json``.

A baseline sees a :class:`Scene` and returns an :class:`Answer`, a way to rank the same galleries. It is scored by the
evaluator that scored the model, and every row has the model's lead over the baseline, with the interval of the paired
bootstrap over sentences (``compare``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from speechde.checkpoint.folder import TrainedModel, model_folder
from speechde.conditions import CLEAN, Condition
from speechde.errors import ConfigError
from speechde.evaluation import metrics as m
from speechde.evaluation import retrieval
from speechde.evaluation.retrieval import COMMON, Ranking, Remembered, Results, Retrieval
from speechde.evaluation.speech import ROLES
from speechde.evaluation.transcripts import Transcriber, Transcripts, transcribe_clips
from speechde.types import Item, Text, Utterance
from speechde.weights import resolve

EMBEDDING = "embedding for baselines"  # label of the progress
AVERAGED = ("recall@1", "recall@5", "mrr", "chance")


@dataclass
class Request:
    """Which baselines to run, and what some of them need.

    Args:
        names: of ``BASELINES``, or ``cascade:MODEL``, ``rival:MODEL`` and ``run:PATH``.
        asr: the Whisper model of the cascades, as ``weights.resolve`` takes it.
        frames: gives the encoder's frames of the utterances by id (those of a continuous model are its items).
        items_of: gives the stored items of the utterances as a trained model reads them, under a condition.
        conditions: beside clean, that all is asked again under.
        initial: settings of the model before training, of the group ``model`` of the configuration; None: not known.
    """

    names: Sequence[str]
    asr: str
    cache: Path
    frames: Callable[[], Mapping[str, np.ndarray]]
    items_of: Callable[[TrainedModel, Condition], Mapping[str, np.ndarray]]
    initial: Mapping | None = None
    seed: int = 0
    conditions: Sequence[Condition] = ()

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
class Scene:
    """What has been evaluated: the tasks, the model with its vectors and its results; what baselines share.

    ``ranks`` are those of each that answered, the model first, by name and language.
    """

    trained: TrainedModel
    utterances: Sequence[Utterance]
    items: Mapping[str, np.ndarray]
    tasks: Sequence[Retrieval]
    embed: Remembered  # of the model
    results: Results  # of the model
    request: Request
    condition: Condition = CLEAN
    notes: list[str] = field(default_factory=list)
    ranks: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def of(self, direction: str) -> list[Retrieval]:
        """The tasks of one direction, in the order of the protocol."""
        return [replace(task, scores=COMMON) for task in self.tasks if task.name == direction]

    @cached_property
    def recordings(self) -> dict[str, Utterance]:
        """By id, the id of their items."""
        return {u.id: u for u in self.utterances}

    @cached_property
    def transcripts(self) -> Transcripts:
        """Of all recordings, by ``request.asr``."""
        transcriber = Transcriber(resolve(self.request.asr))
        made = transcribe_clips(self.utterances, self.durations, transcriber, self.request.cache, self.condition)
        if made.detected:
            self.notes.append(f"the cascade detected the language of {', '.join(made.detected)}: it cannot be given")
        return made

    @cached_property
    def durations(self) -> dict[str, float]:
        """Seconds of each clip by id; its length in items where the store does not know them."""
        known = getattr(self.items, "seconds", None)
        return known or {u.id: float(len(self.items[u.id])) for u in self.utterances}

    def seconds_to_encode(self, items: Mapping[str, np.ndarray] | None = None) -> float:
        """Mean seconds that the speech encoder took for a clip when stored items were made; 0 where it is not known."""
        speed = getattr(self.items if items is None else items, "speed", None)
        return float(np.mean([self.durations[u.id] for u in self.utterances])) / speed if speed else 0.0

    def note_cut(self, count: int, tokens: int) -> None:
        """Note that texts which a baseline reads were cut."""
        if count:
            self.notes.append(f"{count} texts that baselines read were cut at {tokens} tokens")


@dataclass
class Answer:
    """How a baseline ranks the gallery of a task.

    ``seconds`` are those of all queries together, from the clip to what is ranked; what is computed once for a gallery
    is not counted.
    """

    rank: Callable[[Retrieval], Ranking]
    seconds: float = 0.0
    direction: str = "audio_to_text"


def spoken_as(task: Retrieval, texts: Mapping[str, str]) -> Retrieval:
    """The task whose recordings are replaced by texts, by the id of the recording."""
    return replace(task, queries=[_said(query, texts[query.id]) for query in task.queries])


def _said(query: Item, text: str) -> Item:
    return Item(Text(text), id=query.id, lang=query.lang, meaning=query.meaning)


def score(scene: Scene, name: str, answer: Answer) -> dict:
    """Rows by language and means by role of one answer, with the model's lead over it; its ranks go to the scene."""
    tasks = scene.of(answer.direction)
    start = time.perf_counter()
    rankings = {task.subset: answer.rank(task) for task in tasks}
    seconds = answer.seconds + time.perf_counter() - start
    results = retrieval.score(tasks, lambda task: rankings[task.subset], seed=scene.request.seed)
    rows = results.rows[answer.direction]
    for row in rows.values():
        del row["gallery"]
    macro = {}
    for role in ROLES:
        if any(row["role"] == role for row in rows.values()):
            macro[role] = results.mean(answer.direction, AVERAGED, lambda lang, row, role=role: row["role"] == role)
    queries = sum(row["queries"] for row in rows.values())
    output = {"direction": answer.direction, "seconds_per_query": seconds / queries, "per_language": rows, **macro}
    scene.ranks[name] = results.ranks[answer.direction]
    add_paired(output, "lead", tasks, scene.results.ranks[answer.direction], scene.ranks[name], scene.request.seed)
    return output


def add_paired(
    output: dict,
    key: str,
    tasks: Sequence[Retrieval],
    ranks: Mapping[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    seed: int,
) -> None:
    """Add to the rows and means of an answer, as ``key``, recall@1 of ``ranks`` minus that of ``others``.

    Both are ranks of the queries of ``tasks``, by language. ``key_ci95`` is the interval of the paired bootstrap.
    """
    rows, means = output["per_language"], {}
    for task in tasks:
        lead = (ranks[task.subset] == 1).astype(float) - (others[task.subset] == 1)
        means[task.subset] = m.bootstrap_means(lead, task.resample, seed=retrieval.subset_seed(seed, task.subset))
        rows[task.subset] |= {key: float(lead.mean()), f"{key}_ci95": list(m.interval(means[task.subset]))}
    for role in ROLES:
        if langs := [lang for lang, row in rows.items() if row["role"] == role]:
            interval = m.interval(np.mean([means[lang] for lang in langs], axis=0))
            output[role] |= {key: float(np.mean([rows[lang][key] for lang in langs])), f"{key}_ci95": list(interval)}
