"""A run directory is only gone on with by the run that it holds; what is damaged is said, or done again."""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import asdict, replace

import pytest
import torch
from filelock import FileLock

from speechde.config import DataConfig
from speechde.corpora.bitext import TextPair
from speechde.corpora.fingerprint import PLACES, sources
from speechde.corpora.manifest import write_manifest
from speechde.errors import ConfigError, DataError
from speechde.reporting.results import control_runs
from speechde.training import identity, prepare, run
from speechde.training.checkpoints import to_resume
from speechde.training.finished import finished
from speechde.training.recall import DevRecall


def set_(config, name, value):
    """A configuration with one setting changed, by its dotted name."""
    group, _, rest = name.partition(".")
    return replace(config, **{group: set_(getattr(config, group), rest, value) if rest else value})


@pytest.fixture
def stop_in_the_second_epoch(monkeypatch):
    real, calls = DevRecall.__call__, []

    def stop(self, model):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, model)

    monkeypatch.setattr(DevRecall, "__call__", stop)


@pytest.fixture
def done(tiny_run):
    config = tiny_run()
    return config, run.train(config), run.run_directory(config)


def test_a_finished_run_of_another_recipe_or_corpus_is_refused(done, clips, tmp_path):
    config, metrics, directory = done
    for name, value, told in (
        ("optim.lr", 0.5, f"optim.lr: {config.optim.lr} → 0.5"),
        ("loss.temperature", 0.1, "loss.temperature: None → 0.1"),
        ("data.seen", ["fr_fr"], r"data.seen: \['es_419', 'fr_fr'\] → \['fr_fr'\]"),
    ):
        with pytest.raises(ConfigError, match=f"holds another run than is asked for:\n  {told}\nundo the change, train "
                           rf"it elsewhere \(run_name=NAME\), or delete {directory}"):  # fmt: skip
            run.train(set_(config, name, value))
    with pytest.raises(ConfigError, match=r"resume it \(trainer\.resume=true\), or delete it"):
        run.train(set_(config, "trainer.resume", False))
    before = (directory / "results/metrics.json").read_bytes()
    write_manifest([replace(u, text="autre") if u.id == "fr_fr-train-0" else u for u in clips], config.data.path)
    with pytest.raises(ConfigError, match=r"\n  data\.train: \w{16} → \w{16}\n"):
        run.train(config)
    assert (directory / "results/metrics.json").read_bytes() == before
    write_manifest([u for u in clips if u.id != "fr_fr-test-0"], config.data.path)  # the same model, fewer queries
    again = run.train(config)
    assert (metrics["data"]["test"]["recordings"], again["data"]["test"]["recordings"]) == (9, 8)
    assert finished(config, directory)["data"]["test"]["recordings"] == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trainer.devices", 2),
        ("trainer.micro_batch", 2),
        ("trainer.save_every", 1),
        ("model.gradient_checkpointing", True),
        ("eval.baselines", ["chance"]),
        ("eval.split", "dev"),
        ("data.path", "moved.jsonl"),
        ("runs_dir", "elsewhere"),
    ],
)
def test_how_and_where_may_change(tiny_run, tmp_path, name, value):
    config = tiny_run()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    before = identity.of_config(config)
    (tmp_path / identity.FILE).write_text(json.dumps(before), encoding="utf-8")
    identity.check(tmp_path, identity.of_config(set_(config, name, value)))
    assert json.loads((tmp_path / identity.FILE).read_text("utf-8")) == before


def test_a_killed_run_is_not_gone_on_with_after_another_clip(tiny_run, clips, tmp_path, stop_in_the_second_epoch):
    """The units of a quantiser that was fitted again are other sounds."""
    config = tiny_run()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.train(config)
    last = run.run_directory(config) / "checkpoints/last.ckpt"
    weights = last.read_bytes()
    longer = next(u for u in clips if u.id == "ro_ro-test-2")
    more = replace(longer, id="more", lang="fr_fr", split="train", text="encore", sentence_id="encore")
    write_manifest([*clips, more], config.data.path)
    with pytest.raises(ConfigError, match=r"\n  data\.train: .*\n  quantiser: ") as error:
        run.train(config)
    assert "data.dev" not in str(error.value) and "frozen weights" not in str(error.value)
    assert last.read_bytes() == weights
    write_manifest(clips, config.data.path)
    run.train(config)


def test_what_a_run_is_depends_on_what_no_checkpoint_holds(tiny_run, clips, monkeypatch):
    config, seen = tiny_run(), []
    real = identity.of_run
    monkeypatch.setattr(identity, "of_run", lambda *given: seen.append(given) or real(*given))
    run.train(config)
    of, (_, parts, seconds, pairs, built) = real, seen[0]
    known = of(config, parts, seconds, pairs, built)
    assert known == of(config, parts, seconds, pairs, built)
    pair = [TextPair("fr_fr", "chat", "cat", 1.0, "")]
    assert of(config, parts, seconds, pair, built)["translations"] != known["translations"]
    longer = seconds | {"fr_fr-train-0": 9.0}
    assert of(config, parts, longer, pairs, built)["data"]["train"] != known["data"]["train"]
    frozen = next(p for p in built.model.parameters() if not p.requires_grad)
    frozen.data += 1
    assert of(config, parts, seconds, pairs, built)["frozen weights"] != known["frozen weights"]


def test_a_run_of_before_is_compared_by_its_model(done):
    config, _, directory = done
    (directory / identity.FILE).unlink()
    assert finished(config, directory) is not None
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        run.train(set_(config, "optim.lr", 0.5))
    (directory / "model").rename(directory / "gone")
    with pytest.raises(ConfigError, match="of a version that did not record what it is, half done"):
        run.train(config)


def test_damaged_files_are_named_or_done_without(done, caplog):
    config, metrics, directory = done
    (directory / "wall_seconds.json").write_text('{"total": ', encoding="utf-8")
    (directory / "checkpoints/last.ckpt").write_bytes(b"PK\3\4 cut")
    again = run.train(set_(config, "eval.baselines", ["chance"]))
    assert again["audio_to_text"] == metrics["audio_to_text"]
    assert "wall_seconds.json is damaged" in caplog.text and "last.ckpt is damaged" in caplog.text
    path = directory / "results/metrics.json"
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(DataError, match=f"{path} is damaged .* delete {directory}/results, and run the command"):
        run.train(config)
    neighbour = directory.parent / "x-s0"
    assert control_runs(neighbour) == {}
    path.unlink()
    for name in ("best", "last"):
        (directory / f"checkpoints/{name}.ckpt").write_bytes(b"PK\3\4 cut")
    with pytest.raises(DataError, match=f"ckpt is damaged .* delete {directory} and train again"):
        to_resume(directory / "checkpoints")
    (directory / identity.FILE).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json is damaged"):
        run.train(config)


def test_a_damaged_control_run_costs_a_column_and_not_the_results(tmp_path, caplog):
    results = tmp_path / "model.init:random-s0/results"
    results.mkdir(parents=True)
    (results / "metrics.json").write_text("{", encoding="utf-8")
    assert control_runs(tmp_path / "default-s0") == {} and "is damaged" in caplog.text


def test_weights_that_a_checkpoint_lacks_are_missed(tiny_run, stop_in_the_second_epoch):
    """They would keep their initial values."""
    config = tiny_run()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.train(config)
    path = run.run_directory(config) / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["model.projection.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(ConfigError, match=r"lacks model\.projection\.weight"):
        run.train(config)


def test_two_commands_do_not_write_one_run(tiny_run):
    config = tiny_run()
    directory = run.run_directory(config)
    directory.mkdir(parents=True)
    with FileLock(directory / ".lock"), pytest.raises(ConfigError, match=f"another process works on {directory}"):
        run.train(config)
    assert not (directory / "checkpoints").exists()
    run.train(config)


@pytest.mark.parametrize("folder", ["runs_dir", "report_dir", "archive_dir"])
def test_where_nothing_can_be_written_nothing_is_encoded(tiny_run, tmp_path, monkeypatch, folder):
    (tmp_path / "file").touch()
    monkeypatch.setattr(prepare, "training_frames", lambda *_, **__: pytest.fail("clips were encoded"))
    with pytest.raises(ConfigError, match=f"cannot write results to {tmp_path}/file/x"):
        run.train(tiny_run(**{folder: str(tmp_path / "file/x")}))


def test_every_place_of_data_is_known_as_one():
    """One that is not would be part of what a run is, and the same package elsewhere another run."""

    def places(schema, prefix=""):
        for name, kind in typing.get_type_hints(schema).items():
            if dataclasses.is_dataclass(kind):
                yield from places(kind, f"{prefix}{name}.")
            elif schema.__dataclass_fields__[name].metadata.get("path"):
                yield prefix + name

    assert set(places(DataConfig)) == set(PLACES)


def test_sources(tiny_run, tmp_path):
    config = tiny_run()
    before = sources(config)
    assert set(before) == {"data.path", "data.translations.root"}
    (tmp_path / "bitext/more.tsv").touch()
    after = sources(config)
    assert after["data.path"] == before["data.path"]
    assert after["data.translations.root"] != before["data.translations.root"]
    assert sources(set_(config, "data.path", None)).keys() == {"data.translations.root"}


def test_lora_is_merged_whether_the_model_was_saved_now_or_before(tiny_run):
    config = tiny_run("quickstart_narrow", model__lora={**asdict(tiny_run().model.lora), "rank": 2})
    first = run.train(config)
    again = run.train(set_(config, "eval.baselines", ["chance"]))
    rows = [metrics["audio_to_text"]["per_language"] for metrics in (first, again)]
    assert rows[0] == rows[1]
    queries = run.run_directory(config) / "results/queries.jsonl"
    assert queries.is_file()
