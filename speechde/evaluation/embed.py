"""Items whose clips are stored, as vectors of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from speechde.evaluation.retrieval import Embed
from speechde.models.dual_encoder import DualEncoder
from speechde.models.embed import embed_speech, embed_texts
from speechde.models.prompt import Prompt
from speechde.types import Audio, Item


def stored_embed(
    model: DualEncoder,
    prompt: Prompt,
    store: Mapping[str, np.ndarray],
    label: str | None = None,
    cut: Callable[[tuple[str | None, str]], object] | None = None,
) -> Embed:
    """Items of one part → vectors; a clip is read from ``store`` by the id of its item.

    ``label``: of the progress that is shown; None shows none. ``cut`` is told each text that is cut.
    """

    def embed(items: Sequence[Item], role: str) -> np.ndarray:
        spoken = np.array([isinstance(item.parts[0], Audio) for item in items])
        out = np.empty((len(items), model.dim), np.float32)
        clips, texts = ([items[row] for row in np.flatnonzero(which)] for which in (spoken, ~spoken))
        if clips:
            values = [store[item.id] for item in clips]
            out[spoken] = embed_speech(model, prompt, values, [item.lang for item in clips], label)
        if texts:
            ids = [prompt.text_ids(item.parts[0].content, item.lang, cut) for item in texts]
            out[~spoken] = embed_texts(model, ids, label)
        return out

    return embed
