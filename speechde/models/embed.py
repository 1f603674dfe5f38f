"""Batched embedding with a dual encoder: sorted by length, bounded memory, numpy out.

A clip that has more stored items than the LLM has positions is embedded in equal parts, and its vector is their mean.
That is the one rule for long clips, and this the one place: the library, the commands, training and evaluation all
embed speech here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechde.frontends.base import pad_sequences
from speechde.models.dual_encoder import DualEncoder
from speechde.models.pooling import mean_of_parts
from speechde.models.prompt import Prompt
from speechde.progress import progress

# Padded positions a batch. A GPU wants many at once: a few hundred MB of activations for the models used here. On a CPU
# the states of a layer should stay in the cache: with 8,192 positions e5-small takes up to twice as long (measured).
BATCH_POSITIONS = {"cuda": 8192, "cpu": 1024}
STATES_VERSION = 1  # of what ``text_states`` computes; part of the cache key
IN_PARTS = "long clip, mean of parts"  # how lists of what is unusual call a clip that is embedded in parts


@dataclass(frozen=True)
class Parts:
    """Stored speech items that fit the LLM, and the clip that each is of, 0 to ``len(counts)`` − 1."""

    items: list[np.ndarray]
    owners: np.ndarray  # (parts,) int64
    counts: np.ndarray  # (clips,) int64: parts of each clip


def parts_needed(model: DualEncoder, prompt: Prompt, lengths: Sequence[int], langs: Sequence[str | None]) -> np.ndarray:
    """In how many parts clips of so many stored items fit the LLM's positions, ``(n,)`` int64; 1 where they do whole.

    Raises:
        ConfigError: the prefix alone fills the positions.
    """
    rooms = {lang: model.speech_room(len(prompt.speech_ids(lang))) for lang in set(langs)}
    counts = [max(1, -(-length // (rooms[lang] or length or 1))) for length, lang in zip(lengths, langs, strict=True)]
    return np.array(counts, np.int64)


def fitting_parts(
    model: DualEncoder,
    prompt: Prompt,
    items: Sequence[np.ndarray],
    langs: Sequence[str | None],
    owners: Sequence[int] | None = None,
) -> Parts:
    """Stored speech items, those too long for the LLM's positions cut into equal parts.

    Args:
        owners: the clip of each item, where items are parts of clips already; None: each is a clip.
    """
    needed = parts_needed(model, prompt, [len(item) for item in items], langs)
    own = np.repeat(np.arange(len(items)) if owners is None else np.asarray(owners, np.int64), needed)
    parts = [part for item, count in zip(items, needed, strict=True) for part in np.array_split(item, count)]
    return Parts(parts, own, np.bincount(own, minlength=0))


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
    return embed_parts(model, prompt, fitting_parts(model, prompt, items, langs), langs, label)


def embed_parts(
    model: DualEncoder, prompt: Prompt, parts: Parts, langs: Sequence[str | None], label: str | None = None
) -> np.ndarray:
    """``(n, dim)`` float32 embeddings of clips that were cut into parts; ``langs`` has the language of each clip."""
    prefixes = {lang: prompt.speech_ids(lang) for lang in set(langs)}

    def encode(rows: list[int]) -> Tensor:
        device = next(model.parameters()).device
        speech = pad_sequences([parts.items[row] for row in rows]).to(device)
        prefix = pad_sequences([prefixes[langs[parts.owners[row]]] for row in rows], allow_empty=True).to(device)
        return model.encode_speech(speech, prefix)

    vectors = _embed(model, [len(item) for item in parts.items], encode, label, "clips")
    if len(vectors) == len(parts.counts):
        return vectors
    means = mean_of_parts(torch.from_numpy(vectors), torch.from_numpy(parts.owners), len(parts.counts), model.normalise)
    return means.numpy()


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
    learning = [module for module in model.modules() if module.training]  # none of a model that other threads use
    for module in learning:
        module.training = False
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
        for module in learning:
            module.training = True


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
