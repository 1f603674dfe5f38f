"""Evaluate a trained model on utterances and write the results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np

from speechde.checkpoint.folder import TrainedModel
from speechde.evaluation.baselines import run_baselines
from speechde.evaluation.diagnostics import diagnose
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import QUERY, Remembered, evaluate
from speechde.evaluation.scene import Request, Scene
from speechde.evaluation.speech import scored, speech_metrics, speech_tasks
from speechde.models.embed import IN_PARTS
from speechde.types import Utterance

EMBEDDING = "embedding for evaluation"  # label of the progress
log = logging.getLogger(__name__)


def evaluate_model(
    trained: TrainedModel,
    items: Mapping[str, np.ndarray],
    utterances: Sequence[Utterance],
    *,
    seen: Sequence[str],
    zero_shot: Sequence[str],
    proxy: Sequence[str] = (),
    seed: int = 0,
    baselines: Request | None = None,
) -> tuple[dict, list[dict]]:
    """Embed one split and score it; see ``speech.evaluate_speech`` for what comes back.

    The metrics have two keys more: ``diagnostics``, which :func:`write_results` writes to a file of its own, and
    ``noted``, what is unusual about clips and texts and how many it concerns, which it puts with ``data``.

    Args:
        items: stored speech items by utterance id; a store that knows the ``seconds`` of its clips has them used.
        baselines: what else answers the same queries; the metrics then have ``baselines``.
    """
    present = {u.lang for u in utterances}
    roles = {"seen": seen, "zero_shot": zero_shot, "proxy": proxy}
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
    if baselines and baselines.names:
        scene = Scene(trained, utterances, items, tasks, embed, results, baselines)
        metrics["baselines"] = run_baselines(scene, seconds_to_embed)
    return metrics, results.records
