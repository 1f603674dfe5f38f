"""``evaluate.py``: a trained model on the clips of any corpus. It needs neither Lightning nor Weights & Biases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from speechde.cache import cache_root
from speechde.checkpoint.folder import TrainedModel, check_encoder, encoder_folder, languages_heard, model_folder
from speechde.config import FrontendConfig, RunConfig
from speechde.corpora.fingerprint import content
from speechde.corpora.load import check_split, load_corpus
from speechde.errors import DataError
from speechde.evaluation.run import evaluate_model
from speechde.evaluation.scene import Request
from speechde.evaluation.speech import data_counts, sample_counts, sample_sentences
from speechde.features import sets as sets_of
from speechde.features.encoders import SpeechEncoder
from speechde.features.store import FeatureStore
from speechde.progress import quiet_libraries
from speechde.provenance import Clock, check_writable, facts, set_numerics
from speechde.reporting.archive import METRICS, read_metrics
from speechde.reporting.results import finish_report
from speechde.types import Corpus, Utterance


def evaluate(config: RunConfig, checkpoint: Path) -> dict:
    """Evaluate a trained model folder on ``config.data``; returns ``metrics.json`` as a dict.

    Results are written to ``report_dir``, or to a folder beside the model that is named by corpus, split and clips.
    Languages the model was trained on count as seen, whatever the data configuration says; the others as zero-shot.
    With ``frontend.shard`` only that share of the clips is encoded, and the dict is empty.
    """
    set_numerics(config)
    quiet_libraries()
    cache = Path(config.cache_dir) if config.cache_dir else cache_root()
    folder = model_folder(checkpoint)
    recorded, clock = facts(config), Clock()
    with clock("fetch"):
        trained = TrainedModel.load(folder)
        speech, record = trained.settings["speech"], trained.settings["training"]
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
        sets = [sets_of.evaluation_set(speech["trim_db"], speech.get("mean_norm", 0.0), utterances)]
        sets_of.encode_shard(sets, encoder, cache, rate=speech["rate"], shard=frontend.share, encode=encode)
        return {}
    check_writable(target)
    with clock("frames"):
        items = sets_of.evaluation_items(trained.settings, encoder, trained.quantiser, utterances, cache, encode)
        utterances = [u for u in utterances if u.id in items]
    seen = sorted({u.lang for u in utterances} & set(heard))
    proxy = sorted({u.lang for u in utterances} & set(corpus.proxy) - set(seen))
    zero_shot = sorted({u.lang for u in utterances} - {*seen, *proxy})
    with clock("evaluate"):
        asked = baseline_request(config, trained, encoder, utterances, cache, _model_config(folder))
        results, records = evaluate_model(trained, items, utterances, seen=seen, zero_shot=zero_shot, proxy=proxy,
                                          seed=config.seed, baselines=asked)  # fmt: skip
    metrics = {
        "recipe": record["recipe"],
        "overrides": record.get("overrides", "default"),
        "mode": record["mode"],
        "seed": record["seed"],
        "data": {
            "corpus": corpus.name,
            config.eval.split: data_counts(utterances),
            **sample_counts(whole, config.eval.per_language),
            "dropped": dropped_counts(corpus, items),
        },
        **recorded,
        "wall_seconds": {stage: round(seconds, 2) for stage, seconds in clock.seconds.items()},
        **results,
    }
    finish_report(metrics, records, None, target)
    return metrics


def speech_reader(config: RunConfig, trained: TrainedModel) -> tuple[FrontendConfig, SpeechEncoder]:
    """The speech encoder of a trained model, and the settings of the frontend that name it."""
    speech = trained.settings["speech"]
    encoder_folder(trained.settings)  # refuses what only the folder asks to have fetched
    frontend = replace(config.frontend, encoder=speech["encoder"], layer=speech["layer"])
    encoder = sets_of.build_encoder(frontend)
    check_encoder(trained.settings, encoder)
    return frontend, encoder


def baseline_request(
    config: RunConfig, model: TrainedModel, encoder: SpeechEncoder, utterances: list[Utterance], cache: Path,
    initial: dict | None,
) -> Request:  # fmt: skip
    def items_of(other: TrainedModel) -> FeatureStore:
        check_split(config.data, other.settings["training"])
        _, reader = speech_reader(config, other)
        return sets_of.evaluation_items(other.settings, reader, other.quantiser, utterances, cache)

    return Request(
        config.eval.baselines, config.eval.asr, cache, seed=config.seed, initial=initial, items_of=items_of,
        frames=lambda: sets_of.evaluation_items(model.settings, encoder, None, utterances, cache),
    )  # fmt: skip


def _model_config(folder: Path) -> dict | None:
    """The group ``model`` of the configuration that a model folder was trained with.

    None: its run left no results, or it started from another trained model.
    """
    results = folder.parent / "results" / METRICS
    config = read_metrics(results)["config"] if results.is_file() else {}
    return None if config.get("adapt", {}).get("checkpoint") else config.get("model")


def dropped_counts(corpus: Corpus, *stores: FeatureStore) -> dict[str, int]:
    """Reasons and counts of everything left out of a corpus, reading and decoding together."""
    return dict(Counter(d.reason for d in [*corpus.dropped, *(d for store in stores for d in store.dropped)]))
