"""Model folders that the last version of the first format wrote (``tests/data/format1``) are the models they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speechde.checkpoint.folder import FORMAT, TrainedModel
from speechde.models.embed import embed_items
from speechde.types import Audio, Item, Text

FOLDER = Path(__file__).resolve().parents[2] / "data/format1"
FINGERPRINTS = {"discrete": "a868727066c11bf3", "continuous": "2a9b710e980ee109"}
LENGTHS, LANGS, TEXTS = (4, 9, 17), ("fr_fr", "ro_ro", None), ("été", "a longer text")


def stored(kind, length):
    """Units, or frames of width 6."""
    if kind == "discrete":
        return np.arange(length, dtype=np.int32) * 5 % 12
    return np.sin(np.arange(6 * length, dtype=np.float32)).reshape(length, 6)


def vectors(trained, kind):
    items = [Item(Audio(stored(kind, n)), lang=lang) for n, lang in zip(LENGTHS, LANGS, strict=True)]
    items += [Item(Text(text), lang="fr_fr") for text in TEXTS]
    made = embed_items(trained.model, trained.prompt, items, lambda media: [[part.content] for _, part in media])
    return made.vectors


@pytest.mark.parametrize("kind", list(FINGERPRINTS))
def test_the_same_vectors_and_fingerprint(kind, tmp_path):
    folder, expected = FOLDER / kind, np.load(FOLDER / kind / "vectors.npy")
    assert json.loads((folder / "speechde.json").read_text("utf-8"))["format"] == 1 < FORMAT
    trained = TrainedModel.load(folder)
    assert trained.fingerprint == FINGERPRINTS[kind]
    np.testing.assert_allclose(vectors(trained, kind), expected, rtol=0, atol=1e-6)
    trained.save(tmp_path / "again")  # in the format of today
    again = TrainedModel.load(tmp_path / "again")
    assert json.loads((tmp_path / "again/speechde.json").read_text("utf-8"))["format"] == FORMAT
    assert again.fingerprint == FINGERPRINTS[kind]
    np.testing.assert_allclose(vectors(again, kind), expected, rtol=0, atol=1e-6)
