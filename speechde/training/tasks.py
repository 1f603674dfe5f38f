"""The training tasks that a configuration asks for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from speechde.config import RunConfig
from speechde.config.tasks import CLIPS, TRANSLATIONS
from speechde.corpora.bitext import TextPair
from speechde.corpora.examples import (
    RECORDED,
    TRANSLATION,
    ConsecutiveClips,
    Joined,
    SpeechExamples,
    TranslationExamples,
)
from speechde.corpora.examples_file import FileExamples
from speechde.evaluation.files import choice_task, example_task, language_tasks
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Retrieval
from speechde.languages import resolve
from speechde.models.prompt import check_template
from speechde.training.dataset import Reading
from speechde.training.mixture import Mixture, Share, Task
from speechde.types import Utterance


def task_examples(
    config: RunConfig, training: Sequence[Utterance], pairs: Sequence[TextPair] = (),
    files: Mapping[str, FileExamples] | None = None, limit: float = math.inf,
    seconds: Mapping[str, float] | None = None,
) -> list[Joined]:  # fmt: skip
    """The examples of each task of ``config.tasks``, in their order.

    Args:
        training: clips, of tasks of ``clips``.
        pairs: texts and their English, of tasks of ``translations`` and of those that have a share of them.
        files: examples of the tasks that name a file.
        limit: seconds that consecutive clips last together at most (``prepare.longest_clip``).
        seconds: of each clip, by id; None: not known.
    """
    found = []
    for name, task in config.tasks.items():
        if task.examples == CLIPS:
            beside = [TranslationExamples(pairs)] if task.shares.get(TRANSLATION) and pairs else []
            if task.consecutive > 1:
                most, lasts = task.consecutive, {"seconds": seconds, "limit": limit}
                spoken = ConsecutiveClips(training, most, **lasts, seed=config.seed)
            else:
                spoken = SpeechExamples(training, across=bool(beside) or not task.one_language)
            found.append(Joined(spoken, *beside))
        elif task.examples == TRANSLATIONS:
            found.append(Joined(TranslationExamples(pairs)))
        else:
            found.append(Joined((files or {})[name]))
    return found


def mixture(config: RunConfig, examples: Sequence[Joined], *, steps: int, views: int = 1) -> Mixture:
    """The batches of an epoch of ``steps`` steps; ``examples`` are the ``task_examples``.

    A fixed share of the batches of clips goes to the languages that are replayed, in adapting (all but those of
    ``data.seen``), or else to those that have synthetic speech alone.

    Args:
        views: versions of each recorded clip.

    Raises:
        ConfigError: a share is of a source that a file does not have, or leaves too little of a batch for the rest.
    """
    tasks = []
    for (name, task), own in zip(config.tasks.items(), examples, strict=True):
        clips = task.examples == CLIPS
        if not clips and task.examples != TRANSLATIONS:
            task.check_sources(name, set(own.sources))
        group, share = _group(config, own) if clips else (set(), 0.0)
        shares = {
            source: Share(fraction, apart=source in task.apart, elsewhere=clips and source == TRANSLATION)
            for source, fraction in task.shares.items()
        }
        made = Task(
            name, own.strata, own.sources, batch_size=task.batch_size or config.trainer.batch_size, rate=task.rate,
            one_stratum=task.one_language, exponent=task.language_exponent, shares=shares,
            views=views if clips else 1, group=group, group_share=share, bare=task.prompt_dropout,
            lengths=own.lengths if task.length_bins > 1 else None, length_bins=task.length_bins,
        )  # fmt: skip
        tasks.append(made)
    return Mixture(tasks, steps=steps, seed=config.seed)


def readings(config: RunConfig) -> list[Reading]:
    """How the examples of each task are read, in their order."""
    prompts = task_prompts(config)
    return [
        Reading(
            *(name if (name := prompt_name(task, role)) in prompts else None for role in (QUERY, DOCUMENT)),
            negatives=config.tasks[task].negatives,
            banked=config.loss.bank > 0 and config.tasks[task].examples == CLIPS,
        )
        for task in config.tasks
    ]


def held_out_tasks(
    config: RunConfig, files: Mapping[str, FileExamples], split: str, trained: Collection[str] | None = None
) -> list[Retrieval]:
    """The examples of a split that is held out, by the name of the task, as retrieval with the prompts of the task.

    ``trained``: as in ``language_tasks``.
    """
    prompts = task_prompts(config)
    tasks, known = [], {}
    for name, file in files.items():
        named = (prompt_name(name, role) for role in (QUERY, DOCUMENT))
        sides = tuple(own if own in prompts else role for own, role in zip(named, (QUERY, DOCUMENT), strict=True))
        if config.tasks[name].by_language:
            tasks += language_tasks(name, file, split, sides, trained, known)
        else:
            build = choice_task if config.tasks[name].gallery == "own" else example_task
            tasks.append(build(name, file, split, sides))
    return tasks


def task_prompts(config: RunConfig) -> dict[str, str]:
    """Templates of the prompts of all tasks by their names, ``{task}`` filled in.

    Raises:
        ConfigError: one is no template.
    """
    found = {}
    for name, task in config.tasks.items():
        for role, template in ((QUERY, task.query), (DOCUMENT, task.document)):
            if template:
                found[prompt_name(name, role)] = template.replace("{task}", name.replace("_", " "))
                check_template(f"tasks.{name}.{role}", found[prompt_name(name, role)])
    return found


def prompt_name(task: str, role: str) -> str:
    """What the prompt of one side of a task is called, in its model folder too."""
    return f"{task}-{role}"


def _group(config: RunConfig, examples: Joined) -> tuple[set[str], float]:
    """Languages of clips that a fixed share of the batches goes to, and that share."""
    kinds = set(zip(examples.strata, examples.sources, strict=True))
    if config.adapt.enabled:
        return {lang for lang, _ in kinds} - set(map(resolve, config.data.seen)), config.adapt.replay
    recorded = {lang for lang, source in kinds if source == RECORDED}
    synthetic = config.data.synthetic
    return set(map(resolve, synthetic.langs)) - recorded, synthetic.langs_share
