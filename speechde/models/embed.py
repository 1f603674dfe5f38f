"""The one way from items to vectors: parts, prompts, pieces of what is too long, batches by length, numpy out.

The library, the commands, evaluation, dev recall and baselines all embed here; they differ in where the stored items of
a clip come from (``read``). A clip that has more stored items than the LLM has positions is embedded in equal pieces,
and its vector is their mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from speechde.errors import ConfigError, DataError
from speechde.models.dual_encoder import DualEncoder
from speechde.models.frontends.base import pad_items
from speechde.models.pooling import mean_of_parts
from speechde.models.prompt import Prompt
from speechde.progress import progress
from speechde.types import TEXT, WORDS, Inputs, Item, Part, Text

# Padded positions a batch. A GPU wants many at once: a few hundred MB of activations for the models used here. On a CPU
# the states of a layer should stay in the cache: with 8,192 positions e5-small takes up to twice as long (measured).
BATCH_POSITIONS = {"cuda": 8192, "cpu": 1024}
STATES_VERSION = 1  # of what ``text_states`` computes; part of the cache key
IN_PARTS = "long clip, mean of parts"  # how lists of what is unusual call a clip that is embedded in pieces

Row = list[tuple[str, np.ndarray]]  # (modality, ids or frames) of the parts of an item, the words of its prompt too
# Media of items → what is stored of each: one array, or several of a clip that had to be cut before it was encoded.
Read = Callable[[Sequence[tuple[Item, Part]]], list[list[np.ndarray]]]
Cut = Callable[[tuple[str | None, str]], object]  # told the language and text of each text that is cut


@dataclass(frozen=True)
class Embedded:
    """``vectors`` ``(n, dim)`` float32 of items, in order, and in how many ``pieces`` ``(n,)`` int64 each was read."""

    vectors: np.ndarray
    pieces: np.ndarray


def stored_key(store: Container[str], item: Item, part: Part) -> str:
    """What a clip is stored under: the locator of one of a file of examples, or the id of an utterance of a corpus."""
    return part.content if isinstance(part.content, str) and part.content in store else item.id


def embed_items(
    model: DualEncoder,
    prompt: Prompt,
    items: Sequence[Item],
    read: Read,
    *,
    label: str | None = None,
    cut: Cut | None = None,
    name: str | None = None,
) -> Embedded:
    """Embed items of any make-up.

    Args:
        label: of the progress that is shown; None shows none.
        name: of a prompt (``Prompt.named``) in the place of the prefix.

    Raises:
        ConfigError: an item has a medium that the model does not read, or media that enter the LLM at different
            layers, or a prompt fills its positions.
        DataError: an item of several parts does not fit the LLM's positions.
    """
    rows, owners = item_rows(model, prompt, items, read, cut, name)
    vectors = embed_rows(model, rows, label)
    if len(rows) > len(items):
        means = mean_of_parts(torch.from_numpy(vectors), torch.from_numpy(owners), len(items), model.normalise)
        vectors = means.numpy()
    return Embedded(vectors, np.bincount(owners, minlength=len(items)))


def item_rows(
    model: DualEncoder, prompt: Prompt, items: Sequence[Item], read: Read, cut: Cut | None = None,
    name: str | None = None,
) -> tuple[list[Row], np.ndarray]:  # fmt: skip
    """Items as rows that fit the LLM, and the item ``(rows,)`` int64 that each is of; see ``embed_items``."""
    for item in items:
        check_entry(model, item)
    media = [(item, part) for item in items for part in item.parts if not isinstance(part, Text)]
    stored = iter(read(media) if media else ())  # text alone needs no speech encoder
    rows: list[Row] = []
    owners: list[int] = []
    for number, item in enumerate(items):
        segments = prompt.segments(item, cut, name)
        made = fitting(model, item, segments, [next(stored) for modality, _ in segments if modality not in WORDS])
        rows += made
        owners += [number] * len(made)
    return rows, np.array(owners, np.int64)


def check_entry(model: DualEncoder, item: Item) -> None:
    """Refuse an item whose media enter the LLM at different layers; words join where these enter.

    Raises:
        ConfigError: they do, or the model has no frontend for one.
    """
    layers = {part.modality: model.entry_layer(part.modality) for part in item.parts if not isinstance(part, Text)}
    if len(set(layers.values())) > 1:
        where = ", ".join(f"{modality} at layer {layer}" for modality, layer in layers.items())
        raise ConfigError(
            f"item {item.id!r} mixes media that enter the LLM at different layers ({where}); train a model with "
            "model.image_layer=null, which is that of speech, or give each medium as an item of its own"
        )


def fitting(
    model: DualEncoder, item: Item, segments: Sequence[tuple[str, np.ndarray | Part]], media: Sequence[list[np.ndarray]]
) -> list[Row]:
    """An item as rows that fit the LLM's positions: one, or several where its only medium is too long.

    Raises:
        DataError: it has several media and does not fit, or its own words leave a medium no room.
    """
    words = sum(len(values) for modality, values in segments if modality in WORDS)
    if not media:
        return [list(segments)]
    positions = model.backbone.positions
    if len(item.parts) == 1 or (len(media) == 1 and (positions is None or words < positions)):
        room = model.room(next(modality for modality, _ in segments if modality not in WORDS), words)
        pieces = [piece for part in media[0] for piece in np.array_split(part, pieces_needed(len(part), room))]
        return [[(name, values if name in WORDS else piece) for name, values in segments] for piece in pieces]
    parts = iter(media)
    row = [(name, values if name in WORDS else next(parts)[0]) for name, values in segments]
    too_long = positions is not None and positions_needed(model, row) > positions
    if any(len(part) > 1 for part in media) or too_long:
        raise DataError(f"item {item.id!r} is longer than the LLM's positions; embed its parts as items of their own")
    return [row]


def positions_needed(model: DualEncoder, row: Row) -> int:
    """How many positions of the LLM a row takes."""
    return sum(-(-len(values) // model.stride(modality)) for modality, values in row)


def pieces_needed(length: int, room: int | None) -> int:
    """Into how many equal pieces ``length`` stored items are cut where ``room`` of them fit the LLM's positions."""
    return max(1, -(-length // (room or length or 1)))


def text_states(model: DualEncoder, ids: Sequence[np.ndarray]) -> np.ndarray:
    """Token ids of texts → ``(n, width)`` states before the projection.

    They are constant, so worth caching, when the LLM is frozen.
    """
    return embed_rows(model, _TextRows(ids), "text states", states=True)


class _TextRows(Sequence[Row]):
    """Rows of texts, made when they are asked for: of a million there is no list."""

    def __init__(self, ids: Sequence[np.ndarray]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Row:
        return [(TEXT, self.ids[index])]


@torch.no_grad()
def embed_rows(model: DualEncoder, rows: Sequence[Row], label: str | None = None, states: bool = False) -> np.ndarray:
    """Rows of any make-up → ``(n, dim)`` float32 vectors, or ``(n, width)`` states before the projection, in order."""
    learning = [module for module in model.modules() if module.training]  # none of a model that other threads use
    for module in learning:
        module.training = False
    device, encode = next(model.parameters()).device, model.states if states else model.encode
    try:
        out: np.ndarray | None = None
        with progress(label or "", len(rows), "items", enabled=label is not None) as advance:
            for chosen in _batches(rows, BATCH_POSITIONS.get(device.type, 8192)):
                vectors = _on_host(encode, pad_items([rows[row] for row in chosen]).to(device))
                if out is None:
                    out = np.empty((len(rows), vectors.shape[1]), np.float32)
                out[chosen] = vectors
                advance(len(chosen))
        return np.empty((0, model.dim), np.float32) if out is None else out
    finally:
        for module in learning:
            module.training = True


def _on_host(encode: Callable[[Inputs], Tensor], inputs: Inputs) -> np.ndarray:
    return encode(inputs).float().cpu().numpy()


def _batches(rows: Sequence[Row], positions: int) -> Iterator[list[int]]:
    """Rows of one make-up in order of length, at most ``positions`` padded ones together, or one row."""
    alike = defaultdict(list)
    for number, row in enumerate(rows):
        alike[tuple(modality for modality, _ in row)].append(number)
    for make_up, own in alike.items():
        kinds = np.array([modality in WORDS for modality in make_up])
        sizes = np.array([[len(values) for _, values in rows[number]] for number in own])
        # a prompt is short beside its medium; the words of an item need not be
        lengths = np.maximum(sizes[:, kinds].sum(1), sizes[:, ~kinds].sum(1))
        batch: list[int] = []
        for place in np.argsort(lengths, kind="stable"):
            if batch and lengths[place] * (len(batch) + 1) > positions:
                yield batch
                batch = []
            batch.append(own[place])
        if batch:
            yield batch
