"""From an untrained model and its features to the best weights of a run."""

from __future__ import annotations

import logging
import math
import warnings
from collections import ChainMap
from dataclasses import asdict, replace

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from speechde.checkpoint.folder import TrainedModel
from speechde.errors import ConfigError
from speechde.evaluation.speech import data_counts
from speechde.losses.contrastive import ContrastiveLoss
from speechde.models.lora import merge_lora
from speechde.progress import on_terminal
from speechde.training import identity, launch
from speechde.training.averaging import WeightAverage, averaged_weights
from speechde.training.bank import check_frozen
from speechde.training.bars import progress_callback
from speechde.training.checkpoints import BEST, LAST, SaveEvery, read_checkpoint, to_resume
from speechde.training.data import TrainingData
from speechde.training.dataset import ExampleDataModule, ExampleDataset
from speechde.training.features import Features, frozen_text_states
from speechde.training.letters import Alphabet, LetterReader
from speechde.training.lit_module import LitDualEncoder, frozen_names, text_is_frozen
from speechde.training.prepare import longest_clip
from speechde.training.recall import DevRecall
from speechde.training.record import stored_record, training_record
from speechde.training.session import Session
from speechde.training.tasks import held_out_tasks, mixture, readings, task_examples

log = logging.getLogger(__name__)


def train_model(session: Session, data: TrainingData, features: Features, built: TrainedModel) -> float | None:
    """Train, and write the model folder; the dev R@1 of the best checkpoint, None on all but the first process."""
    config, folder = session.config, session.directory / "model"
    clips = {"train": data.training, "dev": data.dev}
    lengths = features.seconds | features.dev.seconds
    known = identity.of_run(config, clips, lengths, data.pairs, built)
    rank_zero_only(identity.check)(session.directory, known)
    with session.clock("train"):
        best = fit(session, features, built, data)
        if best is None:
            return None
        before = built.settings.training  # of the model that it started from
        chosen = None if math.isnan(best) else best  # nothing was held out
        counts = {split: data_counts(some, lengths) for split, some in clips.items() if some}
        record = training_record(config, data.corpora, counts, session.facts, chosen, before)
        built.settings = replace(built.settings, training=stored_record(folder) or record)
        built.card = None  # a model that was started from came with its own
        if not folder.exists():
            built.save(folder)
    return best


def fit(session: Session, features: Features, built: TrainedModel, data: TrainingData) -> float | None:
    """Train (or resume, or find that training is done), load the best weights into ``built``.

    Returns the dev R@1 of the best checkpoint; None on all processes but the first, whose work ends here.
    """
    config, directory, cut = session.config, session.directory, session.cut
    t = config.trainer
    if t.steps % t.eval_every:
        raise ConfigError(f"trainer.steps={t.steps} is not a multiple of trainer.eval_every={t.eval_every}")
    prompt = built.prompt
    lasts = longest_clip(config, built, data.training), features.seconds
    examples = task_examples(config, data.training, data.pairs, data.files, *lasts)
    batches = mixture(config, examples, steps=t.eval_every, views=len(features.train))
    alphabet = Alphabet.of(data.training) if config.ctc.weight else None
    known = text_is_frozen(built.model)  # else no state is computed before training
    check_frozen(config.loss.bank, known)
    dataset = ExampleDataset(examples, features.train, prompt, cut.training.add, readings(config), alphabet, known)
    recall = DevRecall(
        prompt,
        [u for u in data.dev if u.id in features.dev],
        ChainMap(features.dev, features.train[0]),
        cut.dev.add,
        held_out_tasks(config, data.held_out["dev"], "dev"),
    )
    module = LitDualEncoder(
        built.model,
        ContrastiveLoss(**{key: value for key, value in asdict(config.loss).items() if key != "bank"}),
        seed=config.seed,
        steps=t.steps,
        text_states=lambda model: frozen_text_states(model, dataset.known_ids, session.cache),
        dev_recall=recall,
        micro_batch=t.micro_batch,
        reader=None if alphabet is None else LetterReader(built.model, len(alphabet), **asdict(config.ctc)),
        bank=dataset.bank(config.loss.bank) if config.loss.bank else None,
        average=None if t.average.kind == "none" else WeightAverage(t.average, t.steps // t.eval_every),
        **{key: value for key, value in asdict(config.optim).items() if key != "clip"},
    )
    checkpoints = directory / "checkpoints"
    keeper = ModelCheckpoint(  # without dev there is nothing to choose by, and the last weights are the best
        checkpoints, filename="best", monitor="dev/recall@1" if recall.tasks else None, mode="max",
        save_on_train_epoch_end=True, enable_version_counter=False,
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
        logger=session.loggers,
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
        module,
        datamodule=ExampleDataModule(dataset, batches, equal=t.strategy == "fsdp"),
        ckpt_path=before and str(before),
        weights_only=True,
    )
    launch.disconnect()
    if trainer.global_rank:
        return None
    built.model = module.whole
    state = read_checkpoint(checkpoints / BEST)
    weights = {k.removeprefix("model."): v for k, v in state["state_dict"].items() if k.startswith("model.")}
    weights |= averaged_weights(state)
    missing, unexpected = built.model.load_state_dict(weights, strict=False)
    if other := [*unexpected, *(name for name in missing if name not in frozen_names(built.model))]:
        raise ConfigError(f"{checkpoints / BEST} is of another model ({', '.join(other[:2])} …); delete {directory}")
    merge_lora(built.model.backbone)  # whether the model folder is still to be written or is there
    built.model.cpu().eval()
    score = state["callbacks"][keeper.state_key]["best_model_score"]
    return math.nan if score is None else float(score)
