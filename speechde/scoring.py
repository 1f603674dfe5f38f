"""Scoring: a trained model on the clips of any corpus, as `evaluate.py` does; Lightning and W&B are not needed."""

from __future__ import annotations

from pathlib import Path

from speechde.cache import cache_root
from speechde.checkpoint.folder import TrainedModel, languages_heard, model_folder
from speechde.config import RunConfig
from speechde.config.earlier import as_today
from speechde.corpora.fingerprint import content
from speechde.corpora.load import check_split, load_corpus
from speechde.errors import DataError
from speechde.evaluation.run import baseline_request, dropped_counts, evaluate_model, roles_of, speech_reader
from speechde.evaluation.speech import data_counts, sample_counts, sample_sentences
from speechde.features import sets as sets_of
from speechde.progress import quiet_libraries
from speechde.provenance import Clock, check_writable, facts, set_numerics
from speechde.reporting.archive import METRICS, read_metrics
from speechde.reporting.results import finish_report


def evaluate(config: RunConfig, checkpoint: Path) -> dict:
    """Evaluate a trained model folder on ``config.data``; returns ``metrics.json`` as a dict.

    Results are written to ``report_dir``, or to a folder beside the model that is named by corpus, split and clips.
    Languages the model was trained on count as seen, or as heard as synthetic speech alone, whatever the data
    configuration says; the others as zero-shot.
    With ``frontend.shard`` only that share of the clips is encoded, and the dict is empty.
    """
    set_numerics(config)
    quiet_libraries()
    cache = Path(config.cache_dir) if config.cache_dir else cache_root()
    folder = model_folder(checkpoint)
    recorded, clock = facts(config), Clock()
    with clock("fetch"):
        trained = TrainedModel.load(folder)
        speech, record = trained.settings.speech, trained.settings.trained(folder)
        check_split(config.data, record)
        corpus = load_corpus(config.data, cache)
        frontend, encoder = speech_reader(config, trained)
    heard = languages_heard(record)
    whole = corpus.select(config.eval.split, heard if config.eval.languages == "seen" else None)
    utterances = sample_sentences(whole, config.eval.per_language, config.data.split_seed)
    if not utterances:
        raise DataError(f"{corpus.name} has no clip in the split {config.eval.split!r}; set eval.split")
    encode = sets_of.encoding(frontend, encoder)
    where = f"evaluation-{corpus.name}-{config.eval.split}-{content(utterances)}"
    target = Path(config.report_dir) if config.report_dir else folder.parent / where / "results"
    if frontend.share:
        sets = [sets_of.evaluation_set(speech.trim_db, speech.mean_norm, utterances)]
        sets_of.encode_shard(sets, encoder, cache, rate=speech.rate, shard=frontend.share, encode=encode)
        return {}
    check_writable(target)
    with clock("frames"):
        items = sets_of.evaluation_items(speech, encoder, trained.quantiser, utterances, cache, encode)
        utterances = [u for u in utterances if u.id in items]
    roles = roles_of({u.lang for u in utterances}, record, corpus)
    with clock("evaluate"):
        asked = baseline_request(config, trained, encoder, utterances, cache, _model_config(folder))
        results, records = evaluate_model(trained, items, utterances, roles=roles, seed=config.seed, baselines=asked)
    metrics = {
        "recipe": record["recipe"],
        "overrides": record.get("overrides", "default"),
        "mode": record["mode"],
        "seed": record["seed"],
        "data": {
            "corpus": corpus.name,
            config.eval.split: data_counts(utterances, items.seconds),
            **sample_counts(whole, config.eval.per_language),
            "dropped": dropped_counts(corpus, items),
        },
        **recorded,
        "wall_seconds": {stage: round(seconds, 2) for stage, seconds in clock.seconds.items()},
        **results,
    }
    finish_report(metrics, records, None, target)
    return metrics


def _model_config(folder: Path) -> dict | None:
    """The group ``model`` of the configuration that a model folder was trained with.

    None: its run left no results, or it started from another trained model.
    """
    results = folder.parent / "results" / METRICS
    config = as_today(read_metrics(results)["config"]) if results.is_file() else {}
    return None if config.get("init") else config.get("model")
