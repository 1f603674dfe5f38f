"""Embedding into a file with a pool of Ray actors (``features.ray_extraction``); needs the extra ``ray``.

The missing parts are the rows. Each actor loads the model once, on a GPU of its own where the cluster has GPUs, and
writes the blocks of its parts into the folder beside the output, which all machines must share, as they must the clips;
only counts come back. A part is embedded by the same function as without Ray, and goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from speechde.api import SpeechTextEncoder
from speechde.errors import AssetError
from speechde.features.ray_extraction import in_actors
from speechde.search.embed import Part, make_parts
from speechde.search.items import Item


@dataclass(frozen=True)
class Opening:
    """How an actor opens the model: as the options of the command do; its ``fingerprint`` must be the driver's."""

    name: str
    fingerprint: str
    device: str | None = None
    dtype: str = "float32"
    dim: int | None = None


def make_with_ray(
    opening: Opening, workers: int, parts: Sequence[Part], folder: Path, model: str, prompt: str | None
) -> Iterator[int]:
    """Embed parts with ``workers`` actors; yields the number of items of each part as it is done, in any order.

    Raises:
        ConfigError, SpeechdeError: as ``in_actors``; blocks that were finished stay.
    """
    rows = [
        {"key": part.key, "start": str(part.start), "items": json.dumps([asdict(item) for item in part.items])}
        for part in parts
    ]
    yield from in_actors(_Actor, (opening, os.getcwd(), str(folder), model, prompt), rows, workers, "--ray")


class _Actor:
    def __init__(self, opening: Opening, cwd: str, folder: str, model: str, prompt: str | None) -> None:
        os.chdir(cwd)  # paths of items are part of what they are, and stay as they were given
        name = Path(opening.name) if Path(opening.name).is_dir() else opening.name
        self.encoder = SpeechTextEncoder.from_pretrained(
            name, device=opening.device, dtype=getattr(torch, opening.dtype), dim=opening.dim
        )
        if self.encoder.fingerprint != opening.fingerprint:
            raise AssetError(
                f"the model {opening.name} is {self.encoder.fingerprint} on this worker, and {opening.fingerprint} on "
                "the driver; give all machines the same model"
            )
        self.folder, self.model, self.prompt = Path(folder), model, prompt

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int]]:
        (key,), (items,), (start,) = batch["key"], batch["items"], batch["start"]
        part = Part(str(key), [Item(**values) for values in json.loads(items)], int(start))
        return {"done": [sum(make_parts(self.encoder, [part], self.folder, self.model, self.prompt))]}
