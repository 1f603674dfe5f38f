"""Checkpoints: written inside an epoch too, so that a run with long epochs loses little when it is killed, and read."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytorch_lightning as pl
import torch

from speechde.errors import DataError

BEST, LAST = "best.ckpt", "last.ckpt"
log = logging.getLogger(__name__)


def read_checkpoint(path: Path) -> dict:
    """A checkpoint, memory-mapped.

    Raises:
        DataError: it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is damaged ({what}); delete {path.parents[1]} and train again") from error


def to_resume(folder: Path) -> Path | None:
    """The checkpoint that training goes on from: the last, or the best where the last is damaged; None without any.

    Raises:
        DataError: all are damaged.
    """
    found = [path for path in (folder / LAST, folder / BEST) if path.is_file()]
    for path in found:
        try:
            read_checkpoint(path)
            return path
        except DataError as error:
            if path == found[-1]:
                raise
            log.warning("%s; going on from %s", str(error).partition(";")[0], found[-1])
    return None


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
