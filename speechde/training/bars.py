"""Progress of training: Lightning's bar on a terminal, lines with loss and dev R@1 elsewhere (see ``progress``)."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar

from speechde.progress import Lines, on_terminal


def progress_callback(steps: int) -> pl.Callback:
    """What shows the progress of a training of ``steps`` steps."""
    return TQDMProgressBar(refresh_rate=10) if on_terminal() else StepLines(steps)


class StepLines(pl.Callback):
    """A line now and then, one after each dev evaluation, and one at the end; of the first process alone."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._lines: Lines | None = None
        self._loss: torch.Tensor | None = None
        self._recall = ""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._lines = Lines("train", self.steps, "steps", trainer.global_step)
            self._lines.note = self._note
            self._lines.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if self._lines is not None:
            self._loss = outputs["loss"].detach()
            self._lines.advance(1)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._evaluated(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._evaluated(trainer, last=True)
        self._end(None)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._end(type(exception))

    def _evaluated(self, trainer: pl.Trainer, last: bool = False) -> None:
        """Take up the dev R@1 of the epoch before, which is logged after all callbacks have seen its end."""
        found = trainer.callback_metrics.get("dev/recall@1")
        if self._lines is not None and found is not None:
            self._recall = f"dev R@1 {100 * float(found):.1f} %"
            if not last:
                self._lines.say()

    def _end(self, failure: type | None) -> None:
        if self._lines is not None:
            self._lines.__exit__(failure)
            self._lines = None

    def _note(self) -> str:
        # the loss is read here and not at every step, which would make a GPU wait
        return ", ".join(filter(None, [self._loss is not None and f"loss {self._loss.item():.3f}", self._recall]))
