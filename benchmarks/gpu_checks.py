"""What must hold on a GPU before any of its numbers count; each check returns what it found, or fails."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from benchmarks import shapes
from benchmarks.engines import lit_module
from benchmarks.harness import check_equal
from speechde.features.encoders import load_speech_encoder
from speechde.models.dual_encoder import DualEncoder

if TYPE_CHECKING:
    from benchmarks.gpu import Run

SHAPE, PAIRS = "gemma3_270m", 24
FLOAT32, TRAINED, BF16_COSINE = 2e-4, 5e-3, 0.999


def vectors(run: Run) -> dict[str, Any]:
    """Vectors of the device against those of the CPU, in float32 and with weights in bfloat16."""
    one = shapes.batch(PAIRS, 200).rows[0].query
    model = _model(run, "cpu")
    with torch.no_grad():
        expected = model.encode(one)
        model.to(run.device)
        found = model.encode(one.to(run.device)).cpu()
        rounded = model.in_precision(torch.bfloat16).to(run.device).encode(one.to(run.device)).cpu()
    cosine = float(torch.cosine_similarity(rounded, expected, dim=1).min())
    if not cosine >= BF16_COSINE:
        raise AssertionError(f"bfloat16: a cosine of {cosine:.5f}, below {BF16_COSINE}")
    return {"largest difference, float32": check_equal("vectors", found, expected, FLOAT32), "least cosine": cosine}


def frames(run: Run) -> dict[str, Any]:
    """Frames of a speech encoder of Whisper base's shape in float32."""
    folder = shapes.speech("whisper_base", run.tiny, run.scratch / "whisper-check")
    draw = np.random.default_rng(0)
    clips = [0.1 * draw.standard_normal(n).astype(np.float32) for n in (16_000, 40_000, 9_000)]
    found, expected = (np.concatenate(load_speech_encoder(folder, dtype=torch.float32, device=device).encode(clips))
                       for device in (run.device, "cpu"))  # fmt: skip
    return {"largest difference": check_equal("frames", found, expected, 5e-3)}  # stored in float16


def gradient_caching(run: Run) -> dict[str, Any]:
    """Gradients in parts against those of the whole batch, in float32."""
    found = []
    for micro_batch in (None, 6):
        module = lit_module(_model(run, run.device), micro_batch)
        module.log = module.log_dict = lambda *a, **k: None
        module.training_step(shapes.batch(PAIRS, 200).to(run.device), 0).backward()
        found.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).cpu())
    return {"largest difference": check_equal("gradients", found[1], found[0], 1e-3)}


def waits(run: Run) -> dict[str, Any]:
    """A step with gradient caching, clipping and AdamW waits for nothing; on a CPU there is nothing to wait for."""
    from benchmarks.gpu import Case, stepper

    _, step, _ = stepper(run, Case(SHAPE, 64, 16))
    step()
    if run.device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        if run.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {"checked": run.device == "cuda"}


def one_process(run: Run) -> dict[str, Any]:
    """DDP with one process ends where a plain run does."""
    plain = _trained(run)
    with _own_environment():
        ddp = _trained(run, strategy=DDPStrategy(find_unused_parameters=True))
    return {"largest difference": check_equal("vectors", ddp, plain, TRAINED)}


def resume(run: Run) -> dict[str, Any]:
    """A run that stops after an epoch and goes on from its checkpoint ends where one does that did not."""
    path = run.scratch / "resume.ckpt"
    _trained(run, epochs=1, save=path)
    return {"largest difference": check_equal("vectors", _trained(run, resume=path), _trained(run), TRAINED)}


CHECKS = (vectors, frames, gradient_caching, waits, one_process, resume)


def _model(run: Run, device: str) -> DualEncoder:
    folder = shapes.llm(SHAPE, run.tiny, run.scratch / "check", num_hidden_layers=4, vocab_size=8192)
    return shapes.dual_encoder(folder, device)


@contextmanager
def _own_environment() -> Iterator[None]:
    """What Lightning tells the processes that it starts, by the environment, ends with the block.

    A process that is started later would take itself for one of those, and wait for the others.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _trained(run: Run, *, strategy: str | DDPStrategy = "auto", epochs: int = 2, save=None, resume=None) -> np.ndarray:
    """Vectors after epochs of two steps of Lightning's trainer.

    Weights would not do: Adam takes a gradient that is nothing but rounding for a step like any other.
    """
    module = lit_module(_model(run, "cpu"), None, rate=1e-3)
    batches = DataLoader([shapes.batch(PAIRS, 200, seed) for seed in range(2)], batch_size=None)
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary",
                             "use_distributed_sampler"), False)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(max_epochs=epochs, accelerator="gpu" if run.device == "cuda" else "cpu", devices=1,
                             strategy=strategy, gradient_clip_val=1.0, **options)  # fmt: skip
        trainer.fit(module, batches, ckpt_path=resume, weights_only=True if resume else None)
    if save:
        trainer.save_checkpoint(save)
    if dist.is_initialized():
        dist.destroy_process_group()
    with torch.no_grad():
        return module.model.cpu().encode(shapes.batch(PAIRS, 200, seed=9).rows[0].query).numpy()
