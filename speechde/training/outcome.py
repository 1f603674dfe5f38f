"""What comes of a run: the metrics of its best weights, the report, the model card, and what loggers get."""

from __future__ import annotations

import math
from collections import ChainMap, Counter, defaultdict
from dataclasses import asdict
from itertools import count
from pathlib import Path

from speechde.checkpoint.card import write_card
from speechde.checkpoint.folder import TrainedModel
from speechde.evaluation.embed import stored_embed
from speechde.evaluation.files import example_metrics
from speechde.evaluation.retrieval import evaluate, outcomes
from speechde.evaluation.run import EMBEDDING, baseline_request, dropped_counts, evaluate_model, roles_of
from speechde.evaluation.speech import data_counts, sample_counts
from speechde.features.encoders import SpeechEncoder
from speechde.features.sets import encoding, evaluation_items
from speechde.features.store import FeatureStore
from speechde.provenance import remember_seconds
from speechde.reporting.archive import archive_run
from speechde.reporting.results import finish_report, finish_text_report
from speechde.training import adapt
from speechde.training.data import TrainingData, file_counts
from speechde.training.features import Features
from speechde.training.finished import archived
from speechde.training.session import Session
from speechde.training.tasks import held_out_tasks
from speechde.training.tracking import log_results


def evaluate_run(
    session: Session,
    data: TrainingData,
    features: Features,
    model: TrainedModel,
    encoder: SpeechEncoder | None,
    best: float,
) -> dict:
    """The metrics of a run, written and shown; ``best`` is the dev R@1 of its weights."""
    config, directory = session.config, session.directory
    metrics = {
        "recipe": config.recipe_name,
        "overrides": config.run_name,
        "mode": config.mode,
        "seed": config.seed,
        "dev_recall@1": None if math.isnan(best) else best,
        **session.facts,
    }
    tasks, hits = _task_metrics(session, data, features, model)
    metrics |= tasks
    if encoder is None:
        metrics["data"] = _data(session, data, features, model, [], None)
        metrics["wall_seconds"] = remember_seconds(directory, session.clock.seconds)
        finish_text_report(metrics, hits, directory, Path(config.report_dir) if config.report_dir else None)
    else:
        _evaluate_speech(session, data, features, model, encoder, metrics)
    if config.archive_dir:
        archive_run(directory / "results", archived(config, directory))
    write_card(directory / "model", model, metrics)
    log_results(session.loggers, metrics, directory, config.logger.log_model)
    return metrics


def _evaluate_speech(
    session: Session,
    data: TrainingData,
    features: Features,
    model: TrainedModel,
    encoder: SpeechEncoder,
    metrics: dict,
) -> None:
    """Add what is measured on the test clips to ``metrics``, and write the report."""
    config, directory, cache = session.config, session.directory, session.cache
    with session.clock("evaluate"):
        encode = encoding(config.frontend, encoder)
        items = evaluation_items(model.settings.speech, encoder, model.quantiser, data.test, cache, encode)
        test = [u for u in data.test if u.id in items]
        roles = roles_of({u.lang for u in test}, model.settings.training, data.corpus)
        initial = None if config.init else asdict(config.model)
        asked = baseline_request(config, model, encoder, data.test, cache, initial, encode)
        results, records = evaluate_model(model, items, test, roles=roles, seed=config.seed, baselines=asked)
    metrics |= {"data": _data(session, data, features, model, test, items), **results}
    metrics["wall_seconds"] = remember_seconds(directory, session.clock.seconds)
    finish_report(metrics, records, directory, Path(config.report_dir) if config.report_dir else None)
    if config.adapt.enabled:
        adapt.show_change(adapt.report_change(config, directory, metrics, items, test))


def _task_metrics(
    session: Session, data: TrainingData, features: Features, model: TrainedModel
) -> tuple[dict, list[dict]]:
    """Of the test splits of files of examples, where there are any; and which of their queries were answered."""
    trained = {u.lang for u in data.training}.union(*(file.strata for file in data.files.values()))
    tests = held_out_tasks(session.config, data.held_out["test"], "test", trained)
    if not tests and not session.config.without_speech:
        return {}, []
    with session.clock("evaluate"):
        embed = stored_embed(model.model, model.prompt, features.train[0], EMBEDDING)
        results = evaluate(tests, embed, seed=session.config.seed)
    place = defaultdict(count)  # of each task: the ids in a file need not differ
    hits = [hit | {"id": f"{next(place[hit['direction']])} {hit['id']}".strip()} for hit in outcomes(tests, results)]
    return {"tasks": example_metrics(results)}, hits


def _data(
    session: Session, data: TrainingData, features: Features, model: TrainedModel, test: list,
    items: FeatureStore | None,
) -> dict:  # fmt: skip
    """What a run was of: clips by split, what else it was trained on, and what was left out.

    ``items`` are the features of the clips ``test``; None of a model without speech.
    """
    config = session.config
    dropped = dropped_counts(data.corpus, items) if items else {}
    clips = {"train": data.training, "dev": data.dev, config.eval.split: test}
    lengths = ChainMap(items.seconds if items else {}, features.seconds, features.dev.seconds)
    return {
        "corpus": data.corpus.name,
        **({} if config.without_speech else {split: data_counts(some, lengths) for split, some in clips.items()}),
        **sample_counts(data.whole, config.eval.per_language),
        "noted": data.corpus.noted_counts() | session.cut.counts(model.prompt.max_tokens),
        "dropped": Counter(dropped) + Counter(features.dropped) | data.left_out,
        **({"translations": data.translations.counts()} if data.translations else {}),
        **({"tasks": file_counts(data.files)} if data.files else {}),
        "encoder_times_real_time": [round(speed, 1) for speed in features.times_real_time],
    }
