"""Items whose clips are stored, as vectors of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from speechde.evaluation.retrieval import Embed
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import Cut, embed_items, stored_key
from speechde.models.prompt import Prompt
from speechde.types import Item, Part


def stored_embed(
    model: DualEncoder,
    prompt: Prompt,
    store: Mapping[str, np.ndarray],
    label: str | None = None,
    cut: Cut | None = None,
    pieces: dict[str, int] | None = None,
) -> Embed:
    """Items → vectors; a clip is read from ``store`` by its ``stored_key``.

    Items of a role that names a prompt of the model are read with it, all others with their prefixes. ``label`` and
    ``cut`` are those of ``embed_items``; ``pieces`` is given the number of pieces of each clip, by id.
    """

    def read(media: Sequence[tuple[Item, Part]]) -> list[list[np.ndarray]]:
        return [[store[stored_key(store, *medium)]] for medium in media]

    def embed(items: Sequence[Item], role: str) -> np.ndarray:
        made = embed_items(
            model, prompt, items, read, label=label, cut=cut,
            name=role if role in prompt.named else None,
        )  # fmt: skip
        if pieces is not None:
            pieces.update(zip((item.id for item in items), made.pieces.tolist(), strict=True))
        return made.vectors

    return embed
