"""The mteb encoder: mteb's own mock tasks, its FLEURS task on a local replica, and our scores on the same data."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import datasets
import mteb
import numpy as np
import pytest
import typer
from mteb.mocks import (
    MockAny2AnyRetrievalA2ATask,
    MockAny2AnyRetrievalA2TTask,
    MockAny2AnyRetrievalT2ATask,
    MockBitextMiningTask,
    MockMultilingualRetrievalTask,
)
from mteb.models.models_protocols import EncoderProtocol
from typer.testing import CliRunner

from speechde.cli import mteb as command
from speechde.data.audio import load_audio
from speechde.errors import AssetError, ConfigError, DataError
from speechde.evaluation import mteb as adapter
from speechde.evaluation.run import evaluate_model
from speechde.export.folder import TrainedModel
from speechde.training import stages
from speechde.training.run import run_directory, train
from speechde.types import SAMPLE_RATE

MOCK_TASKS = (MockAny2AnyRetrievalA2ATask, MockAny2AnyRetrievalA2TTask, MockAny2AnyRetrievalT2ATask,
              MockBitextMiningTask, MockMultilingualRetrievalTask)  # fmt: skip
# rows of decoded audio; datasets' own Audio feature needs FFmpeg
DECODED = {"path": datasets.Value("string"), "array": datasets.List(datasets.Value("float32")),
           "sampling_rate": datasets.Value("int64")}  # fmt: skip


@pytest.fixture
def run(tiny_run):
    """A trained model in its run directory."""
    return trained(tiny_run("stamps_continuous", frontend__mean_norm=0.5))


def trained(config):
    train(config)
    return config, run_directory(config)


@pytest.fixture
def fleurs(clips, monkeypatch):
    """mteb's FLEURS tasks read the test clips in place of the hub."""
    columns = {"id": "string", "transcription": "string"}
    features = datasets.Features({key: datasets.Value(kind) for key, kind in columns.items()} | {"audio": DECODED})

    def load_dataset(path, lang, revision):
        rows = [
            {"id": u.text, "transcription": u.text,
             "audio": {"path": u.audio, "array": load_audio(u.audio), "sampling_rate": SAMPLE_RATE}}
            for u in clips if u.lang == lang and u.split == "test"
        ]  # fmt: skip
        return datasets.DatasetDict(test=datasets.Dataset.from_list(rows, features=features))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def own_scores(config, folder, utterances):
    """As ``evaluate.py`` scores them, through stored features."""
    model = TrainedModel.load(folder / "model")
    encoder = stages.build_encoder(config.frontend)
    items = stages.evaluation_items(model.settings, encoder, model.quantiser, utterances, folder / "cache")
    langs = sorted({u.lang for u in utterances})
    return evaluate_model(model, items, utterances, seen=langs, zero_shot=())[0]


def test_fleurs_task_gives_our_recall(run, clips, fleurs, capsys):
    config, folder = run
    command.mteb(folder, ["FleursA2TRetrieval.v2", "FleursT2ARetrieval.v2"], langs=["fr_fr", "ro_ro"])
    test = [u for u in clips if u.split == "test" and u.lang in ("fr_fr", "ro_ro")]
    own = own_scores(config, folder, test)
    files = {path.stem: path for path in (folder / "mteb").rglob("Fleurs*.json")}
    for task, direction in (("FleursA2TRetrieval.v2", "audio_to_text"), ("FleursT2ARetrieval.v2", "text_to_audio")):
        result = mteb.results.TaskResult.from_disk(files[task])
        found = {row["hf_subset"]: row["hit_rate_at_1"] for row in result.scores["test"]}
        ours = {lang: round(row["recall@1"], 5) for lang, row in own[direction]["per_language"].items()}
        assert found == ours
    assert "FleursA2TRetrieval.v2: " in capsys.readouterr().out


def test_mock_tasks_of_text_and_audio(run, monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("mteb.mocks.mock_tasks.") and hasattr(module, "Audio"):
            monkeypatch.setattr(module, "Audio", lambda: {key: DECODED[key] for key in ("array", "sampling_rate")})
    encoder = adapter.MtebEncoder(str(run[1]))
    assert isinstance(encoder, EncoderProtocol)
    results = mteb.evaluate(encoder, [task() for task in MOCK_TASKS], cache=None, show_progress_bar=False)
    assert len(results.task_results) == len(MOCK_TASKS)


class Loader(list):
    """Batches, and the features of their rows."""

    def __init__(self, batches, *features):
        super().__init__(batches)
        self.dataset = SimpleNamespace(features=features)


def test_no_clip_is_cut_and_no_row_is_of_both_kinds(run):
    encoder = adapter.MtebEncoder(str(run[1]))
    options = {"task_metadata": mteb.get_task("FleursA2TRetrieval.v2").metadata, "hf_split": "test"}
    clips = np.random.default_rng(0).normal(size=(2, 3 * SAMPLE_RATE)).astype(np.float32)
    clips[1, : 2 * SAMPLE_RATE] = clips[0, : 2 * SAMPLE_RATE]  # the last second differs
    rows = [{"array": clip, "sampling_rate": SAMPLE_RATE} for clip in clips]
    first, second = encoder.encode(Loader([{"audio": rows}], "audio"), hf_subset="ro_ro", **options)
    assert np.abs(first - second).max() > 1e-4
    assert encoder.mteb_model_meta.max_tokens == encoder.encoder.trained.prompt.max_tokens == 128
    with pytest.raises(DataError, match="rows of audio, text"):
        encoder.encode(Loader([], "audio", "text"), hf_subset="ro_ro", **options)


def test_language_of_a_subset():
    fleurs_task, text_task = (mteb.get_task(n).metadata for n in ("FleursA2TRetrieval.v2", "SciFact"))
    assert adapter.language_of(fleurs_task, "ro_ro") == "ro_ro"
    assert adapter.language_of(fleurs_task, "default") is None
    assert adapter.language_of(text_task, "default") == "en_us"


def test_the_command_can_be_registered():
    app = typer.Typer()
    app.command()(command.mteb)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).output
    assert "RUN" in shown and "--tasks" in shown and "--langs" in shown and "--output" in shown
    assert CliRunner().invoke(app, ["run"]).exit_code == 2, "tasks must be given"


def test_unknown_task_and_no_model(tmp_path):
    with pytest.raises(ConfigError, match=r"'FleursA2T'.*FleursA2TRetrieval\.v2"):
        command.mteb(tmp_path, ["FleursA2T"])
    with pytest.raises(AssetError, match="not a trained model"):
        adapter.MtebEncoder(str(tmp_path))
