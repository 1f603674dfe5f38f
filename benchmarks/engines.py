"""One dual encoder on text alone, built twice: of speechde, and of sentence-transformers with the same weights.

Both are trained by their own trainers on the same pairs in the same order: AdamW at a constant rate, the gradient
clipped to norm 1, the text rows of the embedding table frozen (as in all recipes), symmetric cross-entropy of cosines
times 20. Data loading and tokenisation are part of the time; the first step is not, unless it is the only one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.harness import now, timed
from benchmarks.inputs import plain_prompt
from speechde.losses.contrastive import ContrastiveLoss
from speechde.models.backbone import Backbone
from speechde.models.dual_encoder import TEXT, DualEncoder
from speechde.models.frontends.base import pad_items
from speechde.training.lit_module import LitDualEncoder
from speechde.types import Batch, Rows

Pairs = Sequence[tuple[str, str]]
RATE, CLIP, SCALE = 1e-5, 1.0, 20.0


@dataclass
class Trained:
    """``losses`` of all steps, and ``seconds`` a step after the first (of the first where it is the only one)."""

    losses: list[float]
    seconds: float


def dual_encoder(folder: Path) -> DualEncoder:
    """A backbone, mean pooling and a projection that starts as the identity."""
    backbone = Backbone.load(folder)
    backbone.freeze(["embedding.text.*"])
    return DualEncoder(backbone, {}, projection_init="identity", normalise=True)


def lit_module(model: DualEncoder, micro_batch: int | None, rate: float = RATE) -> LitDualEncoder:
    """The trained module of both: cosines times 20, and so many steps that the cosine schedule stays at its start."""
    loss = ContrastiveLoss("cosine", 1 / SCALE, spread_out_weight=0.0, mask_duplicates=False)
    return LitDualEncoder(model, loss, seed=0, steps=10**9, lr=rate, backbone_lr=rate, weight_decay=0.0,
                          warmup_share=0.0, micro_batch=micro_batch).to(next(model.parameters()).device)  # fmt: skip


def train_ours(
    model: DualEncoder, folder: Path, pairs: Pairs, batch: int, dtype: torch.dtype, micro_batch: int | None = None,
    device: str = "cpu",
) -> Trained:  # fmt: skip
    """Train on ``pairs`` in order with ``LitDualEncoder``, ``batch`` at a time."""
    prompt = plain_prompt(folder, model.backbone)
    tokenising, ids = timed(lambda: [[prompt.text_ids(text, None) for text in pair] for pair in pairs])

    def collate(rows: list[int]) -> Batch:
        query, positive = (pad_items([[(TEXT, ids[row][side])] for row in rows]) for side in (0, 1))
        return Batch([Rows(query, positive)], torch.tensor(rows)[:, None])

    module = lit_module(model, micro_batch)
    clock, precision = _Clock(), "bf16-mixed" if dtype == torch.bfloat16 else "32-true"
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    accelerator = "gpu" if device == "cuda" else device
    trainer = pl.Trainer(max_epochs=1, accelerator=accelerator, devices=1, precision=precision, gradient_clip_val=CLIP,
                         callbacks=[clock], **options)  # fmt: skip
    trainer.fit(module, DataLoader(range(len(pairs)), batch, collate_fn=collate, drop_last=True))
    return Trained(clock.losses, _a_step(clock.times) + tokenising * batch / len(pairs))


def _a_step(times: list[float]) -> float:
    """Seconds a step, of the times of the start and of the end of each step."""
    counted = times[1:] if len(times) > 2 else times
    return (counted[-1] - counted[0]) / (len(counted) - 1)


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.times: list[float] = []

    def on_train_start(self, trainer, module) -> None:
        self.times.append(now())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))
        self.times.append(now())


def sentence_transformer(
    folder: Path, dtype: torch.dtype = torch.float32, projection: bool = True, device: str = "cpu"
):
    """The same model in sentence-transformers, with its own defaults."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    transformer = Transformer(str(folder), model_kwargs={"dtype": dtype}, max_seq_length=None)
    width = transformer.get_embedding_dimension()
    modules = [transformer, Pooling(width, "mean")]
    if projection:
        modules.append(Dense(width, width, bias=False, activation_function=nn.Identity(), init_weight=torch.eye(width)))
        transformer.auto_model.get_input_embeddings().weight.requires_grad_(False)
    else:
        modules.append(Normalize())
    return SentenceTransformer(modules=modules, device=device)


def train_peer(
    model, pairs: Pairs, batch: int, dtype: torch.dtype, scratch: Path, micro_batch: int | None = None,
    device: str = "cpu",
) -> Trained:  # fmt: skip
    """Train ``sentence_transformer(…)`` on ``pairs`` in order with sentence-transformers' trainer and loss."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer import losses
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    found: list[float] = []
    times: list[float] = []

    class Trainer(SentenceTransformerTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            found.append(float(loss[0] if isinstance(loss, tuple) else loss))
            return loss

    class Clock(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            times.append(now())

        def on_step_end(self, *args, **kwargs):
            times.append(now())

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(scratch / "trainer"), per_device_train_batch_size=batch, max_steps=len(pairs) // batch,
        bf16=dtype == torch.bfloat16, use_cpu=device == "cpu", learning_rate=RATE, lr_scheduler_type="constant",
        weight_decay=0.0, max_grad_norm=CLIP, report_to="none", save_strategy="no", logging_strategy="no",
        disable_tqdm=True, dataloader_drop_last=True, dataloader_pin_memory=False,
        batch_sampler=lambda dataset, **options: DefaultBatchSampler(SequentialSampler(dataset), **options),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if micro_batch is None:
            loss = losses.MultipleNegativesSymmetricRankingLoss(model, scale=SCALE)
        else:
            loss = losses.CachedMultipleNegativesSymmetricRankingLoss(model, SCALE, mini_batch_size=micro_batch)
        data = Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]})
        Trainer(model, arguments, train_dataset=data, loss=loss, callbacks=[Clock()]).train()
    return Trained(found, _a_step(times))
