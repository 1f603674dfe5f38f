"""The queries of an evaluation asked again under conditions: noise, the telephone band, speed (``eval.conditions``).

Recordings ask for their transcripts, as in ``audio_to_text``; galleries, queries and the sentences that the bootstrap
draws are those of the clean evaluation, so every difference is a paired one. What reads audio, the model and the
cascades alike, hears the same degraded clips.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

from speechde.conditions import CLEAN, Condition
from speechde.evaluation.baselines import BETWEEN_RECORDINGS, run_baselines
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.retrieval import QUERY, Retrieval, evaluate
from speechde.evaluation.scene import Scene, add_paired
from speechde.models.embed import IN_PARTS
from speechde.types import Item

DIRECTION = "audio_to_text"


def run_conditions(clean: Scene, answers: dict) -> dict:
    """``conditions`` of ``metrics.json``: clean, then each condition of the request, with what ``run_baselines`` says.

    ``change`` is recall@1 under the condition minus that of the same system on clean clips.

    Args:
        clean: the scene that ``answers`` came from.
    """
    notes = [note for note in answers.get("notes", []) if not note.startswith(BETWEEN_RECORDINGS)]
    kept = {name: row for name, row in answers.items() if name not in (*BETWEEN_RECORDINGS, "notes")}
    if left_out := [name for name in clean.request.names if name in BETWEEN_RECORDINGS]:
        notes = [*notes, f"{', '.join(left_out)}: no text answers, so not asked under conditions"]
    output = {CLEAN.name: kept | ({"notes": notes} if notes else {})}
    for condition in clean.request.conditions:
        output[condition.name] = _answers(clean, condition)
    return output


def _answers(clean: Scene, condition: Condition) -> dict:
    """What ``run_baselines`` says of one condition, with the change from clean."""
    trained, request = clean.trained, clean.request
    tasks = [_asked_anew(task) for task in clean.of(DIRECTION)]
    items, pieces = request.items_of(trained, condition), {}
    label = f"embedding, {condition.name}"
    embed = clean.embed.knowing(stored_embed(trained.model, trained.prompt, items, label, pieces=pieces))
    start = time.perf_counter()
    embed([query for task in tasks for query in task.queries], QUERY)
    seconds = time.perf_counter() - start
    names = [name for name in request.names if name not in BETWEEN_RECORDINGS]
    results = evaluate(tasks, embed, seed=request.seed, label=None)
    request = replace(request, names=names)
    scene = Scene(trained, clean.utterances, items, tasks, embed, results, request, condition)
    if in_parts := Counter(count > 1 for count in pieces.values())[True]:
        scene.notes.append(f"{in_parts} × {IN_PARTS}")
    output = run_baselines(scene, seconds)
    for name, ranks in scene.ranks.items():
        add_paired(output[name], "change", tasks, ranks, clean.ranks[name], request.seed)
    return output


def _asked_anew(task: Retrieval) -> Retrieval:
    """The task with queries that no vector is remembered of."""
    return replace(task, queries=[Item(*q.parts, id=q.id, lang=q.lang, meaning=q.meaning) for q in task.queries])
