"""Models that were never trained, and runs as evaluation leaves them: real code throughout, and no training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from speechde.evaluation import protocol, report
from speechde.export.folder import TrainedModel, assemble
from speechde.frontends.encoders import load_speech_encoder
from speechde.frontends.units import Quantiser, fit_kmeans
from speechde.models.backbone import Backbone
from speechde.models.prompt import Prompt
from speechde.types import Utterance

SEEN, ZERO_SHOT = ("ca_es", "fr_fr"), ("ro_ro",)


@pytest.fixture
def write_run():
    """``write_run(folder, noise=…, seed=…, overrides=…)`` writes ``folder/results`` and returns ``folder``."""

    def write(folder, noise=0.5, seed=0, recipe="tiny", overrides="default", langs=(*SEEN, *ZERO_SHOT), **facts):
        rng = np.random.default_rng(seed)
        utterances = [
            Utterance(f"{lang}-{i}", lang, f"text {i}", "", str(i), "test") for lang in langs for i in range(12)
        ]
        vectors = np.tile(np.eye(12), (len(langs), 1))
        speech = vectors + noise * rng.normal(size=vectors.shape)
        roles = {"seen": [x for x in SEEN if x in langs], "zero_shot": [x for x in ZERO_SHOT if x in langs]}
        scores, records = protocol.evaluate(utterances, speech, protocol.unique_texts(utterances), vectors, **roles)
        data = {"corpus": "made up", "train": {"recordings": 20, "synthetic": 5}}
        data["test"] = protocol.data_counts(utterances)
        metrics = {
            "recipe": recipe, "overrides": overrides, "mode": "modern", "seed": seed, "commit": "0123abc",
            "hardware": "a machine", "command": f"python train.py recipe={recipe} seed={seed}", "dev_recall@1": 0.5,
            "data": data, "wall_seconds": dict.fromkeys(report.STAGES, 1.0),
            "curves": [{"step": 10, "train_loss": 2.0, "dev_recall@1": 0.2}, {"step": 20, "dev_recall@1": 0.5}],
        }  # fmt: skip
        report.write_report(folder / "results", metrics | scores | facts)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "results/queries.jsonl").write_text(lines, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def runs(write_run, tmp_path):
    """A recipe with two seeds, a worse variant of it with the same seeds, and one trained on fewer languages."""
    for seed in (0, 1):
        write_run(tmp_path / f"runs/tiny/default-s{seed}", 0.3, seed)
        write_run(tmp_path / f"runs/tiny/x:1-s{seed}", 1.5, seed, overrides="x:1")
    write_run(tmp_path / "runs/tiny/data.seen:_fr_fr_-s0", 0.3, langs=("fr_fr", "ro_ro"), overrides="data.seen:[fr_fr]")
    return tmp_path / "runs"


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
