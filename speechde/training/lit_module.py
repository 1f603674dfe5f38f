"""The training step, under Lightning.

Two things are not standard. Random numbers are reseeded from (seed, step, rank) before every step, so that dropout in
a resumed run equals that of an uninterrupted one whatever was drawn in between. And when nothing on the text side of
the LLM is trained, the pooled text states are made once, before training, and looked up afterwards, which saves more
than a third of the work; the result is the same because a frozen LLM runs without dropout.

With several processes the loss is that of all their embeddings (``speechde.distributed``). A batch larger than
``micro_batch`` is encoded in parts with cached gradients (``speechde.losses.gradcache``). Optimisation is Lightning's
automatic one in every case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from speechde.distributed import alike, from_first, gather, rank
from speechde.errors import ConfigError, DataError
from speechde.losses.contrastive import ContrastiveLoss
from speechde.losses.gradcache import cached
from speechde.models.dual_encoder import DualEncoder, in_buckets
from speechde.models.frontends.base import on_host
from speechde.training import sharding
from speechde.training.averaging import KEY as AVERAGE
from speechde.training.averaging import WeightAverage
from speechde.training.bank import TextBank
from speechde.training.launch import first_rank_first
from speechde.training.letters import LetterReader
from speechde.training.optim import build_optimiser, parameter_groups
from speechde.training.shares import WaitClock, padding_share
from speechde.types import Batch, Inputs, Rows

WATCHED = 10  # steps after which a GPU's losses are looked at: those whose numbers are logged
BUCKETS = 4  # parts of a batch by length: clips of 1 to 4 s padded together would double the work


class LitDualEncoder(pl.LightningModule):
    """Trains a ``DualEncoder`` with a ``ContrastiveLoss``.

    Args:
        text_states: model → ``(texts, width)`` states of the unique training texts, row by row as ``Rows.known``
            counts them; called before training when the text side of the LLM is frozen.
        dev_recall: model → mean dev R@1 of the seen languages; called at the end of every epoch, by the first rank, or
            by all where the model is sharded.
        micro_batch: rows that are encoded at once, on each rank; ``None`` for all of them.
        average: of the weights, which dev recall is that of; ``None`` for the weights themselves.
        reader: learns to read the letters that are spoken, beside the contrastive loss; ``None`` for that alone.
        bank: draws further transcripts that clips are compared with; needs ``text_states``.
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
        micro_batch: int | None = None,
        average: WeightAverage | None = None,
        reader: LetterReader | None = None,
        bank: TextBank | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.reader, self.bank = model, loss, reader, bank
        self.seed, self.steps = seed, steps
        self.rates = {"lr": lr, "backbone_lr": backbone_lr, "weight_decay": weight_decay}
        self.warmup = max(1, round(warmup_share * steps))
        self.text_states, self.dev_recall, self.micro_batch = text_states, dev_recall, micro_batch
        self.average = average
        self.waiting = WaitClock()
        self._text_states: torch.Tensor | None = None
        self._diverged: torch.Tensor | None = None  # step and loss of the first that was not finite; −1 before
        self._whole: list[DualEncoder] = []  # in a list, so that it is not a submodule

    def configure_model(self) -> None:
        if self.device_mesh is not None and not sharding.is_sharded(self.model):
            self.strict_loading = False  # checkpoints lack the frozen weights
            whole = sharding.shard(self.model, self.device_mesh["data_parallel"])
            self._whole = [whole] if rank() == 0 else []  # a machine's memory need not hold it for every process

    @property
    def whole(self) -> DualEncoder:
        """The model; where it was sharded, and on the first rank, one that is not, with the weights it started from."""
        return self._whole[0] if self._whole else self.model

    @property
    def text_is_frozen(self) -> bool:
        """Whether the text states before the projection are constants."""
        return text_is_frozen(self.model)

    def on_fit_start(self) -> None:
        if self.average is not None:
            self.average.start(self.model)
        if self.text_is_frozen and self.text_states is not None:
            # all processes have to take part in what a sharded model computes
            with nullcontext() if sharding.is_sharded(self.model) else first_rank_first():
                self._text_states = torch.from_numpy(self.text_states(self.model)).to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.waiting.start()
        others = (rank(),) if rank() else ()  # the first rank draws what a single process draws
        torch.manual_seed(hash((self.seed, self.global_step, *others)) % 2**63)

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        self.waiting.end()

    def on_train_start(self) -> None:
        self._set_mode()  # a run that resumes inside an epoch does not start it

    def on_train_epoch_start(self) -> None:
        self._set_mode()
        self.waiting.reset()

    def _set_mode(self) -> None:
        self.model.train()  # transformers loads models in eval mode, and Lightning leaves the mode as it is
        if self.text_is_frozen:
            self.model.backbone.eval()  # a frozen LLM has no dropout, on either side

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        computed = [rows.query for rows in batch.rows]
        computed += [items for rows in batch.rows for items, known in rows.answers if not self._looked_up(known)]
        self._check_alike(computed)
        queries, read = zip(*map(self._query, batch.rows), strict=True)
        query = torch.cat(queries)
        # of each part of the batch its positives and, where its task has any, hard negatives
        answers = zip(*([self._answer(*side) for side in rows.answers] for rows in batch.rows), strict=True)
        positive, *negatives = map(torch.cat, answers)
        negatives = [each.unflatten(0, (len(query), -1)) for each in negatives]
        losses = self.loss(*gather(query, positive, batch.meaning, *negatives), **self._banked(batch))
        losses = self._with_letters(losses, [loss for loss in read if loss is not None])
        self._watch(losses["loss"].detach())
        logged = losses | {"scale": self.loss.scale.detach()}
        logged["padding_share"] = padding_share([(one, self._parts(len(one))) for one in computed])
        if (share := self.waiting.share) is not None:
            logged["wait_share"] = share
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, batch_size=len(batch.meaning))
        return losses["loss"]

    def _banked(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Further transcripts for the loss, of a batch of a task that has them.

        The task says so, and not the batch: processes hold batches of one task, and all have to gather, or none.
        """
        if self.bank is None or not batch.banked:
            return {}
        places, meanings = self.bank(torch.cat([rows.known for rows in batch.rows]))
        vectors = self.model.project(self._text_states[places])
        return dict(zip(("bank", "bank_meaning"), gather(vectors, meanings), strict=True))

    def _watch(self, loss: torch.Tensor) -> None:
        """Refuse a loss that is not finite: at once on the host. A GPU would have to be waited for in every step, so
        there the first such loss is kept, and read now and then and before a checkpoint is written.
        """
        now = torch.stack([torch.full_like(loss, self.global_step), loss]).float()
        if self._diverged is None:
            self._diverged = torch.full_like(now, -1)
        self._diverged = torch.where(torch.isfinite(loss) | (self._diverged[0] >= 0), self._diverged, now)
        if on_host(loss) or self.global_step % WATCHED == WATCHED - 1:
            self._check_finite()

    def _check_finite(self) -> None:
        """Raises DataError where the loss of a step was not finite."""
        step, loss = (-1, 0) if self._diverged is None else self._diverged.tolist()
        if step >= 0:
            raise DataError(f"the loss became {loss} at step {step:.0f}; lower optim.lr")

    def _check_alike(self, computed: list[Inputs]) -> None:
        """Refuse a batch for which processes would run a sharded model differently, and wait for each other for ever.

        Raises:
            DataError: their parts of it are not made up alike.
        """
        if not sharding.is_sharded(self.model):
            return
        own = [({name for name, _ in one.columns} - {"text"}, len(one)) for one in computed]
        if not alike(own):
            raise DataError(
                f"step {self.global_step}: the examples of one process are made up otherwise than those of another, "
                "and a sharded model needs all alike; use trainer.strategy=ddp, or give each kind a task of its own"
            )

    def _looked_up(self, known: torch.Tensor | None) -> bool:
        return self._text_states is not None and known is not None

    def _answer(self, items: Inputs, known: torch.Tensor | None) -> torch.Tensor:
        return self.model.project(self._text_states[known]) if self._looked_up(known) else self._encode(items)

    def _query(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings of the queries and, where their letters are learned, the loss of these."""
        if self.reader is None or rows.letters is None:
            return self._encode(rows.query), None
        return self.reader.encode(self.model.encode, self._parts(len(rows.query)), rows.query, rows.letters)

    def _with_letters(self, losses: dict, read: list[torch.Tensor]) -> dict:
        """The losses with that of letters, which is a process's own: DDP takes the mean of the gradients."""
        if not read:
            return losses
        ctc = sum(read) / len(read)
        return losses | {"loss": losses["loss"] + self.reader.weight * ctc, "ctc": ctc.detach()}

    def _parts(self, rows: int) -> int:
        return max(BUCKETS, math.ceil(rows / (self.micro_batch or rows)))

    def _encode(self, inputs: Inputs) -> torch.Tensor:
        """Embeddings in parts; where they are too many to keep the activations of all, with cached gradients.

        Not those of text in a frozen LLM, which keeps no activations, so that a second pass would save nothing.
        """
        constant = self.text_is_frozen and inputs.is_of("text")
        if self.micro_batch is None or len(inputs) <= self.micro_batch or constant:
            return self.model.encode(inputs, self._parts(len(inputs)))
        return in_buckets(cached(self.model.encode), self._parts(len(inputs)), inputs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:  # before any callback may write a checkpoint of this step
            self.average.after_step()

    def on_train_epoch_end(self) -> None:
        self._check_finite()
        if self.average is not None:
            self.average.before_evaluation(self.current_epoch)
        if self.dev_recall is not None:
            takes_part = rank() == 0 or sharding.is_sharded(self.model)
            with nullcontext() if self.average is None else self.average.applied():
                recall = from_first(self.dev_recall(self.model) if takes_part else 0.0)
            self.log("dev/recall@1", recall, prog_bar=True)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *_: object, **__: object
    ) -> None:
        """Clip to the norm ``optim.clip``, and log the norm there was.

        Lightning's own clipping refuses fused optimisers, for the sake of float16's loss scaling, which is not offered.
        """
        if sharding.is_sharded(self.model):
            sharding.average(list(self.loss.parameters()))
        self.log("train/gradient_norm", sharding.clip_gradients(list(self.parameters()), gradient_clip_val or 0.0))

    def configure_optimizers(self) -> dict:
        groups = parameter_groups(self.named_parameters(), **self.rates)
        optimiser, schedule = build_optimiser(groups, warmup=self.warmup, total=self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self._check_finite()
        # frozen weights come back from their source; for a frozen LLM that is 99 % of the file
        fixed = frozen_names(self)
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in fixed}
        if self.average is not None:
            checkpoint[AVERAGE] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if self.average is not None:
            self.average.load_state_dict(checkpoint[AVERAGE])
        own, fixed = self.state_dict(), frozen_names(self)
        if lost := own.keys() - fixed - checkpoint["state_dict"].keys():
            names = ", ".join(sorted(lost)[:2])
            raise ConfigError(f"the checkpoint lacks {names} …: it is of another model; delete the run directory")
        if not sharding.is_sharded(self.model):
            checkpoint["state_dict"] = {name: own[name] for name in fixed} | checkpoint["state_dict"]


def text_is_frozen(model: DualEncoder) -> bool:
    """Whether nothing is trained that a text passes before the projection."""
    return not any(p.requires_grad for n, p in model.backbone.named_parameters() if n != "embedding.audio")


def frozen_names(module: torch.nn.Module) -> set[str]:
    """Parameters that are not trained, and that no checkpoint holds; the text rows go by two names."""
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}
