"""Batched embedding with a dual encoder: sorted by length, bounded memory, numpy out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from speechde.frontends.base import pad_sequences
from speechde.models.dual_encoder import DualEncoder
from speechde.models.prompt import Prompt
from speechde.progress import progress

# Padded positions a batch. A GPU wants many at once: a few hundred MB of activations for the models used here. On a CPU
# the states of a layer should stay in the cache: with 8,192 positions e5-small takes up to twice as long (measured).
BATCH_POSITIONS = {"cuda": 8192, "cpu": 1024}
STATES_VERSION = 1  # of what ``text_states`` computes; part of the cache key


def embed_speech(
    model: DualEncoder,
    prompt: Prompt,
    items: Sequence[np.ndarray],
    langs: Sequence[str | None],
    label: str | None = None,
) -> np.ndarray:
    """Stored speech items (frames or units) → ``(n, dim)`` float32 embeddings, one per item, in order.

    ``label``: of the progress that is shown; None shows none.
    """
    prefixes = {lang: prompt.speech_ids(lang) for lang in set(langs)}

    def encode(rows: list[int]) -> Tensor:
        device = next(model.parameters()).device
        speech = pad_sequences([items[row] for row in rows]).to(device)
        prefix = pad_sequences([prefixes[langs[row]] for row in rows], allow_empty=True).to(device)
        return model.encode_speech(speech, prefix)

    return _embed(model, [len(item) for item in items], encode, label, "clips")


def embed_texts(model: DualEncoder, ids: Sequence[np.ndarray], label: str | None = None) -> np.ndarray:
    """Token ids of each text (``Prompt.text_ids``) → ``(n, dim)`` float32 embeddings, one per text, in order.

    ``label`` as in ``embed_speech``.
    """

    def encode(rows: list[int]) -> Tensor:
        return model.encode_text(pad_sequences([ids[row] for row in rows]).to(next(model.parameters()).device))

    return _embed(model, [len(item) for item in ids], encode, label, "texts")


def text_states(model: DualEncoder, ids: Sequence[np.ndarray]) -> np.ndarray:
    """As ``embed_texts``, before the projection: ``(n, width)``. Constant, so worth caching, when the LLM is frozen."""

    def encode(rows: list[int]) -> Tensor:
        return model.text_states(pad_sequences([ids[row] for row in rows]).to(next(model.parameters()).device))

    return _embed(model, [len(item) for item in ids], encode, "text states", "texts")


@torch.no_grad()
def _embed(
    model: DualEncoder, lengths: Sequence[int], encode: Callable[[list[int]], Tensor], label: str | None, unit: str
) -> np.ndarray:
    training = model.training
    model.eval()
    try:
        out: np.ndarray | None = None
        with progress(label or "", len(lengths), unit, enabled=label is not None) as advance:
            for rows in _batches(lengths, BATCH_POSITIONS.get(next(model.parameters()).device.type, 8192)):
                vectors = encode(rows).float().cpu().numpy()
                if out is None:
                    out = np.empty((len(lengths), vectors.shape[1]), np.float32)
                out[rows] = vectors
                advance(len(rows))
        return np.empty((0, model.dim), np.float32) if out is None else out
    finally:
        model.train(training)


def _batches(lengths: Sequence[int], positions: int) -> Iterator[list[int]]:
    """Rows in order of length, at most ``positions`` padded ones together, or one row."""
    batch: list[int] = []
    for row in np.argsort(lengths, kind="stable"):
        if batch and lengths[row] * (len(batch) + 1) > positions:
            yield batch
            batch = []
        batch.append(int(row))
    if batch:
        yield batch
