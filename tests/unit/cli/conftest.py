"""The command line in this process, and tiny models that were never trained: a folder is all that commands need."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from speechde.cli import main as cli
from speechde.export.folder import TrainedModel, assemble
from speechde.frontends.encoders import load_speech_encoder
from speechde.frontends.units import Quantiser, fit_kmeans
from speechde.models.backbone import Backbone
from speechde.models.prompt import Prompt


def save_model(folder, llm, whisper, discrete=False, seed=3):
    """An untrained model of the real layout over a tiny LLM and a tiny Whisper encoder."""
    torch.manual_seed(seed)
    encoder = load_speech_encoder(whisper, layer=-1, device="cpu")
    frontend = {"kind": "discrete", "units": 8, "drop": 0.0, "drop_span": 1}
    if not discrete:
        frontend = {"kind": "continuous", "frame_dim": encoder.dim, "embedding_std": 1.0, "hidden": 8, "stride": 2,
                    "layers": 1, "heads": 2, "dropout": 0.0, "drop": 0.0, "drop_span": 1, "noise": 0.0}  # fmt: skip
    prefix = {"mode": "name", "speech": "[{language} Speech] ", "text": "[{language} Text] "}
    settings = {
        "frontend": frontend,
        "attention": "bidirectional",
        "head": {"dim": 8, "projection_init": "random", "normalise": True},
        "prefix": prefix,
        "speech": {"encoder": str(whisper), "layer": -1, "rate": 25.0, "trim_db": 40.0, "mean_norm": 0.0,
                   "deduplicate": True, "bpe": None, "encoder_key": encoder.describe()},
        "training": {"recipe": "tiny", "seed": seed, "seen": ["fr_fr"]},
    }  # fmt: skip
    frames = np.random.default_rng(0).normal(size=(200, encoder.dim)).astype(np.float32)
    quantiser = Quantiser(fit_kmeans(frames, 8), deduplicate=True) if discrete else None
    model = assemble(Backbone.load(llm).model, settings).eval()
    TrainedModel(model, Prompt(AutoTokenizer.from_pretrained(llm), **prefix), quantiser, settings).save(folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_llm, tiny_whisper):
    """Folders of a ``continuous`` model, of ``another`` of the same shape, and of a ``discrete`` one."""
    root, llm = tmp_path_factory.mktemp("models"), tiny_llm("bert")
    return SimpleNamespace(
        continuous=save_model(root / "continuous", llm, tiny_whisper),
        another=save_model(root / "another", llm, tiny_whisper, seed=4),
        discrete=save_model(root / "discrete", tiny_llm("gemma3_text"), tiny_whisper, discrete=True),
    )


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """What ``--json`` printed."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys, monkeypatch):
    """``run("embed", …, stdin=b"…")`` → ``Done``: exit code and what was printed."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments, stdin=b""):
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return call
