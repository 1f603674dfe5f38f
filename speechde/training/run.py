"""One training run, end to end: data → frames → units → training → zero-shot evaluation → report.

The run directory, ``runs/<recipe>/<overrides>-s<seed>/``, is named by what was asked for and never by the clock, so a
run that was killed resumes where it stopped, and a finished one is not run again.
"""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from speechde.cache import cache_root
from speechde.config import FrontendConfig, RunConfig
from speechde.data.bitext import TextPair
from speechde.data.containers import split_locator
from speechde.data.statistics import corpus_statistics, durations, format_statistics
from speechde.errors import ConfigError, DataError
from speechde.evaluation.archive import METRICS, archive_run, read_metrics
from speechde.evaluation.run import evaluate_model, finish_report
from speechde.evaluation.scene import Request
from speechde.evaluation.speech import data_counts, sample_counts, sample_sentences
from speechde.evaluation.versions import VERSION
from speechde.export.card import write_card
from speechde.export.folder import TrainedModel, check_encoder, encoder_folder, languages_heard, model_folder
from speechde.frontends.encoders import SpeechEncoder
from speechde.frontends.store import FeatureStore
from speechde.losses.contrastive import ContrastiveLoss
from speechde.models.lora import merge_lora
from speechde.progress import on_terminal, quiet_libraries
from speechde.training import adapt, identity, launch, stages
from speechde.training.bars import progress_callback
from speechde.training.checkpoints import BEST, LAST, SaveEvery, read_checkpoint, to_resume
from speechde.training.corpora import check_split, load_corpus, load_synthetic, load_translations
from speechde.training.dataset import ExampleDataModule, ExampleDataset
from speechde.training.directory import Clock, check_writable, locked, remember_seconds, run_directory
from speechde.training.finished import archived, finished
from speechde.training.lit_module import LitDualEncoder, frozen_names
from speechde.training.plan import (
    Plan,
    format_plan,
    make_plan,
    plan_run,
    save_plan,
    stated_sets,
)
from speechde.training.recall import CutTexts, DevRecall
from speechde.training.record import stored_record, training_record
from speechde.training.tasks import mixture, task_examples
from speechde.training.tracking import build_loggers, commit, hardware, log_results
from speechde.types import Corpus, Utterance

HEADERS = 20_000  # clips whose headers are read to know the hours of a corpus: some seconds
log = logging.getLogger(__name__)


def train(config: RunConfig) -> dict:
    """Run everything and return ``metrics.json`` as a dict (see docs/protocol.md).

    A run that has all its results is not run again (see ``training.finished``). A plan is printed first; ``plan_only``
    stops there and returns ``{"plan": …}``. With ``frontend.shard`` only that share of the clips is encoded, and the
    dict is empty (see docs/scale.md); so it is on all processes but the first.
    """
    _numerics(config)
    quiet_libraries()
    directory = run_directory(config)
    if not (config.plan_only or config.frontend.share):
        if not config.trainer.resume and identity.has_weights(directory):
            raise ConfigError(f"{directory} holds a run already; resume it (trainer.resume=true), or delete it")
        identity.refuse_another(directory, identity.of_config(config))
    if done := finished(config, directory):
        return done
    with ExitStack() as held:
        return _train(config, directory, held)


def _train(config: RunConfig, directory: Path, held: ExitStack) -> dict:
    cache = Path(config.cache_dir) if config.cache_dir else cache_root()
    pl.seed_everything(config.seed, verbose=False)
    if sizes := stated_sets(config):
        return _show(make_plan(config, sizes))
    facts, clock = _facts(config), Clock(directory)
    launch.connect()
    with clock("fetch"), launch.first_rank_first():
        adapting = config.adapt.checkpoint is not None
        corpus = adapt.adapted_corpus(config, cache) if adapting else load_corpus(config.data, cache)
        synthetic = load_synthetic(config.data, corpus, cache)
        translations = load_translations(config.data, corpus)
    _show_corpus(corpus)
    seen_train = corpus.select("train", corpus.seen)
    training = seen_train + (synthetic.utterances if synthetic else [])
    dev = corpus.select("dev", corpus.seen)
    if not seen_train or not dev:
        found = f"{len(seen_train)} train and {len(dev)} dev clips in {', '.join(corpus.seen) or 'no language'}"
        found += f" (left out: {_dropped(corpus)})" if corpus.dropped else ""
        raise ConfigError(f"{corpus.name} has {found}; training needs both: set data.seen, and split in a manifest")
    sets = stages.training_sets(config.frontend, training, dev)
    whole = corpus.select(config.eval.split, corpus.seen if config.eval.languages == "seen" else None)
    test = sample_sentences(whole, config.eval.per_language, config.data.split_seed)
    pairs = translations.pairs if translations else []
    plan = rank_zero_only(plan_run)(config, training, dev, whole, pairs)
    shown = _show(plan) if plan else {}
    if config.plan_only:
        return shown
    with clock("fetch"), launch.first_rank_first():
        encoder = stages.build_encoder(config.frontend)
        initial = adapt.initial_model(config, encoder) if adapting else None
    encode = stages.encoding(config.frontend, encoder)
    if config.frontend.share:
        sets.append(stages.evaluation_set(config.frontend.trim_db, config.frontend.mean_norm, test))
        stages.encode_shard(sets, encoder, cache, rate=config.frontend.rate, shard=config.frontend.share, encode=encode)
        return {}
    held.enter_context(locked(directory))
    check_writable(config.report_dir, config.archive_dir)
    rank_zero_only(save_plan)(plan, directory / "plan.json")
    with clock("frames"), launch.first_rank_first():
        frames = stages.training_frames(
            sets, encoder, cache, rate=config.frontend.rate, seed=config.seed, encode=encode
        )
    with clock("kmeans"), launch.first_rank_first():
        features = stages.training_features(config.frontend, frames, cache, config.seed, initial and initial.quantiser)
    del frames  # its sample for k-means is a gigabyte
    built = initial or stages.build_model(config, encoder, features)
    kept, too_long = stages.usable(training, features, config.trainer.max_seconds, built)
    log.info("training on %d clips, %d of them synthetic", len(kept), sum(u.synthetic for u in kept))
    log.info("left out: %s; %s", features.dropped or "none", ", ".join(f"{n} {why}" for why, n in too_long.items()))
    clips = {"train": kept, "dev": dev}
    known = identity.of_run(config, clips, features.seconds | features.dev.seconds, pairs, built)
    rank_zero_only(identity.check)(directory, known)
    cut = CutTexts()
    loggers = build_loggers(config.logger, directory, f"{config.recipe_name}/{config.run_name}", facts["config"])
    with clock("train"):
        best = _fit(config, directory, loggers, built, features, kept, pairs, dev, cut, cache)
        if best is None:
            return {}
        folder = directory / "model"
        corpora = [corpus, *([synthetic] if synthetic else [])]
        before = built.settings.get("training")  # of a model that was adapted
        record = training_record(config, corpora, clips, facts, best, before)
        built.settings["training"] = stored_record(folder) or record
        built.card = None  # an adapted model came with that of the model before
        if not folder.exists():
            built.save(folder)
    with clock("evaluate"):
        items = stages.evaluation_items(built.settings, encoder, built.quantiser, test, cache, encode)
        test = [u for u in test if u.id in items]
        asked = _baselines(config, built, encoder, test, cache, None if adapting else asdict(config.model))
        results, records = evaluate_model(built, items, test, seen=corpus.seen, zero_shot=corpus.zero_shot,
                                          proxy=corpus.proxy, seed=config.seed, baselines=asked)  # fmt: skip
    metrics = {
        "recipe": config.recipe_name,
        "overrides": config.run_name,
        "mode": config.mode,
        "seed": config.seed,
        "dev_recall@1": best,
        "data": {
            "corpus": corpus.name,
            "train": data_counts(kept),
            "dev": data_counts(dev),
            config.eval.split: data_counts(test),
            **sample_counts(whole, config.eval.per_language),
            "noted": corpus.noted_counts() | cut.counts(built.prompt.max_tokens),
            "dropped": Counter(_dropped(corpus, items)) + Counter(features.dropped) | too_long,
            **({"translations": translations.counts()} if translations else {}),
            "encoder_times_real_time": [round(speed, 1) for speed in features.times_real_time],
        },
        **facts,
        **results,
    }
    metrics["wall_seconds"] = remember_seconds(directory, clock.seconds)
    finish_report(metrics, records, directory, Path(config.report_dir) if config.report_dir else None)
    write_card(folder, built, metrics)
    if config.archive_dir:
        archive_run(directory / "results", archived(config, directory))
    if adapting:
        adapt.show_change(adapt.report_change(config, directory, metrics, items, test))
    log_results(loggers, metrics, directory, config.logger.log_model)
    return metrics


def evaluate(config: RunConfig, checkpoint: Path) -> dict:
    """Evaluate a trained model folder on ``config.data``; returns ``metrics.json`` as a dict.

    Results are written to ``report_dir``, or to a folder beside the model that is named by corpus, split and clips.
    Languages the model was trained on count as seen, whatever the data configuration says; the others as zero-shot.
    With ``frontend.shard`` only that share of the clips is encoded, and the dict is empty.
    """
    _numerics(config)
    quiet_libraries()
    cache = Path(config.cache_dir) if config.cache_dir else cache_root()
    folder = model_folder(checkpoint)
    facts, clock = _facts(config), Clock()
    with clock("fetch"):
        trained = TrainedModel.load(folder)
        speech, record = trained.settings["speech"], trained.settings["training"]
        check_split(config.data, record)
        corpus = load_corpus(config.data, cache)
        frontend, encoder = _reader(config, trained)
    heard = languages_heard(record)
    whole = corpus.select(config.eval.split, heard if config.eval.languages == "seen" else None)
    utterances = sample_sentences(whole, config.eval.per_language, config.data.split_seed)
    if not utterances:
        raise DataError(f"{corpus.name} has no clip in the split {config.eval.split!r}; set eval.split")
    encode = stages.encoding(frontend, encoder)
    where = f"evaluation-{corpus.name}-{config.eval.split}-{identity.content(utterances)}"
    target = Path(config.report_dir) if config.report_dir else folder.parent / where / "results"
    if frontend.share:
        sets = [stages.evaluation_set(speech["trim_db"], speech.get("mean_norm", 0.0), utterances)]
        stages.encode_shard(sets, encoder, cache, rate=speech["rate"], shard=frontend.share, encode=encode)
        return {}
    check_writable(target)
    with clock("frames"):
        items = stages.evaluation_items(trained.settings, encoder, trained.quantiser, utterances, cache, encode)
        utterances = [u for u in utterances if u.id in items]
    seen = sorted({u.lang for u in utterances} & set(heard))
    proxy = sorted({u.lang for u in utterances} & set(corpus.proxy) - set(seen))
    zero_shot = sorted({u.lang for u in utterances} - {*seen, *proxy})
    with clock("evaluate"):
        asked = _baselines(config, trained, encoder, utterances, cache, _model_config(folder))
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
            "dropped": _dropped(corpus, items),
        },
        **facts,
        "wall_seconds": {stage: round(seconds, 2) for stage, seconds in clock.seconds.items()},
        **results,
    }
    finish_report(metrics, records, None, target)
    return metrics


def _numerics(config: RunConfig) -> None:
    """What the numbers of training and of every evaluation depend on, beside the configuration."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_float32_matmul_precision("high")


def _reader(config: RunConfig, trained: TrainedModel) -> tuple[FrontendConfig, SpeechEncoder]:
    """The speech encoder of a trained model, and the settings of the frontend that name it."""
    speech = trained.settings["speech"]
    encoder_folder(trained.settings)  # refuses what only the folder asks to have fetched
    frontend = replace(config.frontend, encoder=speech["encoder"], layer=speech["layer"])
    encoder = stages.build_encoder(frontend)
    check_encoder(trained.settings, encoder)
    return frontend, encoder


def _baselines(
    config: RunConfig, model: TrainedModel, encoder: SpeechEncoder, utterances: list[Utterance], cache: Path,
    initial: dict | None,
) -> Request:  # fmt: skip
    def items_of(other: TrainedModel) -> FeatureStore:
        check_split(config.data, other.settings["training"])
        _, reader = _reader(config, other)
        return stages.evaluation_items(other.settings, reader, other.quantiser, utterances, cache)

    return Request(
        config.eval.baselines, config.eval.asr, cache, seed=config.seed, initial=initial, items_of=items_of,
        frames=lambda: stages.evaluation_items(model.settings, encoder, None, utterances, cache),
    )  # fmt: skip


def _model_config(folder: Path) -> dict | None:
    """The group ``model`` of the configuration that a model folder was trained with.

    None: its run left no results, or it started from another trained model.
    """
    results = folder.parent / "results" / METRICS
    config = read_metrics(results)["config"] if results.is_file() else {}
    return None if config.get("adapt", {}).get("checkpoint") else config.get("model")


@rank_zero_only
def show(text: str) -> None:
    """Print once, however many processes there are."""
    print(text, flush=True)


def _durations(corpus: Corpus) -> dict[str, float] | None:
    """Seconds of the clips, where reading every header takes seconds; None elsewhere (``speechde data stats``)."""
    unknown = [u for u in corpus.utterances if u.seconds is None]
    many = len(unknown) > HEADERS or any(split_locator(u.audio) for u in unknown)
    return None if many else durations(corpus.utterances)


def _show(plan: Plan) -> dict:
    show(format_plan(plan))
    return {"plan": asdict(plan)}


@rank_zero_only
def _show_corpus(corpus: Corpus) -> None:
    show(format_statistics(corpus_statistics(corpus, _durations(corpus))))


def _facts(config: RunConfig) -> dict:
    """What is recorded about any run beside its numbers; read at its start, because the code may change meanwhile."""
    return {
        "commit": commit(),
        "hardware": hardware(),
        "command": shlex.join(["python", *sys.argv]) if sys.argv[0].endswith(".py") else "",
        "config": asdict(config),
        "version": VERSION,
        "sources": identity.sources(config),
    }


def _dropped(corpus: Corpus, *stores: FeatureStore) -> dict[str, int]:
    """Reasons and counts of everything left out of a corpus, reading and decoding together."""
    return dict(Counter(d.reason for d in [*corpus.dropped, *(d for store in stores for d in store.dropped)]))


def _fit(
    config: RunConfig, directory: Path, loggers: list[Logger], built: TrainedModel, features: stages.Features,
    training: list[Utterance], translations: list[TextPair], dev: list[Utterance], cut: CutTexts, cache: Path,
) -> float | None:  # fmt: skip
    """Train (or resume, or find that training is done), load the best weights into ``built``.

    Returns the dev R@1 of the best checkpoint; None on all processes but the first, whose work ends here.
    """
    t = config.trainer
    if t.steps % t.eval_every:
        raise ConfigError(f"trainer.steps={t.steps} is not a multiple of trainer.eval_every={t.eval_every}")
    prompt = built.prompt
    tasks = task_examples(config, training, translations)
    dataset = ExampleDataset(tasks, features.train, prompt, cut.training.add)
    batches = mixture(config, tasks, steps=t.eval_every, views=len(features.train))
    recall = DevRecall(prompt, [u for u in dev if u.id in features.dev], features.dev, cut.dev.add)
    module = LitDualEncoder(
        built.model,
        ContrastiveLoss(**asdict(config.loss)),
        seed=config.seed,
        steps=t.steps,
        text_states=lambda model: stages.frozen_text_states(model, dataset.known_ids, cache),
        dev_recall=recall,
        micro_batch=t.micro_batch,
        **{key: value for key, value in asdict(config.optim).items() if key != "clip"},
    )
    checkpoints = directory / "checkpoints"
    keeper = ModelCheckpoint(
        checkpoints, filename="best", monitor="dev/recall@1", mode="max", save_on_train_epoch_end=True,
        enable_version_counter=False,
    )  # fmt: skip
    # save_last of the first would only be written when the best one is
    latest = ModelCheckpoint(checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    often = [SaveEvery(t.save_every, t.eval_every, checkpoints / LAST)] if t.save_every else []
    trainer = pl.Trainer(
        max_epochs=t.steps // t.eval_every,
        accelerator=t.accelerator,
        **launch.trainer_options(t.devices, t.strategy),
        precision=launch.precision(t.precision),
        gradient_clip_val=config.optim.clip,
        logger=loggers,
        callbacks=[*often, keeper, latest, progress_callback(t.steps)],
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=min(10, t.eval_every),
        num_sanity_val_steps=0,
        enable_progress_bar=on_terminal(),
        enable_model_summary=False,
    )
    if before := to_resume(checkpoints):
        log.info("resuming from %s", before)
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # meant: see on_train_epoch_start
    warnings.filterwarnings("ignore", r"You're resuming from a checkpoint that ended before")  # the sampler knows
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    trainer.fit(
        module, datamodule=ExampleDataModule(dataset, batches), ckpt_path=before and str(before), weights_only=True
    )
    launch.disconnect()
    if trainer.global_rank:
        return None
    built.model = module.whole
    state = read_checkpoint(checkpoints / BEST)
    weights = {k.removeprefix("model."): v for k, v in state["state_dict"].items() if k.startswith("model.")}
    missing, unexpected = built.model.load_state_dict(weights, strict=False)
    if other := [*unexpected, *(name for name in missing if name not in frozen_names(built.model))]:
        raise ConfigError(f"{checkpoints / BEST} is of another model ({', '.join(other[:2])} …); delete {directory}")
    merge_lora(built.model.backbone)  # whether the model folder is still to be written or is there
    built.model.cpu().eval()
    return float(state["callbacks"][keeper.state_key]["best_model_score"])
