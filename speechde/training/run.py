"""One training run, end to end: data → frames → units → training → zero-shot evaluation → report.

The run directory, ``runs/<recipe>/<overrides>-s<seed>/``, is named by what was asked for and never by the clock, so a
run that was killed resumes where it stopped, and a finished one is not run again.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from speechde.cache import cache_root
from speechde.checkpoint.card import write_card
from speechde.checkpoint.folder import TrainedModel
from speechde.config import RunConfig
from speechde.errors import ConfigError
from speechde.evaluation.run import baseline_request, dropped_counts, evaluate_model
from speechde.evaluation.speech import data_counts, sample_counts
from speechde.features.encoders import SpeechEncoder
from speechde.features.sets import (
    build_encoder,
    encode_shard,
    encoding,
    evaluation_items,
    evaluation_set,
    training_sets,
)
from speechde.progress import quiet_libraries
from speechde.provenance import Clock, check_writable, facts, remember_seconds, set_numerics
from speechde.reporting.archive import archive_run
from speechde.reporting.results import finish_report
from speechde.training import adapt, identity, launch
from speechde.training.build import build_model
from speechde.training.data import TrainingData, read_data, show, show_corpus
from speechde.training.directory import locked, run_directory
from speechde.training.features import Features, training_features, training_frames, usable
from speechde.training.finished import archived, finished
from speechde.training.fit import fit
from speechde.training.plan.plan import Plan, format_plan, make_plan, plan_run, save_plan, stated_sets
from speechde.training.recall import CutTexts
from speechde.training.record import stored_record, training_record
from speechde.training.tracking import build_loggers, log_results
from speechde.types import Utterance

log = logging.getLogger(__name__)


def train(config: RunConfig) -> dict:
    """Run everything and return ``metrics.json`` as a dict (see docs/protocol.md).

    A run that has all its results is not run again (see ``training.finished``). A plan is printed first; ``plan_only``
    stops there and returns ``{"plan": …}``. With ``frontend.shard`` only that share of the clips is encoded, and the
    dict is empty (see docs/scale.md); so it is on all processes but the first.
    """
    set_numerics(config)
    quiet_libraries()
    directory = run_directory(config)
    if not (config.plan_only or config.frontend.share):
        if not config.trainer.resume and identity.has_weights(directory):
            raise ConfigError(f"{directory} holds a run already; resume it (trainer.resume=true), or delete it")
        identity.refuse_another(directory, identity.of_config(config))
    if done := finished(config, directory):
        return done
    pl.seed_everything(config.seed, verbose=False)
    if sizes := stated_sets(config):
        return _show(make_plan(config, sizes))
    with ExitStack() as held:
        return _Run(config, directory).run(held)


class _Run:
    """The steps of a run, in their order, and what each leaves for the next."""

    def __init__(self, config: RunConfig, directory: Path) -> None:
        self.config, self.directory = config, directory
        self.cache = Path(config.cache_dir) if config.cache_dir else cache_root()
        self.facts, self.clock, self.cut = facts(config), Clock(directory), CutTexts()
        self.adapting = config.adapt.checkpoint is not None

    def run(self, held: ExitStack) -> dict:
        config, directory = self.config, self.directory
        launch.connect()
        with self.clock("fetch"), launch.first_rank_first():
            data = read_data(config, self.cache)
        show_corpus(data.corpus)
        plan = rank_zero_only(plan_run)(config, data.training, data.dev, data.whole, data.pairs)
        shown = _show(plan) if plan else {}
        if config.plan_only:
            return shown
        with self.clock("fetch"), launch.first_rank_first():
            encoder = build_encoder(config.frontend)
            initial = adapt.initial_model(config, encoder) if self.adapting else None
        if config.frontend.share:
            return self.encode_share(data, encoder)
        held.enter_context(locked(directory))
        check_writable(config.report_dir, config.archive_dir)
        rank_zero_only(save_plan)(plan, directory / "plan.json")
        features = self.features(data, encoder, initial)
        built = initial or build_model(config, encoder, features)
        kept, too_long = usable(data.training, features, config.trainer.max_seconds, built)
        log.info("training on %d clips, %d of them synthetic", len(kept), sum(u.synthetic for u in kept))
        log.info("left out: %s; %s", features.dropped or "none", ", ".join(f"{n} {why}" for why, n in too_long.items()))
        name = f"{config.recipe_name}/{config.run_name}"
        loggers = build_loggers(config.logger, directory, name, self.facts["config"])
        best = self.fit(data, kept, features, built, loggers)
        if best is None:
            return {}
        metrics, items, test = self.evaluate(data, kept, built, encoder, best, features, too_long)
        if self.adapting:
            adapt.show_change(adapt.report_change(config, directory, metrics, items, test))
        log_results(loggers, metrics, directory, config.logger.log_model)
        return metrics

    def encode_share(self, data: TrainingData, encoder: SpeechEncoder) -> dict:
        """Encode a share of the clips, and no more."""
        f = self.config.frontend
        sets = [*training_sets(f, data.training, data.dev), evaluation_set(f.trim_db, f.mean_norm, data.test)]
        encode_shard(sets, encoder, self.cache, rate=f.rate, shard=f.share, encode=encoding(f, encoder))
        return {}

    def features(self, data: TrainingData, encoder: SpeechEncoder, initial: TrainedModel | None) -> Features:
        """Frames, or units, of the training and dev clips."""
        f, seed = self.config.frontend, self.config.seed
        with self.clock("frames"), launch.first_rank_first():
            sets = training_sets(f, data.training, data.dev)
            frames = training_frames(sets, encoder, self.cache, rate=f.rate, seed=seed, encode=encoding(f, encoder))
        with self.clock("kmeans"), launch.first_rank_first():
            return training_features(f, frames, self.cache, seed, initial and initial.quantiser)

    def fit(
        self, data: TrainingData, kept: list[Utterance], features: Features, built: TrainedModel, loggers: list
    ) -> float | None:
        """Train, and write the model folder; the dev R@1 of the best checkpoint, None on all but the first process."""
        config, folder, clips = self.config, self.directory / "model", {"train": kept, "dev": data.dev}
        known = identity.of_run(config, clips, features.seconds | features.dev.seconds, data.pairs, built)
        rank_zero_only(identity.check)(self.directory, known)
        with self.clock("train"):
            best = fit(
                config, self.directory, loggers, built, features, kept, data.pairs, data.dev, self.cut, self.cache
            )
            if best is None:
                return None
            before = built.settings.training  # of a model that was adapted
            record = training_record(config, data.corpora, clips, self.facts, best, before)
            built.settings = replace(built.settings, training=stored_record(folder) or record)
            built.card = None  # an adapted model came with that of the model before
            if not folder.exists():
                built.save(folder)
        return best

    def evaluate(
        self, data: TrainingData, kept: list[Utterance], built: TrainedModel, encoder: SpeechEncoder, best: float,
        features: Features, too_long: dict[str, int],
    ) -> tuple[dict, dict, list[Utterance]]:  # fmt: skip
        """The metrics of the run, written and shown; the stored items and the clips that they are of."""
        config, corpus, split = self.config, data.corpus, self.config.eval.split
        with self.clock("evaluate"):
            encode = encoding(config.frontend, encoder)
            items = evaluation_items(built.settings.speech, encoder, built.quantiser, data.test, self.cache, encode)
            test = [u for u in data.test if u.id in items]
            initial = None if self.adapting else asdict(config.model)
            asked = baseline_request(config, built, encoder, test, self.cache, initial)
            results, records = evaluate_model(built, items, test, roles=corpus.roles, seed=config.seed, baselines=asked)
        metrics = {
            "recipe": config.recipe_name,
            "overrides": config.run_name,
            "mode": config.mode,
            "seed": config.seed,
            "dev_recall@1": best,
            "data": {
                "corpus": corpus.name,
                "train": data_counts(kept),
                "dev": data_counts(data.dev),
                split: data_counts(test),
                **sample_counts(data.whole, config.eval.per_language),
                "noted": corpus.noted_counts() | self.cut.counts(built.prompt.max_tokens),
                "dropped": Counter(dropped_counts(corpus, items)) + Counter(features.dropped) | too_long,
                **({"translations": data.translations.counts()} if data.translations else {}),
                "encoder_times_real_time": [round(speed, 1) for speed in features.times_real_time],
            },
            **self.facts,
            **results,
        }
        metrics["wall_seconds"] = remember_seconds(self.directory, self.clock.seconds)
        finish_report(metrics, records, self.directory, Path(config.report_dir) if config.report_dir else None)
        write_card(self.directory / "model", built, metrics)
        if config.archive_dir:
            archive_run(self.directory / "results", archived(config, self.directory))
        return metrics, items, test


def _show(plan: Plan) -> dict:
    show(format_plan(plan))
    return {"plan": asdict(plan)}
