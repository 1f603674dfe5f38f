"""What a model folder says about the run that trained it (``Settings.training``, and the model card)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechde.checkpoint.folder import read_settings
from speechde.config import RunConfig
from speechde.config.ateb import set_name
from speechde.config.tasks import CLIPS, TRANSLATIONS
from speechde.corpora.ateb.sets import licences_of
from speechde.training.identity import asked
from speechde.types import Corpus
from speechde.weights import resolve, weights_hash


def training_record(
    config: RunConfig,
    corpora: Iterable[Corpus],
    counts: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    dev_recall: float | None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of a run whose training is done.

    Args:
        corpora: the one that was asked for, which names the languages, and others that were trained on. Languages that
            only the latter have were heard as synthetic speech alone.
        counts: of the clips of each split (``data_counts``); those of train are of the clips that were used.
        facts: ``commit`` and ``hardware``.
        dev_recall: recall@1 of the chosen checkpoint on dev; None where nothing was held out.
        before: the record of the model that the run started from (``init``); what it had seen counts as seen.
    """
    first, *others = corpora
    seen = dict.fromkeys([*(before["seen"] if before else ()), *first.seen])
    named = [task.examples for task in config.tasks.values() if task.examples not in (CLIPS, TRANSLATIONS)]
    files = {Path(name).name: "" for name in named if not set_name(name)}  # whose licences nobody states
    files |= {name: licences_of(set_name(name)) for name in named if set_name(name)}
    further = (lang for corpus in others for lang in corpus.seen)
    synthetic = dict.fromkeys([*(before.get("seen_synthetic", ()) if before else ()), *further])
    return {
        "recipe": config.recipe_name,
        "overrides": config.run_name,
        "mode": config.mode,
        "seed": config.seed,
        "seen": list(seen),
        "seen_synthetic": [lang for lang in synthetic if lang not in seen],
        "zero_shot": list(first.zero_shot),
        "commit": facts["commit"],
        "hardware": facts["hardware"],
        "dev_recall@1": dev_recall,
        "llm": before["llm"] if before and "llm" in before else _llm(config),
        "data": {
            "corpus": first.name,
            "licences": {corpus.name: corpus.licence for corpus in (first, *others) if corpus.seen} | files,
            **counts,
        },
        "config": asked(asdict(config)),
        **({"adapted_from": before} if before else {}),
    }


def _llm(config: RunConfig) -> dict[str, Any]:
    source, pretrained = config.model.source, config.model.init == "pretrained"
    return {"source": source, "sha256": weights_hash(resolve(source)) if pretrained else None}


def stored_record(folder: Path) -> dict[str, Any] | None:
    """The record in a model folder; None where there is no such folder.

    A run that is started again, for further baselines say, finds its model there, and did not train it now.
    """
    return read_settings(folder).training if folder.is_dir() else None
