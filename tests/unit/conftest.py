"""Runs as evaluation leaves them, without a model; and model folders, without a run.

The runs have vectors of a chosen noise, scored and written by the real code. The models were never trained, over a tiny
LLM and a tiny Whisper encoder: all that is asked of them is that every way to them gives the same vectors.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer

from speechde.cache import sha256_file
from speechde.checkpoint.folder import TrainedModel, assemble
from speechde.checkpoint.settings import Settings
from speechde.corpora import benchmarks, ntrex, public
from speechde.evaluation.speech import data_counts, evaluate_speech
from speechde.features.encoders import load_speech_encoder
from speechde.features.kmeans import fit_kmeans
from speechde.features.units import Quantiser
from speechde.features.vision import VisionEncoder
from speechde.features.windows import FORCED
from speechde.models.backbone import Backbone
from speechde.models.frontends import base, units
from speechde.models.prompt import Prompt
from speechde.reporting import report
from speechde.training import lit_module
from speechde.types import Utterance

SEEN, ZERO_SHOT = ("ca_es", "fr_fr"), ("ro_ro",)


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """What embedding keeps of its clips does not go to the user's cache."""
    monkeypatch.setenv("SPEECHDE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module", autouse=True)
def float32_everywhere():
    """Without a dtype, float32 on every processor: the tolerances of these tests are those of float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FORCED, "0")
        yield


@pytest.fixture
def another_user(tmp_path):
    """``with another_user():`` files of mode 0 cannot be read, also where tests run as root, who may read all."""

    @contextmanager
    def become():
        root = os.geteuid() == 0
        for folder in [folder for folder in (tmp_path, *tmp_path.parents) if root and not folder.stat().st_mode & 1]:
            folder.chmod(0o755)
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return become


@pytest.fixture(scope="session")
def write_run():
    """``write_run(folder, noise=…, seed=…, overrides=…)`` writes ``folder/results`` and returns ``folder``."""

    def write(folder, noise=0.5, seed=0, recipe="tiny", overrides="default", langs=(*SEEN, *ZERO_SHOT), **facts):
        rng = np.random.default_rng(seed)
        utterances = [
            Utterance(f"{lang}-{i}", lang, f"text {i}", "", str(i), "test") for lang in langs for i in range(12)
        ]
        vectors = np.tile(np.eye(12), (len(langs), 1))
        spoken = vectors + noise * rng.normal(size=vectors.shape)
        table = dict(zip([u.id for u in utterances], spoken, strict=True)) | {
            f"text {i}": np.eye(12)[i] for i in range(12)
        }
        roles = {"seen": [x for x in SEEN if x in langs], "zero_shot": [x for x in ZERO_SHOT if x in langs]}
        scores, records = evaluate_speech(
            utterances, lambda items, role: np.stack([table[item.id] for item in items]), **roles
        )
        data = {"corpus": "made up", "train": {"recordings": 20, "synthetic": 5}}
        data["test"] = data_counts(utterances)
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


@pytest.fixture(scope="session")
def written_runs(write_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "runs"
    for seed in (0, 1):
        write_run(folder / f"tiny/default-s{seed}", 0.3, seed)
        write_run(folder / f"tiny/x:1-s{seed}", 1.5, seed, overrides="x:1")
    write_run(folder / "tiny/data.seen:_fr_fr_-s0", 0.3, langs=("fr_fr", "ro_ro"), overrides="data.seen:[fr_fr]")
    return folder


@pytest.fixture
def runs(written_runs, tmp_path):
    """A recipe with two seeds, a worse variant of it with the same seeds, and one trained on fewer languages."""
    return shutil.copytree(written_runs, tmp_path / "runs")


FRONTENDS = {
    "discrete": {"kind": "discrete", "units": 12, "drop": 0.0, "drop_span": 1},
    "continuous": {"kind": "continuous", "frame_dim": 6, "embedding_std": 1.0, "hidden": 8, "stride": 2, "layers": 1,
                   "heads": 2, "dropout": 0.1, "drop": 0.0, "drop_span": 1, "noise": 0.0},
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_settings():
    """``tiny_settings(kind, head={"dim": 5}, attention="causal")`` → settings that differ by that from the smallest."""

    def build(kind="discrete", **changes):
        values = {
            "frontend": FRONTENDS[kind],
            "attention": "bidirectional",
            "head": {"dim": 8, "projection_init": "random", "normalise": True},
            "prefix": {"mode": "name", "speech": "[{language} Speech] ", "text": "[{language} Text] "},
            "speech": {"encoder": "packaged:whisper-base-encoder", "encoder_key": {}, "layer": -1, "rate": 25.0,
                       "trim_db": 40.0, "mean_norm": 0.5, "deduplicate": False, "bpe": None},
        }  # fmt: skip
        for name, own in changes.items():
            values[name] = values.get(name, {}) | own if isinstance(own, dict) else own
        return Settings.from_json(values, "a test")

    return build


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tiny_llm, tiny_whisper, tiny_vision, tiny_settings):
    """``tiny_model(kind, llm="…", dims=[8, 5], prompts={…}, sees=True, **head)`` → folder of a model of that kind.

    ``sees`` is the stride of the patches, 1 where it is true.
    """
    folders = {}

    def build(kind="continuous", llm=None, dims=(), prompts=None, sees=False, **head):
        key = (kind, llm, tuple(dims), *(prompts or {}).items(), sees, *head.items())
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("models") / kind
            write(
                folders[key],
                kind == "discrete",
                tiny_llm(llm or ("gemma3_text" if kind == "discrete" else "bert")),
                head,
                {"dims": list(dims), "prompts": dict(prompts or {})} | (seeing(head, int(sees)) if sees else {}),
            )
        return folders[key]

    def seeing(head, stride):
        encoder = VisionEncoder(tiny_vision)
        patches = {"patch_dim": encoder.dim, "embedding_std": 1.0, "hidden": 8, "layers": 1, "heads": 2,
                   "dropout": 0.1, "drop": 0.0, "stride": stride,
                   "entry_layer": head.get("speech_layer", 0)}  # fmt: skip
        return {"patches": patches, "image": {"encoder": str(tiny_vision), "encoder_key": encoder.describe()}}

    def write(folder, discrete, llm, head, options):
        torch.manual_seed(3)
        encoder = load_speech_encoder(tiny_whisper)
        settings = tiny_settings(
            "discrete" if discrete else "continuous",
            frontend={"units": 8} if discrete else {"frame_dim": encoder.dim},
            head=head,
            **options,
            speech={"encoder": str(tiny_whisper), "encoder_key": encoder.describe()},
            training={"recipe": "tiny", "mode": "modern", "seed": 3, "seen": ["es_419", "fr_fr"],
                      "zero_shot": ["ro_ro"], "commit": "0123abc"},
        )  # fmt: skip
        frames = np.random.default_rng(0).normal(size=(200, encoder.dim)).astype(np.float32)
        quantiser = Quantiser(fit_kmeans(frames, 8), deduplicate=False) if discrete else None
        model = assemble(Backbone.load(llm).model, settings).eval()
        prompt = Prompt(AutoTokenizer.from_pretrained(llm), **asdict(settings.prefix), named=settings.prompts)
        TrainedModel(model, prompt, quantiser, settings).save(folder)

    return build


@pytest.fixture
def public_folder(monkeypatch):
    """Tiny replicas of the public text files, and the table that pins them."""
    folder = Path(__file__).parents[1] / "data" / "public"
    pins = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        pins[name] = public.Pinned("us/repo", "0abc", name, "CC0-1.0", sha256_file(path))
    for module in (public, ntrex, benchmarks):
        monkeypatch.setattr(module, "pinned", lambda: pins)
    return folder


READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero")


class OnDevice(TorchDispatchMode):
    """Refuses to read a number from what stands for a tensor of a GPU: all but the lengths."""

    def __torch_dispatch__(self, function, _, arguments=(), options=None):
        if function._schema.name in READS and not self.known(arguments[0]):
            raise AssertionError(f"{function} waits for the device")
        out = function(*arguments, **(options or {}))
        if isinstance(out, torch.Tensor) and any(isinstance(a, torch.Tensor) and self.known(a) for a in arguments):
            out.of_lengths = True
        return out

    @staticmethod
    def known(tensor):
        return getattr(tensor, "of_lengths", False)


@pytest.fixture
def as_on_a_device(monkeypatch):
    """``with as_on_a_device(*inputs):`` tensors pass for those of a GPU; only lengths of ``inputs`` may be read."""

    def start(*known):
        for module in (base, units, lit_module):
            monkeypatch.setattr(module, "on_host", lambda _: False)
        for column in (column for inputs in known for _, column in inputs.columns):
            column.lengths.of_lengths = True
        return OnDevice()

    return start
