"""What a text evaluation embeds with: a trained model, or any text model as it comes, through the same code.

A model that this project did not train gets mean pooling over its last states, unit vectors, and the prefixes that it
is asked with: ``query: `` for E5 (Wang et al. 2024, arXiv 2402.05672); for an LLM without training, which is the
baseline of what training adds, none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from speechde.checkpoint.folder import TrainedModel, find_model
from speechde.checkpoint.reader import Reader
from speechde.config.tasks import CLIPS, TRANSLATIONS
from speechde.corpora.load import histories
from speechde.errors import ConfigError, unknown_value
from speechde.evaluation.aloud import read_aloud
from speechde.evaluation.asked import UNKNOWN, Asked
from speechde.evaluation.ateb_controls import ateb_controls
from speechde.evaluation.retrieval import DOCUMENT, QUERY, Remembered, evaluate, outcomes
from speechde.evaluation.text import expanded, licences_of, refuse_trained_on, text_metrics, text_tasks
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import Read, embed_items
from speechde.models.prompt import Prompt
from speechde.progress import progress
from speechde.types import TEXT, Item
from speechde.weights import weights_hash

CHUNK = 64  # clips whose frames are held at once
MAX_TOKENS = 512  # of a text for a model as it comes, or its positions where they are fewer


@dataclass
class TextModel:
    """A model and its prompts by role; ``cut`` collects the texts that were longer than it reads.

    ``names`` are those of named prompts by role, None where items have their prefix. ``record`` is that of its training
    (``Settings.training``), None of a model as it comes; ``facts`` go into results. ``read`` is how it hears, None of
    one that reads text alone.
    """

    model: DualEncoder
    prompts: Mapping[str, Prompt]
    record: Mapping[str, Any] | None
    facts: dict[str, Any]
    names: Mapping[str, str | None] = field(default_factory=lambda: {QUERY: None, DOCUMENT: None})
    cut: set = field(default_factory=set)
    read: Read | None = None

    def embed(self, items: Sequence[Item], role: str) -> np.ndarray:
        """Items of text, or of speech, in a role → ``(n, dim)`` float32."""
        spoken = [row for row, item in enumerate(items) if item.make_up != (TEXT,)]
        if not spoken:
            return self._embed(items, role, f"embedding ({role})")
        vectors = np.empty((len(items), self.model.dim), np.float32)
        if written := [row for row in range(len(items)) if row not in set(spoken)]:
            vectors[written] = self._embed([items[row] for row in written], role, f"embedding ({role})")
        with progress("listening", len(spoken), "inputs") as advance:
            for rows in (spoken[start : start + CHUNK] for start in range(0, len(spoken), CHUNK)):
                vectors[rows] = self._embed([items[row] for row in rows], role)
                advance(len(rows))
        return vectors

    def _embed(self, items: Sequence[Item], role: str, label: str | None = None) -> np.ndarray:
        return embed_items(
            self.model, self.prompts[role], items, self.read or (lambda media: []), label=label, cut=self.cut.add,
            name=self.names[role],
        ).vectors  # fmt: skip

    def role_of(self, lang: str) -> str:
        """Whether a language was trained on, as far as the record says: files of examples may be in any."""
        if self.record is None:
            return UNKNOWN
        for role, key in (("seen", "seen"), ("synthetic_only", "seen_synthetic")):
            if lang in self.record.get(key, ()):
                return role
        return UNKNOWN if _has_files(self.record) else "zero_shot"

    @property
    def symmetric(self) -> bool:
        """Whether queries and documents are embedded alike."""
        return self.prompts[QUERY] is self.prompts[DOCUMENT] and self.names[QUERY] == self.names[DOCUMENT]


def open_text_model(
    name: str,
    *,
    prefix: str | None = None,
    document_prefix: str | None = None,
    attention: str = "bidirectional",
    max_tokens: int | None = None,
    device: str | None = None,
    prompt: str | None = None,
) -> TextModel:
    """The model that a name means: a model folder or run directory, ``packaged:NAME``, a transformers folder, a hub id.

    Args:
        prefix, document_prefix: words before queries, and before documents (default: the same), of a model as it comes.
        attention: ``bidirectional`` or ``causal``, of a model as it comes.
        max_tokens: longer texts are cut; default: as the model was trained, or ``MAX_TOKENS``.
        prompt: of a trained model, the task whose prompts queries and documents get; default: prefixes.

    Raises:
        ConfigError: a trained model is asked for with prefixes of its own, or attention cannot be had.
        AssetError: there is no such model.
    """
    folder = find_model(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    facts = {"name": name, "weights": weights_hash(folder)[:16]}
    if (folder / "speechde.json").is_file():
        if prefix is not None or document_prefix is not None:
            raise ConfigError(f"{name} was trained with prompts of its own; leave the prefixes out")
        trained = TrainedModel.load(folder)
        record, words = trained.settings.trained(folder), trained.prompt
        words.max_tokens = words.max_tokens if max_tokens is None else min(max_tokens, words.max_tokens)
        names = task_prompts(words, prompt)
        facts |= {"recipe": record["recipe"], "seed": record["seed"], "max_tokens": words.max_tokens}
        facts |= {"prompts": {role: words.find(name) for role, name in names.items() if name}}
        read = Reader(trained, torch.device(device)).read_parts if trained.settings.speech else None
        prompts = dict.fromkeys((QUERY, DOCUMENT), words)
        return TextModel(trained.model.to(device), prompts, record, facts, names, read=read)
    if prompt is not None:
        raise ConfigError(f"{name} has no prompts by name, as a model trained here may have; give prefixes")
    model = plain_model(folder, attention).to(device)
    words = [prefix or "", document_prefix if document_prefix is not None else prefix or ""]
    made = {text: _prompt(folder, text, model, max_tokens or MAX_TOKENS) for text in dict.fromkeys(words)}
    prompts = dict(zip((QUERY, DOCUMENT), (made[text] for text in words), strict=True))
    facts |= {"prefixes": words, "attention": attention, "pooling": "mean", "max_tokens": prompts[QUERY].max_tokens}
    return TextModel(model, prompts, None, facts)


def _has_files(record: Mapping[str, Any]) -> bool:
    """Whether a model, or one that it comes from, was trained on files of examples."""
    tasks = (task for each in histories(record) for task in each.get("config", {}).get("tasks", {}).values())
    return any(task and task.get("examples", CLIPS) not in (CLIPS, TRANSLATIONS) for task in tasks)


def task_prompts(prompt: Prompt, task: str | None, option: str = "--prompt") -> dict[str, str | None]:
    """Names of the prompts of a task by role, None for a role that it has none for; ``option`` is who named it.

    Raises:
        ConfigError: it has none at all.
    """
    names = {role: f"{task}-{role}" for role in (QUERY, DOCUMENT)}
    if task is not None and not {*names.values()} & {*prompt.named}:
        tasks = sorted({name.rpartition("-")[0] for name in prompt.named})
        raise unknown_value(option, task, tasks, "" if tasks else "This model has none; leave it out.")
    return {role: name if name in prompt.named else None for role, name in names.items()}


def evaluate_texts(
    model: TextModel, names: Sequence[str], asked: Asked, *, controls: bool = False, aloud: float | None = None
) -> tuple[dict, list[dict]]:
    """Build the tasks of ``names``, with the model's roles of languages, embed and score them.

    Args:
        controls: whether the tasks of ATEB's sets get theirs (``ateb_controls``).
        aloud: queries are read aloud, those of at most so many seconds (``aloud.read_aloud``).

    Returns:
        ``retrieval.outcomes``, and before them the metrics:
        ``tasks`` (see ``text.text_metrics``), ``controls`` where they are asked for, and what they are of: ``model``,
        ``seed``, ``sample``, ``licences``, ``aloud`` where queries are, and ``noted``, which counts the texts that were
        cut.

    Raises:
        ConfigError: the model was trained on one of them, or is asked aloud and does not hear, or see
            ``text.text_tasks``.
    """
    names = expanded(names)
    refuse_trained_on(model.record, names)
    if aloud is not None:
        _check_aloud(model, controls)
    tasks, spoken = text_tasks(names, replace(asked, role_of=model.role_of)), {}
    if aloud is not None:
        tasks, spoken = read_aloud(tasks, aloud)
    embed = Remembered(model.embed, symmetric=model.symmetric)
    results = evaluate(tasks, embed, seed=asked.seed)
    limit = model.prompts[QUERY].max_tokens
    metrics = {
        "tasks": text_metrics(results),
        **({"controls": ateb_controls(tasks, asked, embed)} if controls else {}),
        "model": model.facts,
        "seed": asked.seed,
        "sample": {"queries per language": asked.per_language} if asked.per_language else {},
        "licences": licences_of(names),
        "noted": {f"text cut at {limit} tokens": len(model.cut)} if model.cut else {},
        **({"aloud": spoken} if spoken else {}),
    }
    return metrics, outcomes(tasks, results)


def _check_aloud(model: TextModel, controls: bool) -> None:
    if model.read is None:
        raise ConfigError(f"{model.facts['name']} reads text alone; leave --aloud out, or give a model that hears")
    if controls:
        raise ConfigError("--controls are of texts; leave them out with --aloud")


def plain_model(folder: str | Path, attention: str = "bidirectional") -> DualEncoder:
    """A transformers folder as it comes: mean of the last states, at unit length."""
    backbone = Backbone.load(folder, attention=attention)
    return DualEncoder(backbone, {}, projection_init="identity", normalise=True).eval()


def _prompt(folder: Path, prefix: str, model: DualEncoder, max_tokens: int) -> Prompt:
    template = prefix.replace("{", "{{").replace("}", "}}")
    return Prompt(AutoTokenizer.from_pretrained(folder), speech="", text=template, mode="unknown",
                  max_tokens=max_tokens, positions=model.backbone.positions)  # fmt: skip
