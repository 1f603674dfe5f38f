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
from mteb.types import PromptType
from typer.testing import CliRunner

from speechde.checkpoint.folder import TrainedModel
from speechde.cli import mteb as command
from speechde.errors import AssetError, ConfigError, DataError
from speechde.evaluation import mteb as adapter
from speechde.evaluation.run import evaluate_model
from speechde.features.sets import build_encoder, evaluation_items
from speechde.media.audio import load_audio
from speechde.training.directory import run_directory
from speechde.training.run import train
from speechde.types import SAMPLE_RATE, Audio, Item, Text

MOCK_TASKS = (MockAny2AnyRetrievalA2ATask, MockAny2AnyRetrievalA2TTask, MockAny2AnyRetrievalT2ATask,
              MockBitextMiningTask, MockMultilingualRetrievalTask)  # fmt: skip
# rows of decoded audio; datasets' own Audio feature needs FFmpeg
DECODED = {"path": datasets.Value("string"), "array": datasets.List(datasets.Value("float32")),
           "sampling_rate": datasets.Value("int64")}  # fmt: skip


@pytest.fixture(params=["stamps", "quickstart_narrow"])
def run(request, tiny_run):
    """A trained model in its run directory: one of units, and one of frames."""
    return trained(tiny_run(request.param, frontend__mean_norm=0.5))


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
    encoder = build_encoder(config.frontend)
    items = evaluation_items(model.settings.speech, encoder, model.quantiser, utterances, folder / "cache")
    langs = sorted({u.lang for u in utterances})
    return evaluate_model(model, items, utterances, roles={"seen": langs, "zero_shot": ()})[0]


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


def rows_of(clips):
    return [{"array": clip, "sampling_rate": SAMPLE_RATE} for clip in clips]


def test_rows_of_both_kinds(run):
    encoder = adapter.MtebEncoder(str(run[1]))
    batch = {"audio": rows_of(np.random.default_rng(0).normal(size=(2, SAMPLE_RATE)).astype(np.float32)),
             "text": ["a", "b"]}  # fmt: skip
    options = {"hf_split": "test", "hf_subset": "ro_ro"}

    def encode(task, features, **more):
        rows = Loader([{key: batch[key] for key in features}], *features)
        return encoder.encode(rows, task_metadata=mteb.get_task(task).metadata, **options, **more)

    for task, modality in (("FleursA2TRetrieval.v2", "audio"), ("FleursT2ARetrieval.v2", "text")):
        alone = encode(task, [modality], prompt_type=PromptType.query)
        np.testing.assert_array_equal(encode(task, ["audio", "text"], prompt_type=PromptType.query), alone)
    samples = encode("SpeechCommandsZeroshotv0.02", ["audio", "text"])
    np.testing.assert_array_equal(samples, encode("SpeechCommandsZeroshotv0.02", ["audio"]))
    mixed = encode("CLDAT2ARetrieval", ["audio", "text"], prompt_type=PromptType.query)
    rows = zip(batch["text"], batch["audio"], strict=True)
    items = [Item(Text(text), Audio(row["array"], SAMPLE_RATE), lang="ro_ro") for text, row in rows]
    np.testing.assert_array_equal(mixed, encoder.encoder.embed(items))
    with pytest.raises(DataError, match=r"rows of label, and its category is at2a: "):
        encoder.encode(Loader([], "label"), task_metadata=mteb.get_task("CLDAT2ARetrieval").metadata, **options)


def test_each_side_has_its_language(run):
    """Questions and documents of a cross-lingual subset, in prefixes and not only in ``language_of``."""
    encoder = adapter.MtebEncoder(str(run[1]))
    task = mteb.get_task("BelebeleRetrieval").metadata
    for side, lang in ((PromptType.query, "en_us"), (PromptType.document, "hi_in"), (None, None)):
        found = encoder.encode(
            Loader([{"text": ["a few words"]}], "text"), task_metadata=task, hf_split="test",
            hf_subset="hin_Deva-eng_Latn", prompt_type=side,
        )  # fmt: skip
        np.testing.assert_array_equal(found, encoder.encoder.encode_text(["a few words"], lang))
    langs, prompt = ("en_us", "hi_in", None), encoder.encoder.trained.prompt
    texts = {encoder.encoder.encode_text("a few words", lang).tobytes() for lang in langs}
    assert len(texts) == len({prompt.prefix("text", lang) for lang in langs})  # E5's own prefix names no language


def test_no_clip_is_cut(run):
    encoder = adapter.MtebEncoder(str(run[1]))
    options = {"task_metadata": mteb.get_task("FleursA2TRetrieval.v2").metadata, "hf_split": "test"}
    clips = np.random.default_rng(0).normal(size=(2, 3 * SAMPLE_RATE)).astype(np.float32)
    clips[1, : 2 * SAMPLE_RATE] = clips[0, : 2 * SAMPLE_RATE]  # the last second differs
    loader = Loader([{"audio": rows_of(clips)}], "audio")
    first, second = encoder.encode(loader, hf_subset="ro_ro", **options)
    assert np.abs(first - second).max() > 1e-4
    assert encoder.mteb_model_meta.max_tokens == encoder.encoder.trained.prompt.max_tokens == 128


SIDES = (PromptType.query, PromptType.document, None)


@pytest.mark.parametrize(
    ("task", "subset", "query", "document", "neither"),
    [
        ("FleursA2TRetrieval.v2", "ro_ro", "ro_ro", "ro_ro", "ro_ro"),
        ("FleursA2TRetrieval.v2", "default", None, None, None),
        ("GoogleSVQA2TRetrieval", "ar_x_gulf", "ar_eg", "ar_eg", "ar_eg"),
        ("SciFact", "default", "en_us", "en_us", "en_us"),
        ("MKQARetrieval", "no", "nb_no", "nb_no", "nb_no"),
        ("BelebeleRetrieval", "hin_Deva-eng_Latn", "en_us", "hi_in", None),
        ("BelebeleRetrieval", "acm_Arab-eng_Latn", "en_us", None, None),
        ("BelebeleRetrieval", "fra_Latn-fra_Latn", "fr_fr", "fr_fr", "fr_fr"),
        ("MLQARetrieval", "ara-deu", "de_de", "ar_eg", None),
        ("CUREv1", "es", "es_419", "en_us", None),
        ("CrossLingualSemanticDiscriminationWMT19", "deu-fra", "de_de", "fr_fr", None),
        ("XModBenchAT2TReranking", "at2t", None, None, None),  # both languages on both sides
        ("STS17", "en-de", None, None, None),
        ("Tatoeba", "deu-eng", None, None, None),
        ("FloresBitextMining", "deu_Latn", "de_de", "de_de", "de_de"),  # a column of parallel ones
        ("FleursA2TRetrieval.v2", "hi-en", None, None, None),  # not listed by the task
        ("FleursA2TRetrieval.v2", "fr-CA", "fr_fr", "fr_fr", "fr_fr"),
    ],
)
def test_language_of_a_subset_and_a_side(task, subset, query, document, neither):
    metadata = mteb.get_task(task).metadata
    assert [adapter.language_of(metadata, subset, side) for side in SIDES] == [query, document, neither]


def test_every_fleurs_subset_is_its_own_language():
    metadata = mteb.get_task("FleursA2TRetrieval.v2").metadata
    assert [adapter.language_of(metadata, subset) for subset in metadata.hf_subsets] == metadata.hf_subsets


def test_tasks_whose_order_is_known_exist():
    for name in adapter.ORDERS:
        assert any(len(set(langs)) == 2 for langs in mteb.get_task(name).metadata.eval_langs.values())


def test_the_command_can_be_registered():
    app = typer.Typer()
    app.command()(command.mteb)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "NO_COLOR": "1"}).output
    assert "RUN" in shown and "--tasks" in shown and "--langs" in shown and "--output" in shown
    assert CliRunner().invoke(app, ["run"]).exit_code == 2, "tasks must be given"


@pytest.mark.parametrize(
    ("tasks", "langs", "message"),
    [
        (["FleursA2T"], None, r"'FleursA2T' is not known; the nearest of 1,\d+ are: FleursA2TRetrieval\.v2"),
        (["FleursA2T.v2"], None, r"nearest .* are: .*FleursA2TRetrieval\.v2"),
        (["SciFact", "fleurs_t2a_retrieval"], None, r"nearest .* are: FleursT2ARetrieval\.v2"),
        (["qqqqqqqqqqqqqqqq"], None, "are: none$"),
        (["FleursA2TRetrieval.v2"], ["qq_qq"], r"subset of FleursA2TRetrieval\.v2: 'qq_qq' is not known; .*ro_ro"),
        (["FleursA2TRetrieval.v2"], ["ro_ro", "ro_r"], "Did you mean 'ro_ro'"),
        (["SciFact"], ["ro_ro"], "subset of SciFact: 'ro_ro' is not known; allowed: default"),
    ],
)
def test_tasks_and_subsets_that_there_are_not(tmp_path, tasks, langs, message):
    """Said before a model is read, or data are fetched."""
    with pytest.raises(ConfigError, match=message):
        command.mteb(tmp_path, tasks, langs=langs)


def test_no_model(tmp_path):
    with pytest.raises(AssetError, match="not a trained model"):
        adapter.MtebEncoder(str(tmp_path))
