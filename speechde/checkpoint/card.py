"""The model card: ``README.md`` of a model folder, generated from the run that trained it.

Nothing in it is written by hand: counts, languages, scores and licences come from the training record
(``speechde.json``) and from the run's ``metrics.json``. Its head is the metadata that model hubs read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from speechde.cache import atomic_write
from speechde.languages import LANGUAGES
from speechde.types import SPLITS
from speechde.weights import PACKAGED

if TYPE_CHECKING:
    from speechde.checkpoint.folder import TrainedModel

FILE = "README.md"
ROLES = {
    "seen": "seen",
    "synthetic_only": "heard as synthetic speech alone",
    "zero_shot": "zero-shot",
    "proxy": "zero-shot, proxy voice",
}
COUNTS = ("languages", "recordings", "synthetic", "transcripts", "seconds")  # of a split, as from speech.data_counts
NOT_STATED = "not stated here"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_DATASETS = {"fleurs": ["google/fleurs"], "covost2+fleurs": ["facebook/covost2", "google/fleurs"]}


def model_card(trained: TrainedModel, metrics: Mapping[str, Any] | None = None) -> str:
    """The text of ``README.md``.

    Args:
        metrics: ``metrics.json`` of the run; without it the card says that the model was not evaluated.
    """
    record = trained.settings.training
    data = (metrics or record).get("data", {})
    config = record.get("config") or (metrics or {}).get("config", {})  # the record of earlier versions has none
    parts = _parts(trained, record, config)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speechde.checkpoint", "."), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "percent": _percent,
        "interval": _interval,
        "language": _language,
        "thousands": _thousands,
        "run_name": run_name,
    }
    return environment.get_template("model_card.md.j2").render(
        metadata=_metadata(record, metrics, parts).to_yaml(),
        title=_title(record),
        record=record,
        config=config,
        settings=trained.settings,
        dim=trained.model.dim,
        normalised=trained.model.normalise,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        data=data,
        splits={split: {key: data[split].get(key) for key in COUNTS} for split in SPLITS if split in data},
        dropped={reason: count for reason, count in data.get("dropped", {}).items() if count},
        metrics=metrics,
        scores=(metrics or {}).get("audio_to_text", {}),
        tasks=(metrics or {}).get("tasks", {}),
        sizes=[(size, scores["audio_to_text"]) for size, scores in _largest_first((metrics or {}).get("sizes", {}))],
        roles=ROLES,
        parts=parts,
        languages=LANGUAGES,
    )


def write_card(folder: str | Path, trained: TrainedModel, metrics: Mapping[str, Any] | None = None) -> None:
    """Write the card into a model folder, in place of the one there, and keep it with the model."""
    trained.card = model_card(trained, metrics)
    with atomic_write(Path(folder) / FILE) as temporary:
        temporary.write_text(trained.card, encoding="utf-8")


def run_name(record: Mapping[str, Any]) -> str:
    """What a run is called: ``recipe/overrides-sSEED``, as its directory is."""
    return f"{record['recipe']}/{record.get('overrides', 'default')}-s{record['seed']}"


def _title(record: Mapping[str, Any]) -> str:
    if not record:
        return "speechde model"
    if soup := record.get("soup"):
        return f"speechde: the mean of {len(soup)} model{'s' if len(soup) > 1 else ''}"
    overrides = record.get("overrides", "default")
    variant = "" if overrides == "default" else f", {overrides}"
    return f"speechde: {record['recipe']}{variant}, seed {record['seed']}"


def _parts(trained: TrainedModel, record: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the model is made of: ``part``, ``source``, ``licence``, ``sha256`` (of weights) and ``hub`` (an id)."""
    speech = trained.settings.speech
    llm = record.get("llm") or {"source": config.get("model", {}).get("source", NOT_STATED)}
    parts = [{"part": "LLM", "sha256": llm.get("sha256") or "", **_origin(llm["source"])}]
    if speech is not None:
        parts.append(
            {"part": "speech encoder (not in this folder)", "sha256": speech.encoder_key.get("weights") or "",
             **_origin(speech.encoder)}
        )  # fmt: skip
    if (image := trained.settings.image) is not None:
        parts.append(
            {"part": "image encoder (not in this folder)", "sha256": image.encoder_key.get("weights") or "",
             **_origin(image.encoder)}
        )  # fmt: skip
    for name, licence in record.get("data", {}).get("licences", {}).items():
        parts.append(
            {"part": "training data", "source": name, "licence": licence or NOT_STATED, "sha256": "", "hub": ""}
        )
    return parts


def _origin(name: str) -> dict[str, str]:
    """``source``, ``licence`` and hub id of a checkpoint by its name (``speechde.weights.resolve``)."""
    if (entry := PACKAGED.get(name.removeprefix("packaged:"))) is not None:
        hub = _HUB_ID.match(entry.source)
        return {"source": f"{name}: {entry.source}", "licence": entry.licence, "hub": hub[0] if hub else ""}
    repo = name.partition("@")[0]
    hub = repo if _HUB_ID.fullmatch(repo) and not Path(repo).is_dir() else ""
    name = f"a local folder, {Path(name).name}" if Path(name).is_absolute() else name
    return {"source": name, "licence": f"that of {repo}" if hub else NOT_STATED, "hub": hub}


def _metadata(
    record: Mapping[str, Any], metrics: Mapping[str, Any] | None, parts: list[dict[str, str]]
) -> ModelCardData:
    codes = [lang for role in ("seen", "seen_synthetic", "zero_shot") for lang in record.get(role, ())]
    bases = [part["hub"] for part in parts if part["hub"]]
    results = (_results(metrics) if metrics else None) or None
    seeing = ["image"] if any(part["part"].startswith("image encoder") for part in parts) else []
    return ModelCardData(
        language=sorted({code.split("_")[0] for code in codes}) or None,
        license="other",  # every part keeps its own
        license_name="see-the-licences-of-the-parts",
        library_name="speechde",
        pipeline_tag="feature-extraction",
        tags=["speechde", "sentence-transformers", "speech", "speech-text-retrieval", "cross-lingual", *seeing],
        base_model=bases or None,
        datasets=_HUB_DATASETS.get(record.get("data", {}).get("corpus", "")),
        model_name=_title(record) if results else None,
        eval_results=results,
    )


def _results(metrics: Mapping[str, Any]) -> list[EvalResult]:
    corpus = metrics["data"]["corpus"]
    split = metrics.get("config", {}).get("eval", {}).get("split", "test")
    return [
        EvalResult(
            task_type="retrieval",
            task_name="speech-to-text retrieval",
            dataset_type=re.sub(r"[^\w.-]+", "-", corpus),
            dataset_name=corpus,
            dataset_split=split,
            metric_type="recall_at_1",
            metric_name=f"recall@1, mean over {mean['languages']} {ROLES[role]} languages",
            metric_value=round(100 * mean["recall@1"], 2),
        )
        for role in ROLES
        if (mean := metrics.get("audio_to_text", {}).get(role)) and mean["recall@1"] is not None
    ]


def _largest_first(sizes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(sizes.items(), key=lambda item: -int(item[0]))


def _thousands(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _interval(row: Mapping[str, Any]) -> str:
    bounds = f" [{_percent(row['ci95'][0])}, {_percent(row['ci95'][1])}]" if row.get("ci95") else ""
    return _percent(row["recall@1"]) + bounds


def _language(code: str) -> str:
    return LANGUAGES[code].name if code in LANGUAGES else code
