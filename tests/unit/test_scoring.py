"""``train.py checkpoint=FOLDER`` and ``init=FOLDER``: what is refused before anything is encoded."""

from __future__ import annotations

import json
from shutil import copytree

import pytest

from speechde.errors import AssetError
from speechde.scoring import evaluate
from speechde.training.stage import inherit


def test_a_model_without_a_record_of_training(tiny_run, tiny_model, tmp_path):
    folder = copytree(tiny_model(), tmp_path / "model")
    file = folder / "speechde.json"
    settings = json.loads(file.read_text("utf-8"))
    del settings["training"]
    file.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(AssetError, match=r"no record of training \(training lacks recipe, mode, seed, seen in .*"):
        evaluate(tiny_run(), folder)
    with pytest.raises(AssetError, match="give a model folder that a training run wrote"):
        inherit({"init": str(folder)})
