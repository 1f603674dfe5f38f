"""Checkpoints inside an epoch, so that a run with long epochs loses little when it is killed."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl


class SaveEvery(pl.Callback):
    """Writes ``path`` every ``steps`` steps, but not at the end of an epoch of ``epoch`` steps.

    There the checkpoint that follows the dev evaluation takes its place: a run resumed from one written before would
    leave the evaluation out.
    """

    def __init__(self, steps: int, epoch: int, path: Path) -> None:
        self.steps, self.epoch, self.path = steps, epoch, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step % self.steps == 0 and trainer.global_step % self.epoch:
            trainer.save_checkpoint(self.path)
