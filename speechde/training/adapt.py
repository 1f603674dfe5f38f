"""A trained model learns more languages, and what it forgets of the others is measured.

What defines the model (its LLM, speech encoder, units or frame statistics, prefix) is read from its folder and neither
chosen nor fitted again; a configuration leaves it open (``null``), and one that says otherwise is refused. Training
goes on from its weights with a new optimiser. A share of the batches (``adapt.replay``) is clips of languages it knew
before: without them it forgets. The checkpoint is chosen on dev of the new and the old languages alike.

The model is evaluated before and after on the same test clips, and the two are compared query by query.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from transformers import AutoConfig

from speechde.cache import atomic_write
from speechde.checkpoint.folder import TrainedModel, assemble, check_encoder, find_model, languages_heard, read_settings
from speechde.checkpoint.settings import Settings
from speechde.config import FrontendConfig, RunConfig
from speechde.corpora.leaks import without_leaks
from speechde.corpora.load import check_split, load_corpus
from speechde.errors import ConfigError, DataError
from speechde.evaluation.run import evaluate_model
from speechde.evaluation.speech import ROLES
from speechde.features.encoders import SpeechEncoder
from speechde.reporting.compare import Comparison, compare_runs, format_comparison
from speechde.reporting.results import write_results
from speechde.reporting.terminal import show_markdown
from speechde.training.build import choose_trained
from speechde.types import Corpus, Utterance

SPEECH = ("layer", "rate", "trim_db", "mean_norm", "deduplicate", "bpe")  # settings that decide the features
SHAPE = ("hidden", "stride", "layers", "heads", "downsample")  # of a continuous frontend
FREE = ("dropout", "drop", "drop_span", "noise", "mask_features")  # read by training alone, and may be changed
NAMES = ("after", "before")
# of a comparison, by the roles after and before
ROLE_NAMES = {
    "seen/zero_shot": "new",
    "seen/synthetic_only": "new, heard before as synthetic speech alone",
    "seen": "old",
    "synthetic_only": "heard as synthetic speech alone",
    "zero_shot": "zero-shot",
    "proxy": "zero-shot, proxy voice",
}
BEFORE = "before"  # folder of a run that holds the results of the model it started from


def inherit(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fill what a configuration leaves open (None) with what the model ``adapt.checkpoint`` is.

    Raises:
        AssetError: it is not a model.
        ConfigError: it is not named, or the configuration asks for another model.
    """
    values = deepcopy(dict(values))
    checkpoint = values["adapt"]["checkpoint"]
    if not checkpoint:
        raise ConfigError("adapt.checkpoint is not set; name a trained model, e.g. runs/quickstart/default-s0")
    folder = find_model(checkpoint)
    settings = read_settings(folder)
    values["adapt"]["checkpoint"] = str(checkpoint)
    fixed, free = _described(folder, settings)
    conflicts = []
    for name, own in (fixed | free).items():
        *groups, key = name.split(".")
        target = values
        for group in groups:
            target = target[group]
        if target[key] is None:
            target[key] = own
        elif name in fixed and target[key] != own:
            conflicts.append(f"{name}={target[key]} (it has {own})")
    if conflicts:
        raise ConfigError(f"{', '.join(conflicts)}: decided by the trained model {checkpoint}; leave it out")
    if (own := "cosine" if settings.head.normalise else "dot") != (asked := values["loss"]["similarity"]):
        fix = {"cosine": "loss=modern", "dot": "loss=faithful"}[own]
        raise ConfigError(f"loss.similarity={asked}, and the model {checkpoint} compares by {own}; add {fix}")
    return values


def _described(folder: Path, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by dotted name: those that a trained model decides, and those that may be set otherwise."""
    frontend, head, speech = settings.frontend, settings.head, settings.speech
    dtype = AutoConfig.from_pretrained(folder).dtype
    fixed = {
        "mode": settings.trained(folder)["mode"],
        "frontend.kind": frontend.kind,
        **{f"frontend.{key}": getattr(speech, key) for key in SPEECH},
        "model.source": str(folder),
        "model.init": "pretrained",
        "model.dtype": str(dtype or "float32").removeprefix("torch."),
        "model.num_layers": None,  # the LLM in the folder has been cut
        "model.dropout": None,
        "model.attention": settings.attention,
        "model.attn_implementation": "auto",
        "model.max_tokens": settings.max_tokens,
        **{f"model.{key}": getattr(head, key) for key in ("dim", "projection_init", "projection_gain", "speech_layer")},
        **{f"model.prefix.{key}": value for key, value in asdict(settings.prefix).items()},
    }
    if settings.discrete:
        with safe_open(folder / "kmeans.safetensors", "numpy") as file:
            fixed["frontend.units"] = file.get_slice("centroids").get_shape()[0]
    else:
        fixed |= {f"frontend.{key}": getattr(frontend, key) for key in SHAPE}
    # the encoder may lie elsewhere: its weights are checked against those of training
    free = asdict(FrontendConfig()) | {key: getattr(frontend, key) for key in FREE if hasattr(frontend, key)}
    free["encoder"] = speech.encoder
    return fixed, {f"frontend.{key}": value for key, value in free.items() if f"frontend.{key}" not in fixed}


def adapted_corpus(config: RunConfig, cache: Path) -> Corpus:
    """The new languages (``data.seen``) of one corpus, and of ``adapt.old`` those that the model knew, with the rest.

    Its zero-shot languages are those that the model has still not been trained on. Without replay no old training clip
    is kept.

    Raises:
        ConfigError: no new language is named, the model knows it already, or its corpus was split otherwise.
        DataError: a new language has no train or dev clip, or a sentence is trained on in one language and held out in
            another.
    """
    record = read_settings(Path(config.model.source)).training
    known = record["seen"]
    for data in filter(None, (config.data, config.adapt.old)):
        check_split(data, record)
    if not config.data.seen:
        raise ConfigError("data.seen=[] names no language to learn; set data.seen=[el_gr], say")
    new, old = load_corpus(config.data, cache), config.adapt.old
    if again := set(new.seen) & set(known):
        raise ConfigError(f"data.seen: the model was trained on {', '.join(sorted(again))} already; name new languages")
    for split, lang in ((split, lang) for split in ("train", "dev") for lang in new.seen):
        if not new.select(split, [lang]):
            raise DataError(f"{new.name} has no {split} clip in {lang}; adapting needs train and dev clips of it")
    if old is None:
        return new
    seen = old.seen or known
    if unknown := set(seen) - set(known):
        raise ConfigError(f"adapt.old.seen: {', '.join(sorted(unknown))} is new to the model; put it into data.seen")
    heard = languages_heard(record)
    rest = old.zero_shot and [lang for lang in old.zero_shot if lang not in {*heard, *new.seen}]
    return _joined(new, load_corpus(replace(old, seen=seen, zero_shot=rest), cache), heard, config.adapt.replay > 0)


def _joined(new: Corpus, old: Corpus, heard: Collection[str], replay: bool) -> Corpus:
    """Two corpora as one, each language in its role."""
    seen = (*old.seen, *new.seen)
    rest = {*new.zero_shot, *old.zero_shot} - {*heard, *seen}
    proxy = {*new.proxy, *old.proxy} - {*heard, *seen}
    kept = [u for u in old.utterances if u.lang in {*old.seen, *rest, *proxy} and (replay or u.split != "train")]
    utterances = [*kept, *(u for u in new.utterances if u.lang in {*new.seen, *rest, *proxy})]
    ids = Counter(u.id for u in utterances)
    if twice := [id_ for id_, times in ids.items() if times > 1]:
        raise DataError(
            f"{len(twice)} ids are in {new.name} and in {old.name} (first: {twice[0]!r}); rename those of one"
        )
    held_out = {u.sentence_id for u in utterances if u.split != "train"}
    leaked = {u.sentence_id for u in utterances if u.split == "train"} & held_out
    if leaked and new.name == old.name:  # sentence ids of one corpus mean the same sentence in all its languages
        raise DataError(
            f"{len(leaked)} sentences of {new.name} are in train of one language and held out in another (first: "
            f"{min(leaked)!r}); give adapt.old.split_seed the value of data.split_seed"
        )
    utterances, leaks = without_leaks(utterances, sentences=False)
    dropped = [*(d for d in dict.fromkeys([*old.dropped, *new.dropped]) if d.id not in ids), *leaks]
    names, licences = (list(dict.fromkeys(both)) for both in ((old.name, new.name), (old.licence, new.licence)))
    return Corpus("+".join(names), utterances, seen, tuple(sorted(rest)), dropped, ", ".join(filter(None, licences)),
                  tuple(sorted(proxy)), old.noted + new.noted)  # fmt: skip


def initial_model(config: RunConfig, encoder: SpeechEncoder) -> TrainedModel:
    """The model to adapt, ready to be trained: its weights, with the dropouts and the frozen parts of ``config``.

    Raises:
        AssetError: the speech encoder is not the one that it was trained with.
    """
    trained = TrainedModel.load(config.model.source)
    check_encoder(trained.settings.speech, encoder)
    own = trained.settings.frontend
    changed = {key: getattr(config.frontend, key) for key in FREE if hasattr(own, key)}
    settings = replace(trained.settings, frontend=replace(own, **changed))
    model = assemble(trained.model.backbone.model, settings)
    model.load_state_dict(trained.model.state_dict())
    choose_trained(model, config)
    return TrainedModel(model, trained.prompt, trained.quantiser, settings)


def report_change(
    config: RunConfig, directory: Path, metrics: Mapping, items: Mapping[str, np.ndarray], test: list[Utterance]
) -> Comparison:
    """Evaluate the model that a run started from on the run's test clips, and write what has changed since.

    ``before/results`` of the run directory holds its results, ``results/before_after.md`` and ``.json`` the comparison.
    """
    trained = TrainedModel.load(config.model.source)
    record = trained.settings.training
    after = {lang: row["role"] for lang, row in metrics["audio_to_text"]["per_language"].items()}
    synthetic = record.get("seen_synthetic", ())
    learnt = {lang for lang, role in after.items() if role == "seen" and lang not in record["seen"]}
    roles = after | {lang: "synthetic_only" if lang in synthetic else "zero_shot" for lang in learnt}
    members = {role: [lang for lang in roles if roles[lang] == role] for role in ROLES}
    results, records = evaluate_model(trained, items, test, roles=members, seed=config.seed)
    facts = {key: metrics[key] for key in ("data", "commit", "hardware", "command", "config", "wall_seconds")}
    whose = {key: record[key] for key in ("recipe", "overrides", "mode", "seed")}
    write_results(facts | whose | results, records, directory / BEFORE)
    comparison = _named(compare_runs(directory, directory / BEFORE), config)
    for folder in filter(None, (directory / "results", config.report_dir)):
        for suffix, text in (
            ("md", "# Before and after\n\n" + format_comparison(comparison, NAMES)),
            ("json", json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) + "\n"),
        ):
            with atomic_write(Path(folder) / f"before_after.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8")
    return comparison


def show_change(comparison: Comparison) -> None:
    """Print the comparison as a table."""
    show_markdown(format_comparison(comparison, NAMES))


def _named(comparison: Comparison, config: RunConfig) -> Comparison:
    """With the new languages first, and roles called by what they mean here."""
    a = f"adapted to {', '.join(config.data.seen)}, {config.trainer.steps} steps, replay {config.adapt.replay:g}"
    languages, means = (
        tuple(replace(row, role=ROLE_NAMES[row.role], name=ROLE_NAMES.get(row.name, row.name)) for row in
              sorted(rows, key=lambda row: list(ROLE_NAMES).index(row.role)))
        for rows in (comparison.languages, comparison.means)
    )  # fmt: skip
    return replace(comparison, a=a, b=config.adapt.checkpoint, languages=languages, means=means)
