"""Many runs side by side: what ``speechde report`` shows, as plain data.

Runs are ranked only where they answer the same queries, so they are put on *boards*, one for each set of queries. Runs
of one configuration that differ in their seed are one *system*. Where the runs keep their queries, each system is
compared with the default configuration of its recipe, query by query (:mod:`speechde.reporting.compare`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from speechde.errors import DataError
from speechde.evaluation.speech import ROLES
from speechde.reporting.archive import kept_queries
from speechde.reporting.compare import compare_runs
from speechde.types import SPLITS
from speechde.versions import void_metrics

DEFAULT = "default"  # the name of a run without overrides


@dataclass(frozen=True)
class Run:
    """``metrics.json`` of one run, and the folder it lies in."""

    folder: Path
    metrics: Mapping

    @property
    def overrides(self) -> str:
        """What the command line changed of the recipe, or ``default``."""
        return self.metrics.get("overrides") or self.metrics.get("config", {}).get("run_name") or DEFAULT

    @property
    def directory(self) -> Path | None:
        """What ``compare_runs`` takes: the run directory or the archived run, where the queries are kept."""
        if kept_queries(self.folder) is None:
            return None
        return self.folder.parent if self.folder.name == "results" else self.folder


def find_runs(paths: Iterable[str | Path]) -> list[Run]:
    """All runs at or below ``paths``.

    Raises:
        DataError: a path holds no ``metrics.json``, or one that cannot be read.
    """
    runs: dict[Path, Run] = {}
    for path in map(Path, paths):
        found = [path] if path.name == "metrics.json" and path.is_file() else sorted(path.rglob("metrics.json"))
        if not found:
            raise DataError(f"{path} holds no metrics.json; give a run directory, or a folder of runs or results")
        for file in found:
            try:
                metrics = json.loads(file.read_text(encoding="utf-8"))
                runs[file.resolve()] = Run(file.parent, metrics)
                _ = metrics["recipe"], metrics["seed"], metrics["data"], metrics["audio_to_text"]["per_language"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{file} is not the metrics of a run ({error!r}); remove it, or evaluate again"
                ) from error
    return list(runs.values())


def summarise(runs: Sequence[Run]) -> dict:
    """``{"boards": [...]}``, JSON-able; see the module.

    Boards with the most systems are first, and of two with as many, the one that holds runs and not only later
    evaluations of their models on other data.
    """
    boards: dict[tuple, list[Run]] = {}
    for run in runs:
        boards.setdefault(_queries(run), []).append(run)
    order = sorted(boards.values(), key=lambda part: (-len(part), not any(map(_trained, part))))
    return {"boards": [_board(part) for part in order]}


def _trained(run: Run) -> bool:
    return "train" in run.metrics["data"]


def _queries(run: Run) -> tuple:
    """What runs of one board have in common: the corpus, and queries and gallery of each zero-shot language.

    A seen language that a run was not trained on may be missing, so that sweeps over training languages are one board.
    """
    rows = run.metrics["audio_to_text"]["per_language"]
    held = {lang: (row["queries"], row["gallery"]) for lang, row in rows.items() if row["role"] != "seen"} or {
        lang: (row["queries"], row["gallery"]) for lang, row in rows.items()
    }
    return run.metrics["data"].get("corpus", ""), tuple(sorted(held.items()))


def _board(runs: Sequence[Run]) -> dict:
    once: dict[tuple[str, str, int], Run] = {}
    beside: dict[str, dict[str, Mapping]] = {"baselines": {}, "conditions": {}}
    for run in sorted(runs, key=lambda run: (_trained(run), run.directory is not None, str(run.folder))):
        key = run.metrics["recipe"], run.overrides, run.metrics["seed"]
        once[key] = run  # a run and a later evaluation of its model are one: the run tells more
        for what, found in beside.items():
            if run.metrics.get(what):
                found[_name(*key[:2])] = run.metrics[what]
    systems: dict[tuple[str, str], list[Run]] = {}
    for key, run in sorted(once.items(), key=lambda item: item[0]):
        systems.setdefault(key[:2], []).append(run)
    data = runs[0].metrics["data"]
    split = next(name for name in reversed(SPLITS) if name in data)
    summaries = [_system(*key, part) for key, part in systems.items()]
    differences, notes = [], []
    for key in systems:
        try:
            differences += _difference(key, systems)
        except DataError as error:
            notes.append(f"{_name(*key)} is not compared: {error}")
    return {
        "corpus": data.get("corpus", ""),
        "split": split,
        "test": max((run.metrics["data"][split] for run in runs), key=lambda counts: counts["recordings"]),
        "fixed_gallery": runs[0].metrics["fixed_gallery"]["size"],
        "systems": sorted(summaries, key=_rank),
        "differences": sorted(differences, key=lambda row: _natural(row["name"])),
        "notes": notes,
        **beside,
    }


def _name(recipe: str, overrides: str) -> str:
    return recipe if overrides == DEFAULT else f"{recipe} {overrides.replace('+', ' ')}"


def _natural(name: str) -> list:
    """Sorts 512 before 1024."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _rank(system: Mapping) -> tuple:
    """By the number that decisions may look at; what is void comes last."""
    return bool(system["void"]), -(system["dev_recall@1"] or 0.0), system["name"]


def _system(recipe: str, overrides: str, runs: Sequence[Run]) -> dict:
    every = [run.metrics for run in runs]
    first = every[0]
    train = first["data"].get("train", {})
    system = {
        "name": _name(recipe, overrides),
        "recipe": recipe,
        "overrides": overrides,
        "mode": first["mode"],
        "void": "; ".join(dict.fromkeys(filter(None, map(void_metrics, every)))),
        "seeds": [metrics["seed"] for metrics in every],
        "commits": sorted({metrics["commit"] for metrics in every}),
        "hardware": sorted({metrics["hardware"] for metrics in every}),
        "commands": [metrics.get("command", "") for metrics in every],
        "train": {key: train[key] for key in ("recordings", "synthetic", "languages") if key in train},
        "train_seconds": float(np.mean([metrics["wall_seconds"]["train"] for metrics in every])),
        "dev_recall@1": _mean([metrics.get("dev_recall@1") for metrics in every]),
        "curves": first.get("curves", []),
        "per_language": _languages([metrics["audio_to_text"]["per_language"] for metrics in every]),
    }
    for role in ROLES:
        rows = [metrics["audio_to_text"].get(role) for metrics in every]
        if all(row and row["languages"] for row in rows):
            system[role] = {"languages": rows[0]["languages"]} | _over_seeds(rows, ("chance", "recall@1_fixed"))
    if all(metrics.get("sizes") for metrics in every):
        system["sizes"] = _sizes([metrics["sizes"] for metrics in every])
    return system


def _sizes(seeds: Sequence[Mapping[str, Mapping]]) -> dict[str, dict]:
    """Audio→text by size of the vectors and role."""
    shared = [size for size in seeds[0] if all(size in sizes for sizes in seeds)]
    return {
        size: {
            role: _over_seeds([sizes[size]["audio_to_text"][role] for sizes in seeds], ("chance",))
            for role in seeds[0][size]["audio_to_text"]
        }
        for size in shared
    }


def _languages(seeds: Sequence[Mapping[str, Mapping]]) -> dict[str, dict]:
    shared = [lang for lang in seeds[0] if all(lang in rows for rows in seeds)]
    return {
        lang: {key: seeds[0][lang][key] for key in ("role", "queries", "gallery")}
        | _over_seeds([rows[lang] for rows in seeds], ("chance",))
        for lang in shared
    }


def _over_seeds(rows: Sequence[Mapping], keys: Iterable[str]) -> dict:
    """Means over seeds; ``seeds`` is the lowest and the highest recall@1 of one."""
    recalls = [row["recall@1"] for row in rows]
    return {
        "recall@1": _mean(recalls),
        "ci95": [_mean([row["ci95"][side] for row in rows]) for side in (0, 1)],
        "seeds": [min(recalls), max(recalls)],
    } | {key: _mean([row.get(key) for row in rows]) for key in keys}


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else float(np.mean(values))


def _difference(key: tuple[str, str], systems: Mapping[tuple[str, str], Sequence[Run]]) -> list[dict]:
    """A system against the default of its recipe (an ``x_continuous`` against ``x`` too), over the seeds both have.

    Empty where there is no such default, one of them is void, or no queries were kept.
    """
    recipe, overrides = key
    base = (recipe, DEFAULT) if overrides != DEFAULT else (recipe.partition("_")[0], DEFAULT)
    if base == key or base not in systems:
        return []
    both = [{run.metrics["seed"]: run.directory for run in systems[name]} for name in (key, base)]
    seeds = sorted(both[0].keys() & both[1].keys())
    if not seeds or not all(one[seed] for one in both for seed in seeds):
        return []
    if any(void_metrics(run.metrics) for name in (key, base) for run in systems[name]):
        return []
    comparison = compare_runs(*([one[seed] for seed in seeds] for one in both), common=True)
    means = {row.role: {k: v for k, v in asdict(row).items() if k not in ("name", "role")} for row in comparison.means}
    return [{"name": _name(*key), "base": _name(*base), "seeds": seeds, "means": means}]
