"""The training step, under Lightning.

Two things are not standard. Random numbers are reseeded from (seed, step) before every step, so that dropout in a
resumed run equals that of an uninterrupted one whatever was drawn in between. And when nothing on the text side of
the LLM is trained, the pooled text states are made once, before training, and looked up afterwards, which saves more
than a third of the work; the result is the same because a frozen LLM runs without dropout.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch

from speechde.errors import DataError
from speechde.losses.contrastive import ContrastiveLoss
from speechde.models.dual_encoder import DualEncoder
from speechde.training.optim import build_optimiser, parameter_groups
from speechde.types import Batch

BUCKETS = 4  # parts of a batch by length: clips of 1 to 4 s padded together would double the work


class LitDualEncoder(pl.LightningModule):
    """Trains a ``DualEncoder`` with a ``ContrastiveLoss``.

    Args:
        text_states: model → ``(texts, width)`` states of the unique training texts, row by row as ``Batch.group``
            counts them; called before training when the text side of the LLM is frozen.
        dev_recall: model → mean dev R@1 of the seen languages; called at the end of every epoch.
    """

    def __init__(
        self,
        model: DualEncoder,
        loss: ContrastiveLoss,
        *,
        seed: int,
        steps: int,
        lr: float,
        backbone_lr: float,
        weight_decay: float,
        warmup_share: float,
        text_states: Callable[[DualEncoder], np.ndarray] | None = None,
        dev_recall: Callable[[DualEncoder], float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.seed, self.steps = seed, steps
        self.rates = {"lr": lr, "backbone_lr": backbone_lr, "weight_decay": weight_decay}
        self.warmup = max(1, round(warmup_share * steps))
        self.text_states, self.dev_recall = text_states, dev_recall
        self._text_states: torch.Tensor | None = None

    @property
    def text_is_frozen(self) -> bool:
        """Whether the text states before the projection are constants."""
        backbone = self.model.backbone
        return not any(p.requires_grad for n, p in backbone.named_parameters() if n != "embedding.audio")

    def on_fit_start(self) -> None:
        if self.text_is_frozen and self.text_states is not None:
            self._text_states = torch.from_numpy(self.text_states(self.model)).to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self.seed, self.global_step)) % 2**63)

    def on_train_epoch_start(self) -> None:
        self.model.train()  # transformers loads models in eval mode, and Lightning leaves the mode as it is
        if self.text_is_frozen:
            self.model.backbone.eval()  # a frozen LLM has no dropout, on either side

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        speech = self.model.encode_speech(batch.speech, batch.speech_prefix, BUCKETS)
        if self._text_states is None:
            text = self.model.encode_text(batch.text, BUCKETS)
        else:
            text = self.model.project(self._text_states[batch.group])
        group = batch.group
        if (pairs := batch.translations) is not None:  # never looked up: there may be millions, each read once
            speech = torch.cat([speech, self.model.encode_text(pairs.text, BUCKETS)])
            text = torch.cat([text, self.model.encode_text(pairs.english, BUCKETS)])
            group = torch.cat([group, pairs.group])
        losses = self.loss(speech, text, group)
        if not torch.isfinite(losses["loss"]):
            raise DataError(f"the loss became {losses['loss'].item()} at step {self.global_step}; lower optim.lr")
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(group))
        self.log("train/scale", self.loss.scale.detach(), batch_size=len(group))
        return losses["loss"]

    def on_train_epoch_end(self) -> None:
        if self.dev_recall is not None:
            self.log("dev/recall@1", self.dev_recall(self.model), prog_bar=True)

    def configure_optimizers(self) -> dict:
        groups = parameter_groups(self.named_parameters(), **self.rates)
        optimiser, schedule = build_optimiser(groups, warmup=self.warmup, total=self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # frozen weights come back from their source; for a frozen LLM that is 99 % of the file
        named = self.named_parameters(remove_duplicate=False)  # the text rows go by two names
        fixed = {name for name, parameter in named if not parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in fixed}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        own = self.state_dict()
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}
