"""Evaluate a trained model on utterances and write the results."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from speechde.checkpoint.encoders import check_encoder, encoder_folder
from speechde.checkpoint.folder import TrainedModel
from speechde.conditions import CLEAN, Condition
from speechde.config import FrontendConfig, RunConfig
from speechde.corpora.load import check_split
from speechde.evaluation.baselines import run_baselines
from speechde.evaluation.degraded import run_conditions
from speechde.evaluation.diagnostics import diagnose
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import QUERY, Remembered, evaluate
from speechde.evaluation.scene import Request, Scene
from speechde.evaluation.sizes import size_metrics
from speechde.evaluation.speech import scored, speech_metrics, speech_tasks
from speechde.features import sets as sets_of
from speechde.features.encoders import SpeechEncoder
from speechde.features.frames import Encode
from speechde.features.store import FeatureStore
from speechde.models.embed import IN_PARTS
from speechde.types import Corpus, Utterance

EMBEDDING = "embedding for evaluation"  # label of the progress
log = logging.getLogger(__name__)


def evaluate_model(
    trained: TrainedModel,
    items: Mapping[str, np.ndarray],
    utterances: Sequence[Utterance],
    *,
    roles: Mapping[str, Sequence[str]],
    seed: int = 0,
    baselines: Request | None = None,
) -> tuple[dict, list[dict]]:
    """Embed one split and score it; see ``speech.evaluate_speech`` for what comes back.

    The metrics have two keys more: ``diagnostics``, which :func:`write_results` writes to a file of its own, and
    ``noted``, what is unusual about clips and texts and how many it concerns, which it puts with ``data``. Those of a
    model that was trained at several sizes have ``sizes`` (``evaluation.sizes``).

    Args:
        roles: languages of each of ``speech.ROLES``; those without an utterance are passed over.
        items: stored speech items by utterance id; a store that knows the ``seconds`` of its clips has them used.
        baselines: what else answers the same queries, and the conditions under which all is asked again; the metrics
            then have ``baselines`` and ``conditions``.
    """
    present = {u.lang for u in utterances}
    roles = {role: [lang for lang in langs if lang in present] for role, langs in roles.items()}
    tasks, size = scored(speech_tasks(utterances, roles), seed)
    model, prompt = trained.model, trained.prompt
    cut: set[tuple[str | None, str]] = set()
    pieces: dict[str, int] = {}
    embed = Remembered(stored_embed(model, prompt, items, EMBEDDING, cut.add, pieces), symmetric=True)
    start = time.perf_counter()
    embed([query for task in tasks if task.name == "audio_to_text" for query in task.queries], QUERY)
    seconds_to_embed = time.perf_counter() - start
    results = evaluate(tasks, embed, seed=seed)
    metrics = speech_metrics(tasks, results, size, seed)
    noted = {IN_PARTS: sum(count > 1 for count in pieces.values()), f"text cut at {prompt.max_tokens} tokens": len(cut)}
    metrics["noted"] = {reason: count for reason, count in noted.items() if count}
    metrics["diagnostics"] = diagnose(tasks, embed, results, getattr(items, "seconds", None))
    if trained.settings.dims:
        options = {"normalise": model.normalise, "seed": seed}
        metrics["sizes"] = size_metrics(tasks, embed, results, trained.settings.dims, **options)
    if baselines and (baselines.names or baselines.conditions):
        scene = Scene(trained, utterances, items, tasks, embed, results, baselines)
        answers = run_baselines(scene, seconds_to_embed)
        if baselines.names:
            metrics["baselines"] = answers
        if baselines.conditions:
            metrics["conditions"] = run_conditions(scene, answers)
    return metrics, results.records


def roles_of(langs: Collection[str], record: Mapping[str, Any], corpus: Corpus) -> dict[str, list[str]]:
    """Languages by role, for ``evaluate_model``: what a model was trained on counts as heard, whatever a corpus says.

    Args:
        record: of the model's training (``Settings.training``).
    """
    found, left = {}, set(langs)
    heard = {"seen": record["seen"], "synthetic_only": record.get("seen_synthetic", ()), "proxy": corpus.proxy}
    for role, own in heard.items():
        found[role] = [lang for lang in dict.fromkeys(own) if lang in left]
        left -= {*own}
    named = [lang for lang in corpus.zero_shot if lang in left]
    return {**found, "zero_shot": [*named, *sorted(left - {*named})]}


def speech_reader(config: RunConfig, trained: TrainedModel) -> tuple[FrontendConfig, SpeechEncoder]:
    """The speech encoder of a trained model, and the settings of the frontend that name it."""
    speech = trained.settings.speech
    encoder_folder(speech)  # refuses what only the folder asks to have fetched
    frontend = replace(config.frontend, encoder=speech.encoder, layer=speech.layer)
    encoder = sets_of.build_encoder(frontend)
    check_encoder(speech, encoder)
    return frontend, encoder


def baseline_request(
    config: RunConfig, model: TrainedModel, encoder: SpeechEncoder, utterances: list[Utterance], cache: Path,
    initial: dict | None, encode: Encode | None = None,
) -> Request:  # fmt: skip
    """What is asked beside a model.

    Args:
        utterances: those of the evaluation, and clips that cannot be read among them: pieces are named by all.
        initial: that of ``Request``.
        encode: makes the model's own missing pieces; None: this process.
    """

    def items_of(other: TrainedModel, condition: Condition = CLEAN) -> FeatureStore:
        reader, make = encoder, encode
        if other is not model:
            check_split(config.data, other.settings.training)
            (_, reader), make = speech_reader(config, other), None
        items = other.settings.speech, reader, other.quantiser, utterances, cache
        return sets_of.evaluation_items(*items, make, condition)

    return Request(
        config.eval.baselines, config.eval.asr, cache, seed=config.seed, initial=initial, items_of=items_of,
        frames=lambda: sets_of.evaluation_items(model.settings.speech, encoder, None, utterances, cache),
        conditions=config.eval.degraded,
    )  # fmt: skip


def dropped_counts(corpus: Corpus, *stores: FeatureStore) -> dict[str, int]:
    """Reasons and counts of everything left out of a corpus, reading and decoding together."""
    return dict(Counter(d.reason for d in [*corpus.dropped, *(d for store in stores for d in store.dropped)]))
